"""Processes that a test starts, waits for and kills."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")  # one process imports torch, all others are its forks
# With the first optimiser torch imports its compiler, with the data scikit-learn: 4 s for every process that has to by itself.
PROCESSES.set_forkserver_preload(
    ["mldiv.training.fit", "pytest", "torch._dynamo", "sklearn.model_selection", "sklearn.datasets"]
)


def running() -> Iterator[tuple[int, int, str]]:
    """Each process of this machine: its id, its parent's, its title."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
            yield int(path.name), int(parent), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def elsewhere() -> list[tuple[int, int, str]]:
    """Of these, those that no other test run or study has started: one beside this run has clusters that come and go."""
    found = list(running())
    parents = {pid: parent for pid, parent, _ in found}

    def line(pid: int) -> list[int]:
        """The process and all that it comes from."""
        return [pid, *line(parents[pid])] if pid in parents else []

    commands = {pid for pid, _, title in found if any(mark in title for mark in ("-m pytest", "-m mldiv", "studies/"))}
    others = {pid for pid in commands if os.getpid() not in line(pid)}.difference(line(os.getpid()))
    return [entry for entry in found if not others.intersection(line(entry[0]))]


def environment(**more: str) -> dict[str, str]:
    """A person's, for a command: without what this test run, and Ray in it, have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST", "TUNE_"))}
    return kept | more


#: A study's trials of a second or two, whose numbers need be the same, not good: flags of the demo preset.
SHORT = [
    "--set=epochs=24", "--set=switch_epoch=16", "--set=train_size=64", "--set=validation_size=32", "--set=test_size=32",
    "--set=pretrain_epochs=1", "--set=width=0.25", "--set=batch_size=32", "--set=validation_samples=2", "--set=test_samples=2",
    "--set=ood=none",
]  # fmt: skip


def joint_search(out: Path, *flags: str, output: int = subprocess.PIPE, **more: str) -> subprocess.Popen:
    """The command of a search of the demo preset, in a session of its own; more: environment variables."""
    script = Path(__file__).resolve().parents[2] / "studies" / "joint_search.py"
    return subprocess.Popen(
        [sys.executable, str(script), "--preset", "demo", "--seeds", "2", "--out", str(out), *flags], cwd=out.parent, text=True,
        stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment(**more), start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background job ignores it
    )  # fmt: skip


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


@contextlib.contextmanager
def processes(target, *arguments):
    """One process for each tuple of arguments; whatever happens, none is left."""
    started = [PROCESSES.Process(target=target, args=given) for given in arguments]
    try:
        for process in started:
            process.start()
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()
