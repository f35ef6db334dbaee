"""What grows with the number of trials in one sweep, on a tiny network:

    python benchmarks/trials.py [--trials 1000] [--epochs 2] [--groups 1] [--out benchmarks/trials.md]

Two arms, each searched by Optuna and then repeated on 20 seeds, through standing worker groups on this machine. A row is
taken after a tenth, a quarter, a half, three quarters and all of the trials; times are of the trials since the row before.
Then the memory of each kind of process, and, on the finished study, what a further start and the report take. Adds a section
to the file.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from growth import TINY, resident
from timing import caption, table

import mldiv
from mldiv.cluster import tuner
from mldiv.cluster.nodes import Resources, connect
from mldiv.environment import checkout
from mldiv.records import study_files
from mldiv.records.contents import StudyRecord
from mldiv.records.study_files import trial_folder
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan, journal

BASE = TINY.replace(train_size=32)
ARMS: dict[str, dict[str, Any]] = {"cosine": {}, "rbf": {"kernel": "rbf"}}
SEARCHED = ("alpha", "beta", "lr")
SEEDS = 20
MARKS = (0.1, 0.25, 0.5, 0.75, 1.0)


class TimedPlan(Plan):
    """A plan that counts the seconds it takes."""

    seconds = 0.0

    def ask(self) -> Any:
        began = time.perf_counter()
        try:
            return super().ask()
        finally:
            self.seconds += time.perf_counter() - began

    def tell(self, *arguments: Any) -> None:
        began = time.perf_counter()
        super().tell(*arguments)
        self.seconds += time.perf_counter() - began


class TimedSearch(tuner.PlanSearch):
    """The search algorithm, which counts the seconds that its files take."""

    writing = 0.0

    def _write(self) -> None:
        began = time.perf_counter()
        super()._write()
        TimedSearch.writing += time.perf_counter() - began


def plan(folder: Path, flags: argparse.Namespace) -> TimedPlan:
    base = BASE.replace(epochs=flags.epochs, switch_epoch=flags.epochs // 2)
    arms = [make_arm(name, base, changes, SEARCHED) for name, changes in ARMS.items()]
    samples = flags.trials // len(ARMS) - SEEDS
    return TimedPlan(
        arms, folder, samples=samples, seeds=tuple(range(1, SEEDS + 1)), storage=journal(folder / "optuna.journal"),
        batch=flags.groups,
    )  # fmt: skip


def family(parent: int) -> list[int]:
    """A process and all its descendants."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [parent]
    for pid in found:
        found += [child for child, of in parents.items() if of == pid]
    return found


def name_of(pid: int) -> str:
    """The program, or what a worker of Ray is at present."""
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        return title.strip().split(".")[0] if title.startswith("ray::") else Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def proportional(pid: int) -> float:
    """MB of a process, what several share divided among them."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3
    return 0.0


def size(path: Path) -> float:
    """kB of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e3


def state() -> dict[str, float]:
    """Running totals, whose differences count."""
    return {"wall": time.perf_counter(), "processor": time.process_time(), "writing": TimedSearch.writing}


@dataclass
class Watch:
    """Takes the rows while the sweep runs. late: seconds from a trial's last checkpoint, written just before the worker
    reports the epoch, to this driver's hearing of it."""

    folder: Path
    plan: TimedPlan
    ended: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    kinds: dict[str, list[float]] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=state)

    def progress(self, trial: str, result: dict[str, Any]) -> None:
        if result.get("ended"):
            self.ended.append(trial)
            if len(self.ended) in [round(mark * self.plan.trials()) for mark in MARKS]:
                self._take()
        elif result["epoch"] == self.plan.arms[0].config.epochs - 1 and result["status"] == "running":
            self.late.append(time.time() - (trial_folder(self.folder, trial) / "checkpoint.pt").stat().st_mtime)

    def _take(self) -> None:
        now = state() | {"planning": self.plan.seconds}
        since = len(self.ended) - (self.rows[-1]["ended"] if self.rows else 0)
        each = {name: (value - self.before.get(name, 0.0)) / since for name, value in now.items()}
        late = sorted(self.late)
        pids = family(os.getpid())
        self.kinds = {}
        for pid in pids:
            self.kinds.setdefault(name_of(pid), []).append(proportional(pid))
        gcs = [pid for pid in pids if name_of(pid) == "gcs_server"]
        row = {"ended": len(self.ended)} | each
        row |= {"late": statistics.median(late), "latest": late[int(0.95 * len(late))], "driver": resident(os.getpid())}
        row |= {"gcs": sum(map(resident, gcs)), "all": sum(map(proportional, pids)), "processes": len(pids)}
        row |= {name: size(self.folder / name) for name in ("optuna.journal", "assignments.jsonl", "ray", "store", "trials")}
        self.rows.append(row)
        print(", ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
        self.late.clear()
        self.before = state() | {"planning": self.plan.seconds}


def gaps(folder: Path, ended: list[str]) -> list[float]:
    """Seconds between the end of a trial's record and the start of the next, in the order in which they were written."""
    found = []
    for trial in ended:
        path = trial_folder(folder, trial)
        written = (path / "trial.json").stat().st_mtime
        found.append((written - study_files.read_trial(path).seconds, written))
    found.sort()
    return [max(0.0, begun - ended) for (_, ended), (begun, _) in itertools.pairwise(found)]


def after(folder: Path, flags: argparse.Namespace, searched: Plan) -> tuple[float, float]:
    """Seconds in which the finished study is read through by a further start, and in which its report is made."""
    header = StudyRecord(
        name="trials", question="What grows with trials?", scientific="kernel", preset="demo", baseline="cosine",
        arms=list(ARMS), changes=ARMS, compare=["rbf"], seeds=list(searched.seeds), settings=asdict(BASE), data="digits",
        data_is_subset=True, samples=searched.samples, search_seeds=[0], objectives=["nll"], world_size=1,
        environment={"mldiv": mldiv.__version__, "commit": checkout.commit()}, selection="lowest validation NLL",
        searched={name: list(SEARCHED) for name in ARMS}, chosen=searched.chosen(), importance=searched.importance(),
    )  # fmt: skip
    study_files.write_study(folder, header)
    study_files.write_assignments(folder, searched.assignments)
    began = time.perf_counter()
    assert plan(folder, flags).catch_up()
    between = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "analysis", str(folder)], check=True, stdout=subprocess.DEVNULL, cwd=checkout.PACKAGE.parent
    )
    return between - began, time.perf_counter() - between


