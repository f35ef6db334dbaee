"""What grows with the number of trials and with the data, on a tiny network:

    python benchmarks/growth.py [--trials 64] [--out benchmarks/growth.md]

Trials: one sweep through one standing worker group; after 1, 2, 4, ... trials the seconds per trial since the last of these
marks, the worker's memory and open files, and the driver's memory. Data: one trial at a time in this process on 1, 2, ... 16
times as many training images, seconds of training per image and epoch.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import caption, table

from mldiv.config import TrialConfig
from mldiv.records import checked_files

TINY = TrialConfig(
    data="digits", train_size=64, validation_size=40, test_size=40, arch="resnet8", width=0.25, epochs=4, switch_epoch=2,
    initialization="scratch", batch_size=16, lr=0.05, validation_samples=1, test_samples=2, fusion_dim=16,
)  # fmt: skip
MULTIPLES = (1, 2, 4, 8, 16)


def resident(pid: int) -> float:
    """MB of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def trials(count: int) -> list[list[str]]:
    """Rows of the first table."""
    import ray

    from mldiv.cluster import tuner
    from mldiv.cluster.broker import NAMESPACE
    from mldiv.cluster.nodes import Resources, connect
    from mldiv.sweep.arm import make_arm
    from mldiv.sweep.plan import Plan

    connect("local")
    rows: list[list[str]] = []
    ended, last = 0, (0, time.perf_counter())
    marks = [2**power for power in range(count.bit_length()) if 2**power <= count]

    def worker() -> int:
        (found,) = [actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["name"].startswith("broker-")]
        broker = ray.get_actor(found["name"], namespace=NAMESPACE)
        return next(iter(ray.get(broker.state.remote())["pids"].values()))[-1]

    def progress(trial: str, result: dict[str, Any]) -> None:
        nonlocal ended, last
        ended += bool(result.get("ended"))
        if result.get("ended") and ended in marks:
            pid, now = worker(), time.perf_counter()
            each = (now - last[1]) / (ended - last[0])
            rows.append(
                [str(ended), f"{each:.2f}", f"{resident(pid):.0f}", str(open_files(pid)), f"{resident(os.getpid()):.0f}"]
            )
            last = ended, now

    with tempfile.TemporaryDirectory() as folder:
        arms = [make_arm(name, TINY, changes, ()) for name, changes in (("cosine", {}), ("rbf", {"kernel": "rbf"}))]
        plan = Plan(arms, Path(folder), samples=0, seeds=tuple(range(1, count // 2 + 1)))
        tuner.run(plan, Path(folder), resources=Resources(), groups=1, progress=progress)
    ray.shutdown()
    return rows


def data() -> list[list[str]]:
    """Rows of the second table."""
    import torch

    from mldiv.storage.cache import Store
    from mldiv.training.fit import fit

    torch.set_num_threads(1)
    rows = []
    for multiple in (1, *MULTIPLES):  # the first one warms up
        config = TINY.replace(train_size=TINY.train_size * multiple)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fit(config, folder, store=Store(folder / "store"))
            seconds = [line["seconds"] for line in checked_files.read_lines(folder / "metrics.jsonl")]
        images = config.train_size * config.epochs
        row = [
            str(config.train_size),
            f"{sum(seconds):.2f}",
            f"{1000 * sum(seconds) / images:.2f}",
            f"{resident(os.getpid()):.0f}",
        ]
        rows.append(row)
    return rows[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    by_trials = table(
        [
            "trials ended",
            "seconds per trial since the last row",
            "worker's memory, MB",
            "its open files",
            "driver's memory, MB",
        ],
        trials(flags.trials),
    )
    by_data = table(["training images", "seconds of 4 epochs", "ms per image and epoch", "memory, MB"], data())
    what = "A tiny pair (ResNet-8 at quarter width, 4 epochs); the first row of trials holds the start of Ray's worker group."
    text = f"{caption(what, 1, ['ray'])}\n\n{by_trials}\n\n{by_data}\n"
    flags.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
