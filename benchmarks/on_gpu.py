"""All that a GPU has to say of this project, in pieces of a few minutes: no Ray, no network.

    python benchmarks/on_gpu.py --minutes 9
    python benchmarks/on_gpu.py --minutes 9 --part 4 --data-root DIR

Part 1 runs what only a GPU can show (device_checks.py), part 2 times the steps beside the deterministic pair's, those of other
libraries and what the hardware could do, part 3 says from whole epochs how long the ablation at the paper's size takes, and
part 4 trains it (paper_size.py), where there are data. Every result is in rows.jsonl the moment it is known, and in on_gpu.md;
the same command goes on behind the last one. A piece that takes too long has failed, and one that twice came to no end before
time was up is left out. After an error that leaves the device useless to its process the rest is measured in a new one.

mldiv need not be installed, but what it needs must be, pydantic among it. Exit code 0: all is done; 3: run the same command
again; 1: all is done, and a check failed; 2: the device does not answer.
"""

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where this checkout is not installed

import paper_size
import torch
from device_checks import CHECKS
from paper_size import ALL_ENDED, MORE_TO_DO, PieceOver, time_limit
from step_methods import Absent, Built, lanes, machine_peaks, methods, seconds_of
from timing import table

from mldiv.config import TrialConfig
from mldiv.environment import checkout, numerics
from mldiv.presets import PRESETS
from mldiv.training.fit import environment
from mldiv.training.worker_cache import Workspace

Row = dict[str, Any]
#: What is measured at a time: its name, and what measures it.
Piece = tuple[str, Callable[[], Row]]

PARTS = {1: "checks", 2: "steps", 3: "projection", 4: "ablation"}
#: How often a piece is begun that does not come to an end.
MOST_TRIES = 2
#: After the piece's time, seconds until the process is ended: the device no longer answers.
GRACE_SECONDS = 45.0
#: Of a piece, and of one that compiles or trains whole epochs: a few times what either should take.
LONGEST_SECONDS, COMPILING_SECONDS = 120.0, 360.0
SEEDS, ARMS = 8, 6


class Rows:
    """The results so far, a line each; a line that was cut off is left out."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "rows.jsonl"
        self.all: list[Row] = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                self.all.append(json.loads(line))
            except ValueError:
                continue

    def add(self, row: Row) -> None:
        """Write it through to the disk."""
        with self.path.open("a") as file:
            file.write(("" if self._whole() else "\n") + json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.all.append(row)

    def _whole(self) -> bool:
        return not self.path.exists() or not self.path.stat().st_size or self.path.read_bytes().endswith(b"\n")

    def of(self, part: str) -> list[Row]:
        """A part's results, the last of each name."""
        return list({row["name"]: row for row in self.all if row["part"] == part and "begun" not in row}.values())

    def begun(self, part: str, name: str) -> int:
        return sum(row["part"] == part and row["name"] == name and "begun" in row for row in self.all)


def work(flags: argparse.Namespace, rows: Rows, until: float) -> bool:
    """Measure what is missing until time is up; return whether nothing is left."""
    for number, part in PARTS.items():
        if flags.part not in (None, number):
            continue
        known = {row["name"] for row in rows.of(part)}
        for name, measure in pieces(flags, part, until):
            if name in known:
                continue
            if time.time() >= until or (row := attempt(rows, part, name, measure, until)) is None:
                return False
            rows.add({"part": part, "name": name, **row, "at": now()})
            write(flags, rows)
            print(f"{part}: {name}: " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if "failed" in row and not answers(torch.device(flags.device)):
                begin_anew(until)
    return True


def attempt(rows: Rows, part: str, name: str, measure: Callable[[], Row], until: float) -> Row | None:
    """Measure a piece; None where time was up before its end, which its next try goes on from or begins anew."""
    if part != "ablation" and rows.begun(part, name) >= MOST_TRIES:
        return {"failed": f"did not come to an end in {MOST_TRIES} tries"}
    began, most = time.time(), longest(part, name)
    late = {"failed": f"did not come to an end in {most:.0f} s"}

    def lost() -> None:
        """The device no longer answers, nor does Python hear the alarm."""
        if began + most < until:
            rows.add({"part": part, "name": name, **late, "at": now()})
            begin_anew(until)
        os._exit(MORE_TO_DO)

    guard = threading.Timer(min(most, until - began) + GRACE_SECONDS, lost)
    guard.daemon = True
    guard.start()
    try:
        with time_limit(min(most, until - began)):
            rows.add({"part": part, "name": name, "begun": now()})
            row = measure()
    except PieceOver:
        return late if time.time() >= began + most else None
    except Absent as error:
        row = {"said": str(error)}
    except Exception as error:
        print(traceback.format_exc(), file=sys.stderr)
        row = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    finally:
        guard.cancel()
    return row | {"took": round(time.time() - began, 1)} if row else None


def longest(part: str, name: str) -> float:
    """Seconds after which a piece has failed; the ablation goes on in its next piece."""
    if part == "ablation":
        return math.inf
    return COMPILING_SECONDS if part == "projection" or "compiled" in name else LONGEST_SECONDS


def answers(device: torch.device) -> bool:
    """Whether the device computes for this process: after some errors of CUDA it never does again."""
    try:
        return torch.ones(1, device=device).add(1).item() == 2
    except Exception as error:
        print(f"on_gpu: {device} does not answer: {error}", file=sys.stderr)
        return False


def begin_anew(until: float) -> None:
    """Go on in a new process, for as long as is left."""
    signal.setitimer(signal.ITIMER_REAL, 0)  # it would outlive this program, and end the next one
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "--minutes", str((until - time.time()) / 60)])


