"""Ctrl-C: answered at once, whatever the process is doing, and never waited for longer than a few seconds."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

#: Seconds after the first Ctrl-C in which the process ends by itself, or is ended.
LONGEST_SECONDS = 4.0
#: The exit code of what a Ctrl-C has ended.
INTERRUPTED = 130

#: Whether this process is to end, as soon as it has let go of what it holds.
ENDING = threading.Event()
#: Whether signals are listened to; a fork of this process (torch's loaders of images are some) tells it of none of its own.
LISTENING = threading.Event()
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1) if LISTENING.is_set() else None)


@contextmanager
def answered(answer: Callable[[], None]) -> Iterator[None]:
    """Call ``answer`` at the first Ctrl-C, in a thread; the first thread gets a KeyboardInterrupt, once what runs in C ends.

    With the context an interrupted process ends, and all that it started: a Ray of its own too, whose end is not waited for. A
    second Ctrl-C ends them before, and so do LONGEST_SECONDS: checkpoints and records are written whole or not at all. Does
    nothing where Ctrl-C is ignored or handled by others, nor outside of the first thread.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = socket.socketpair()
    told.setblocking(False)
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _interrupt)
    LISTENING.set()
    listener = threading.Thread(target=_listen, args=(heard, answer), daemon=True)
    listener.start()
    try:
        yield
    finally:
        if ENDING.is_set():
            end()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        LISTENING.clear()
        signal.set_wakeup_fd(before)
        told.shutdown(socket.SHUT_RDWR)  # forks may hold it open
        told.close()
        listener.join()
        heard.close()


def _interrupt(number: int, frame: Any) -> NoReturn:
    ENDING.set()
    raise KeyboardInterrupt


def _listen(heard: socket.socket, answer: Callable[[], None]) -> None:
    """Hear of the process's signals, a byte each, until the other end is closed."""
    deadline = None
    while True:
        heard.settimeout(None if deadline is None else max(0.01, deadline - time.monotonic()))
        try:
            number = heard.recv(1)
        except TimeoutError:
            end()
        if not number:
            return
        if number[0] == signal.SIGINT:
            if deadline is not None:
                end()
            deadline = time.monotonic() + LONGEST_SECONDS
            answer()


def end() -> NoReturn:
    """End this process now, and before it all that it started."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED)
