"""Processes that a test starts, waits for and kills."""

import contextlib
import multiprocessing
import time

PROCESSES = multiprocessing.get_context("forkserver")  # one process imports torch, all others are its forks
PROCESSES.set_forkserver_preload(["mldiv.fit", "pytest"])


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