def pieces(flags: argparse.Namespace, part: str, until: float) -> Iterator[Piece]:
    device, base = torch.device(flags.device), configure(flags)
    if part == "checks":
        for name, check in CHECKS.items():
            yield name, partial(checked, check, device)
    elif part == "steps":
        yield "peaks", partial(machine_peaks, device, flags.tiny)
        for name, build in (methods(base, device) | lanes(base, device, flags.lanes)).items():
            yield f"{base.arch}, {name}", partial(timed, build, base, device, flags.tiny)
    elif part == "projection":
        for how in ("off", "graph", "on"):
            yield how, partial(projected, flags, base, how)
    elif flags.data_root or flags.data == "digits":
        yield f"{SEEDS if flags.seeds is None else flags.seeds} seeds", partial(ablation, flags, until)


def configure(flags: argparse.Namespace) -> TrialConfig:
    """The paper's settings, or, to try this script, smaller ones."""
    base = TrialConfig().replace(**PRESETS["paper"].settings | {"data": flags.data, "arch": flags.arch})
    root = str(flags.data_root.resolve()) if flags.data_root else None
    base = base.replace(data_root=root)
    return base.replace(width=0.25, batch_size=8, epochs=3, switch_epoch=2, test_samples=2) if flags.tiny else base


def checked(check: Callable[[torch.device, Path], str], device: torch.device) -> Row:
    """What a check says, in a folder of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return {"said": check(device, Path(folder))}


def timed(build: Callable[[], Built], base: TrialConfig, device: torch.device, tiny: bool) -> Row:
    """A step's milliseconds, with its operations, arithmetic and least traffic where they can be counted."""
    built = build()
    counted = built.count()
    took = seconds_of(built.step, device, rounds=2 if tiny else 7, least=0.0 if tiny else 0.2)
    return {"ms": round(1000 * took, 4), "pairs": built.pairs, "images_per_second": round(base.batch_size / took)} | counted


def projected(flags: argparse.Namespace, base: TrialConfig, how: str) -> Row:
    """Minutes of a seed and of the ablation, from whole epochs: data, steps and predictions, as `fit` makes them."""
    workspace = paper_size.of_made_up_images(base, torch.device(flags.device), 40 if flags.tiny else 50_000)
    if flags.data_root:
        workspace = Workspace(torch.device(flags.device))
    costs = paper_size.costs(base.replace(compile=how), workspace)
    seeds = {f"minutes_{arms}_arms_{SEEDS}_seeds": SEEDS * paper_size.seed_minutes(base, costs, arms) for arms in (4, ARMS)}
    pair = (base.switch_epoch * costs["stage one"] + (base.epochs - base.switch_epoch) * costs["stage two"]) / 60
    said = "; ".join(filter(None, dict.fromkeys([workspace.fallback, *workspace.messages])))
    return {name: round(value, 4) for name, value in (costs | {"minutes_pair": pair} | seeds).items()} | {"said": said}


