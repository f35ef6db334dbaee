"""Processes that a test starts, waits for and kills."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")  # one process imports torch, all others are its forks
PROCESSES.set_forkserver_preload(["mldiv.fit", "pytest"])


def running() -> Iterator[tuple[int, int, str]]:
    """Each process of this machine: its id, its parent's, its title."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
            yield int(path.name), int(parent), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def environment(**more: str) -> dict[str, str]:
    """A person's, for a command: without what this test run, and Ray in it, have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST", "TUNE_"))}
    return kept | more


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


@contextlib.contextmanager
def processes(target, *arguments):
    """One process for each tuple of arguments; whatever happens, none is left."""
    started = [PROCESSES.Process(target=target, args=one) for one in arguments]
    try:
        for one in started:
            one.start()
        yield started
    finally:
        for one in started:
            one.kill()
            one.join()
