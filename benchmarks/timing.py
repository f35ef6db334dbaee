"""What the benchmarks share: interleaved timing, ratios within a round, tables, and the caption that says how it was done."""

import os
import platform
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mldiv.environment.checkout import commit

Step = Callable[[], None]
Key = TypeVar("Key", bound=Hashable)

ORDER = random.Random(0)

#: Seconds of every step, one dictionary for each round.
Rounds = list[dict[Key, float]]


def seconds(call: Callable[..., Any], *arguments: Any) -> float:
    """Wall time of one call; on a GPU, until it has finished all that it was given."""
    synchronize()
    began = time.perf_counter()
    call(*arguments)
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Operations(TorchDispatchMode):
    """Counts what is computed meanwhile: torch's operations but those that only view or allocate, each at least a launch."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.namespace == "aten" and not func._opname.startswith("empty"):
            self.counts[func._opname] += 1
        return func(*args, **kwargs or {})

    def total(self) -> int:
        return self.counts.total()


def interleaved(steps: dict[Key, Step], rounds: int) -> Rounds[Key]:
    """Every step once per round, in an order shuffled anew, so that noise and neighbours disturb all of them alike."""
    return [{key: seconds(steps[key]) for key in ORDER.sample(list(steps), len(steps))} for _ in range(rounds)]


def median(rounds: Rounds[Key], key: Key) -> float:
    return statistics.median(row[key] for row in rounds)


def ratio(rounds: Rounds[Key], key: Key, base: Key) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(row[key] / row[base] for row in rounds)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


class Load:
    """How much of the processor's time other programs took since this was made: 0 on a machine of one's own."""

    def __init__(self) -> None:
        self.began = self._now()

    def __str__(self) -> str:
        own, busy, whole = (now - then for now, then in zip(self._now(), self.began, strict=True))
        return f"{max(0.0, busy - own) / whole:.0%} of the processor went to other programs" if whole else "load unknown"

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds of this process, of all, and of all with idle ones."""
        times = os.times()
        try:
            ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
        except OSError:
            return times.user + times.system, 0, 0
        second = os.sysconf("SC_CLK_TCK")
        return times.user + times.system, (sum(ticks) - ticks[3] - ticks[4]) / second, sum(ticks) / second


def caption(what: str, threads: int, libraries: Iterable[str], load: Load | None = None) -> str:
    """One paragraph: what was measured, the command, the commit, the versions and the machine.

    load: where all work is this process's own; a benchmark with processes of Ray's cannot tell them from others.
    """
    versions = [f"torch {torch.__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {metadata.version(name)}" for name in libraries]
    return f"{what} `{command()}`, commit {commit()}; {', '.join(versions)}; {machine(threads)}{f'; {load}' if load else ''}."


def command() -> str:
    script = Path(sys.argv[0])
    return " ".join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]])


def machine(threads: int) -> str:
    """The processor with its cores and the threads used; the GPU where there is one in use."""
    if torch.cuda.is_initialized():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    return f"{model}, {os.cpu_count()} cores, {threads} threads"