def ablation(flags: argparse.Namespace, until: float) -> Row:
    """The next piece of it; what there is to say once it has ended."""
    argv = ["--data", flags.data, "--arch", flags.arch, "--seeds", str(SEEDS if flags.seeds is None else flags.seeds)]
    argv += ["--out", str(flags.out / "ablation"), "--minutes", str((until - time.time()) / 60)]
    for flag, value in (("--data-root", flags.data_root), ("--commit", flags.commit)):
        argv += [flag, str(value)] if value else []
    argv += ["--epochs", "3", "--width", "0.25", "--train-size", "128", "--test-size", "40"] if flags.tiny else []
    code = paper_size.main(argv)
    if code not in (ALL_ENDED, MORE_TO_DO):
        raise RuntimeError(f"paper_size ended with {code}")
    return {"said": f"see `python -m analysis {flags.out / 'ablation'}`"} if code == ALL_ENDED else {}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def head(flags: argparse.Namespace) -> Row:
    """When, with what and of which code."""
    here = environment(torch.device(flags.device))
    kept = ("device", "driver", "cuda", "cudnn", "torch", "python", "machine")
    return {"date": now(), "commit": flags.commit or checkout.commit()} | {name: here[name] for name in kept if name in here}


def write(flags: argparse.Namespace, rows: Rows) -> None:
    """The tables of all results so far."""
    said = ", ".join(f"{name} {value}" for name, value in head(flags).items())
    parts = [f"What a GPU says, {flags.arch}, batch {configure(flags).batch_size}: {said}.\n"]
    checks = [
        [row["name"], "FAILED" if "failed" in row else "ok", row.get("said", row.get("failed", ""))]
        for row in rows.of("checks")
    ]
    steps, peaks = rows.of("steps"), next((row for row in rows.of("steps") if row["name"] == "peaks"), {})
    parts += [table(["check", "", "seen"], checks) + "\n"] if checks else []
    if steps:
        found = [cells(row, peaks) for row in steps if row["name"] != "peaks"]
        parts += [f"Steps. Measured here: {peaks.get('tflops')} TFLOP/s (bf16 products), {peaks.get('gbs')} GB/s (copies).\n"]
        parts += [table(["step", "ms", "ms a pair", "images/s", "operations", "least ms", "times the least"], found) + "\n"]
    for name in ("projection", "ablation"):
        if found := rows.of(name):
            columns = [key for key in dict.fromkeys(key for row in found for key in row) if key not in ("part", "took", "at")]
            parts += [table(columns, [[str(row.get(key, "-")) for key in columns] for row in found]) + "\n"]
    (flags.out / "on_gpu.md").write_text("\n".join(parts))


def cells(row: Row, peaks: Row) -> list[str]:
    """A step's row; the least is what arithmetic or memory traffic alone would take, whichever is more."""
    if "ms" not in row:
        return [row["name"], row.get("failed", row.get("said", "")), *["-"] * 5]
    least = 0.0
    if "flops" in row and "gbs" in peaks:
        least = 1000 * max(row["flops"] / (1e12 * peaks["tflops"]), row["bytes"] / (1e9 * peaks["gbs"]))
    bound = [f"{least:.3f}", f"{row['ms'] / least:.2f}"] if least else ["-", "-"]
    return [row["name"], f"{row['ms']:.3f}", f"{row['ms'] / row['pairs']:.3f}", str(row["images_per_second"]),
            str(row.get("operations", "-")), *bound]  # fmt: skip


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/on_gpu.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="of this piece")
    parser.add_argument(
        "--part", type=int, choices=list(PARTS), help="alone: " + ", ".join(f"{n} {p}" for n, p in PARTS.items())
    )
    parser.add_argument("--data", default="cifar100")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--seeds", type=int, help=f"of the ablation ({SEEDS})")
    parser.add_argument("--lanes", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="pairs that are stepped together")
    parser.add_argument("--commit", help="the commit, where the code is no git checkout")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="to try this script")
    parser.add_argument("--out", type=Path, default=Path("results/on_gpu"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    flags = parse(argv)
    until = time.time() + 60 * flags.minutes
    torch.set_num_threads(1)
    if not answers(torch.device(flags.device)):
        return 2
    numerics.prepare(torch.device(flags.device))  # whichever part comes first in this process
    rows = Rows(flags.out)
    rows.add({"part": "head", "name": now(), **head(flags)})
    ended = work(flags, rows, until)
    write(flags, rows)
    failed = [row["name"] for row in rows.of("checks") if "failed" in row]
    print(f"{flags.out / 'on_gpu.md'}: " + ("all is done" if ended else "run the same command again"))
    print("\n".join(f"failed: {name}" for name in failed), end="\n" if failed else "")
    return MORE_TO_DO if not ended else int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
