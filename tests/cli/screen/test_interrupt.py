"""Ctrl-C is answered while the process computes, ends all that it started, and is never waited for."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time

import pytest
from helpers.processes import environment, running, until

from mldiv.cli.screen.interrupt import LONGEST_SECONDS

#: Starts a child, then does as it is told. LOCK is C that hears of no signal: it lasts until another thread's UNLOCK.
LOCK, UNLOCK = "C.pthread_mutex_lock(mutex)", "C.pthread_mutex_unlock(mutex)"
PROGRAM = """
BEFORE
import ctypes, os, subprocess, time
from mldiv.cli.screen.interrupt import answered
C, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)  # zeros are a free mutex
child = subprocess.Popen(["sleep", "1000"])

def say(line):  # whole, whichever thread says it beside another: print writes the end of a line apart
    os.write(1, f"{line}\\n".encode())

def answer():
    say("answered")
    ANSWERED

with answered(answer):
    say(f"started {child.pid}")
    try:
        WAIT
    except KeyboardInterrupt:
        say("interrupted")
        AFTER
say("not reached")
"""


@contextlib.contextmanager
def start(wait, after="pass", answered="pass", before="pass"):
    text = PROGRAM.replace("BEFORE", before).replace("WAIT", wait).replace("AFTER", after).replace("ANSWERED", answered)
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        child = int(process.stdout.readline().split()[1])
        yield process
        until(lambda: not lives(child), 5)


def lives(child):
    return any(number == child and title.strip() for number, _, title in running())


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_it_is_answered_at_once_and_leaves_nothing(sent, code):
    """While C computes, which ends here with the answer: no interrupt is heard before."""
    with start(f"{LOCK}; {LOCK}", answered=UNLOCK) as process:
        time.sleep(0.5)  # until it waits
        began = time.monotonic()
        process.send_signal(sent)
        assert process.stdout.read() == "answered\ninterrupted\n"
        assert process.wait() == code and time.monotonic() - began < LONGEST_SECONDS


@pytest.mark.parametrize("again", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["twice", "after the longest time"])
def test_what_does_not_end_is_ended(again):
    with start("time.sleep(100)", "time.sleep(100)") as process:
        time.sleep(0.5)  # until it sleeps
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert {process.stdout.readline(), process.stdout.readline()} == {"answered\n", "interrupted\n"}
        if again:
            process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert (time.monotonic() - began < LONGEST_SECONDS) == again


def test_a_terminal_that_is_closed_leaves_nothing():
    """Nothing can be said there any more."""
    ours, theirs = os.openpty()
    text = PROGRAM.replace("WAIT", "time.sleep(100)")
    for name in ("BEFORE", "AFTER", "ANSWERED"):
        text = text.replace(name, "pass")
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment(),
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:  # fmt: skip
        os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            child = int(terminal.read(100).split()[1])
        assert process.wait(LONGEST_SECONDS + 5) == 129
        until(lambda: not lives(child), 5)


def test_a_study_that_is_to_outlive_its_terminal_hears_nothing():
    """As below nohup."""
    quiet = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with start("os.kill(os.getpid(), 1); say('goes on'); time.sleep(100)", before=quiet) as process:
        assert process.stdout.readline() == "goes on\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143


#: A process that loads images forks with the first of them, and its children may outlast the study.
FORKS = """
import os, signal, time
from mldiv.cli.screen.interrupt import answered

with answered(lambda: print("answered", flush=True)):
    if not (child := os.fork()):
        os.closerange(0, 3)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            time.sleep(30)
    time.sleep(0.5)
print(child, flush=True)
"""


def test_a_fork_is_not_waited_for_and_its_signals_are_its_own():
    with subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE, text=True, env=environment()) as process:
        child = int(process.stdout.readline() or (process.wait() and 0))
        assert process.wait(10) == 0 and lives(child)
        os.kill(child, signal.SIGKILL)


#: A study that is refused while what it would take is still being measured.
REFUSED = """
import time, torch
from mldiv.cli.execute import beside

def measure():
    weights, began = torch.rand(300, 300), time.monotonic()
    while time.monotonic() < began + 0.5:
        weights @ weights

with beside(measure):
    raise SystemExit(2)
"""


def test_what_computes_beside_the_first_thread_ends_with_it_and_not_by_an_abort():
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (2, "")