def measure(folder: Path, flags: argparse.Namespace) -> str:
    import ray

    tuner.PlanSearch = TimedSearch  # type: ignore[misc]
    connect("local")
    searched = plan(folder, flags)
    watch = Watch(folder, searched)
    began = time.perf_counter()
    tuner.run(searched, folder, resources=Resources(cpus=1 / flags.groups), groups=flags.groups, progress=watch.progress)
    whole = time.perf_counter() - began
    ray.shutdown()
    again, report = after(folder, flags, searched)
    return tables(watch, gaps(folder, watch.ended), f"The whole sweep took {whole:.0f} s. On the finished study, reading every "
                  f"record and asking Optuna the same again, as each further start does, took {again:.1f} s, the report "
                  f"{report:.1f} s.")  # fmt: skip


def tables(watch: Watch, between: list[float], words: str) -> str:
    """Times per trial, memory, files; and the further ``words``."""
    times, memory, first = [], [], 0
    for row in watch.rows:
        last = int(row["ended"])
        milliseconds = [1e3 * row[name] for name in ("processor", "planning", "writing", "late", "latest")]
        gap = 1e3 * statistics.median(between[first : last - 1])
        times.append([f"{last:,}", f"{row['wall']:.2f}", *(f"{number:.0f}" for number in [*milliseconds, gap])])
        sizes = [row[name] for name in ("driver", "gcs", "all", "processes")]
        files = [row[name] for name in ("optuna.journal", "assignments.jsonl", "ray", "store", "trials")]
        memory.append([f"{last:,}", *(f"{number:,.0f}" for number in [*sizes, *files])])
        first = last
    time_head = ["trials ended", "s per trial", "driver's processor, ms per trial", "plan and Optuna, ms per trial",
                 "study's files, ms per trial", "report to driver, ms", "its 95 %", "gap between trials, ms"]  # fmt: skip
    memory_head = ["trials ended", "driver, MB", "GCS, MB", "all processes, MB", "processes", "optuna.journal, kB",
                   "assignments, kB", "Tune's files, kB", "store, kB", "trials' folders, kB"]  # fmt: skip
    kinds = [[name, f"{len(sizes)}", f"{statistics.median(sizes):,.0f}"] for name, sizes in sorted(watch.kinds.items())]
    kind_table = table(["process, at the end", "how many", "MB of each (median)"], kinds)
    return f"{table(time_head, times)}\n\n{table(memory_head, memory)}\n\n{kind_table}\n\n{words}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="an even number, at least 100")
    parser.add_argument("--epochs", type=int, default=2, help="of each trial, at least 2")
    parser.add_argument("--groups", type=int, default=1, help="worker groups, which share one processor")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--note", default="", help="a sentence for the caption: what else ran on the machine, say")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        text = measure(Path(name), flags)
    samples = flags.trials // len(ARMS) - SEEDS
    what = (
        f"A sweep of {flags.trials:,} trials of a tiny pair (ResNet-8 at quarter width, {BASE.train_size} images, "
        f"{flags.epochs} epochs): {len(ARMS)} arms, each with {samples} Optuna trials over {', '.join(SEARCHED)} and {SEEDS} "
        f"seeds, {flags.groups} worker group{'s' * (flags.groups > 1)}, 1 run; processes that share memory, all but driver and "
        f"GCS, are counted with their share of it. {flags.note}".strip()
    )
    before = flags.out.read_text() if flags.out.exists() else "# What grows with trials\n"
    head = f"## {flags.trials:,} trials of {flags.epochs} epochs, groups: {flags.groups}"
    flags.out.write_text(f"{before}\n{head}\n\n{caption(what, 1, ['ray', 'optuna'])}\n\n{text}\n")
    print(flags.out.read_text())


if __name__ == "__main__":
    main()
