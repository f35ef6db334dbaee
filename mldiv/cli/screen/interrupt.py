"""Ctrl-C, SIGTERM and SIGHUP: answered at once, whatever the process is doing, and waited for a few seconds at most."""

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
#: The exit code of what a Ctrl-C has ended; of a SIGTERM it is 143, of a SIGHUP 129.
INTERRUPTED = 130

#: What is answered, and who handles it where nobody has said otherwise: Ctrl-C, what scancel, kill and systemd send, and what a
#: terminal sends that is closed (below nohup that is ignored).
USUAL: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL,
}  # fmt: skip

#: Whether this process is to end, as soon as it has let go of what it holds.
ENDING = threading.Event()
#: The exit code then, an item.
CODE = [INTERRUPTED]
#: The signals that are listened to.
HEARD: set[signal.Signals] = set()


def _fork() -> None:
    """See that a fork of this process (torch's loaders of images are some) tells it of none of its signals."""
    if HEARD:
        signal.set_wakeup_fd(-1)
    for number in HEARD - {signal.SIGINT}:
        signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_fork)


@contextmanager
def answered(answer: Callable[[], None]) -> Iterator[None]:
    """Call ``answer`` at the first signal, in a thread; the first thread gets a KeyboardInterrupt, once what runs in C ends.

    With the context an interrupted process ends, and all that it started: a Ray of its own too, whose end is not waited for. A
    second signal ends them before, and so do LONGEST_SECONDS: checkpoints and records are written whole or not at all. Leaves
    those alone that are ignored or handled by others, and outside of the first thread all.
    """
    ours = {number for number, usual in USUAL.items() if signal.getsignal(number) == usual}
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = socket.socketpair()
    told.setblocking(False)
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    HEARD.update(ours)
    listen()
    listener = threading.Thread(target=_listen, args=(heard, answer), daemon=True)
    listener.start()
    try:
        yield
    finally:
        if ENDING.is_set():
            end()
        HEARD.clear()
        for number in ours:
            signal.signal(number, USUAL[number])
        signal.set_wakeup_fd(before)
        told.shutdown(socket.SHUT_RDWR)  # forks may hold it open
        told.close()
        listener.join()
        heard.close()


def listen() -> None:
    """Take the signals that are listened to, also from those who have taken them meanwhile: Ray takes SIGTERM."""
    for number in HEARD:
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: Any) -> NoReturn:
    CODE[0] = 128 + number
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
        if number[0] in HEARD:
            CODE[0] = 128 + number[0]
            if deadline is not None:
                end()
            deadline = time.monotonic() + LONGEST_SECONDS
            with suppress(OSError):  # the terminal may be gone
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
    os._exit(CODE[0])
