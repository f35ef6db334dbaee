"""End a driver whose raylet is gone with a line of its own; Ray ends it 15 s later, with its log for an explanation."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_SECONDS = 0.25


@contextmanager
def watched(process: int | None, say: Callable[[str], None]) -> Iterator[None]:
    """End this process, exit code 1, should ``process`` die meanwhile: what waits for a dead raylet cannot be interrupted.

    process: as `find` returns it; None: nothing is watched; say: tells the user why.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            if process is not None and not _command(process) and not over.is_set():
                say(
                    f"Ray's process on this machine (raylet, {process}) has ended: killed by somebody, or for want of memory. "
                    "What was trained is safe up to the last epoch.\nTo continue: run the same command again."
                )
                sys.stderr.flush()
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    if process is not None:
        watcher.start()
    try:
        yield
    finally:
        over.set()


def find() -> int | None:
    """Return the process of the raylet of this machine that Ray, which is initialised, is connected to; None without /proc."""
    from mldiv.cluster.ray_private import raylet_socket

    name = raylet_socket().encode()
    for path in Path("/proc").glob("[0-9]*"):
        words = _command(int(path.name))
        if words and words[0].endswith(b"/raylet") and any(name in word for word in words):
            return int(path.name)
    return None


def _command(process: int) -> list[bytes]:
    """Return a process's command line; nothing of one that is gone, or dead and not yet buried."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[:-1]
    return []
