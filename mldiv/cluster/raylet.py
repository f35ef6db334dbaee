"""End a driver whose raylet or head is gone with a line of its own; Ray ends it 15 to 60 s later, with its log for reasons."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

POLL_SECONDS = 0.25


@contextmanager
def watched(processes: Mapping[int, str], say: Callable[[str], None]) -> Iterator[None]:
    """End this process, exit code 1, should one of ``processes`` die meanwhile: what waits for it cannot be interrupted.

    processes: as `find` returns them; say: tells the user why.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            gone = next((process for process in processes if not _command(process)), None)
            if gone is not None and not over.is_set():
                say(
                    f"Ray's process on this machine ({processes[gone]}, {gone}) has ended: killed by somebody, or for want of "
                    "memory. What was trained is safe up to the last epoch.\nTo continue: run the same command again."
                )
                sys.stderr.flush()
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()


def find() -> dict[int, str]:
    """Return, with their names, the processes of this machine without which Ray, which is initialised, ends this one.

    The raylet that it is connected to, and the head's GCS, where that is here and keeps nothing in a Redis, from which another
    could go on.
    """
    from mldiv.cluster.ray_private import raylet_socket

    socket, found = raylet_socket(), dict[int, str]()
    wanted = {"raylet": f"--raylet_socket_name={socket}", "gcs_server": f"--session-dir={Path(socket).parents[1]}"}
    for process in psutil.pids():
        words = _command(process)
        name = words[0].rpartition("/")[2] if words else ""
        if wanted.get(name) in words and not any(word.startswith("--redis_address") for word in words):
            found[process] = name
    return found


def _command(process: int) -> list[str]:
    """Return a process's command line; nothing of one that is gone, or dead and not yet buried."""
    with suppress(psutil.Error):
        return psutil.Process(process).cmdline()
    return []
