"""A sweep of 12 trials (6 kernels x 2 seeds, the demo's size) three ways, with identical numbers:

    python benchmarks/sweep.py [--rounds 1] [--out benchmarks/sweep.md]

1. Ray Tune as its documentation has it: a driver function per trial that starts a TorchTrainer of its own;
2. mldiv's standing worker groups, every trial trained from its very start;
3. mldiv as shipped: standing groups and the store of shared first stages.

Each way is a process of its own, from start to end, Ray's start included; two trials side by side on two processors, one
thread each. Wall time is the whole command's. Processor seconds are those of the whole machine meanwhile: nothing else should
run. The training code is `mldiv.training.fit` in all three.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from timing import caption, table

from mldiv.config import TrialConfig, from_dict
from mldiv.method.kernels import KERNELS
from mldiv.presets import configure
from mldiv.records import study_files
from mldiv.records.contents import COSTS
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan

SEEDS = (1, 2)
SIDE_BY_SIDE = 2
WAYS = {
    "plain": "Ray Tune, a TorchTrainer per trial",
    "alone": "mldiv, every trial alone (--no-cache)",
    "shipped": "mldiv as shipped",
}


def plan(folder: Path, share: bool = True) -> Plan:
    base = configure("demo", {})
    arms = [make_arm(kernel, base, {"kernel": kernel}, ()) for kernel in KERNELS]
    return Plan(arms, folder, samples=0, seeds=SEEDS, share=share)


def configs() -> list[TrialConfig]:
    base = configure("demo", {})
    return [base.replace(kernel=kernel, seed=seed) for kernel in KERNELS for seed in SEEDS]


def train_in_worker(task: dict[str, Any]) -> None:
    """What a TorchTrainer of one trial runs."""
    import ray.train
    import torch

    from mldiv.storage.cache import Store
    from mldiv.training.fit import fit

    def report(line: dict[str, Any]) -> bool:
        ray.train.report({"epoch": line["epoch"], "nll": line["validation"]["pair"]["nll"]})
        return False

    torch.set_num_threads(1)
    folder = Path(task["folder"])
    fit(from_dict(task["config"]), folder, store=Store(folder / "store"), report=report)


def driver(task: dict[str, Any]) -> None:
    """The Tune trainable: a trainer for this trial."""
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        train_in_worker,
        train_loop_config=task,
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.9}),
        run_config=ray.train.RunConfig(
            name=f"train-{task['trial']}", storage_path=task["storage"], callbacks=[TuneReportCallback()]
        ),
    ).fit()


def run_plain(out: Path) -> None:
    from ray import tune

    tasks = [
        {
            "trial": config.id,
            "config": asdict(config),
            "folder": str(study_files.trial_folder(out, config.id)),
            "storage": str(out / "ray"),
        }
        for config in configs()
    ]
    tuner = tune.Tuner(
        tune.with_resources(lambda config: driver(config["task"]), {"CPU": 0.01}),
        param_space={"task": tune.grid_search(tasks)},
        tune_config=tune.TuneConfig(max_concurrent_trials=SIDE_BY_SIDE),
        run_config=tune.RunConfig(name="tune", storage_path=str(out / "ray"), verbose=0),
    )
    errors = tuner.fit().errors
    if errors:
        raise errors[0]


def run_mldiv(out: Path, share: bool) -> None:
    from mldiv.cluster import tuner
    from mldiv.cluster.nodes import Resources
    from mldiv.storage.cache import Store

    tuner.run(plan(out, share), out, resources=Resources(), store=Store(out / "trunks"))


def run_way(way: str, out: Path) -> None:
    """In a process of its own: connect, sweep."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:SIDE_BY_SIDE])  # groups would take every processor, trainers two
    import ray

    from mldiv.cluster.nodes import connect

    connect("local")
    if way == "plain":
        run_plain(out)
    else:
        run_mldiv(out, share=way == "shipped")
    ray.shutdown()


def busy_seconds() -> float:
    """Processor seconds that the whole machine has spent on anything since it started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def measure(way: str, out: Path) -> dict[str, Any]:
    """One way from start to end: wall and processor seconds, epochs by kind, every trial's test scores."""
    began, busy = time.perf_counter(), busy_seconds()
    subprocess.run([sys.executable, __file__, "--way", way, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    wall, busy = time.perf_counter() - began, busy_seconds() - busy
    found = {config.id: study_files.read_trial(study_files.trial_folder(out, config.id)) for config in configs()}
    assert all(record.status == "finished" for record in found.values())
    epochs = {name: sum(record.cost[name] for record in found.values()) for name in COSTS}
    scores = {name: record.test for name, record in sorted(found.items())}
    return {"wall": wall, "busy": busy, "scores": scores} | epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="times that each way is run, in turn")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    if flags.way:
        flags.out.mkdir(parents=True, exist_ok=True)
        run_way(flags.way, flags.out)
        return
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(flags.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append({way: measure(way, Path(folder) / way) for way in WAYS})
        seconds = ", ".join(f"{way} {measured['wall']:.0f} s" for way, measured in rounds[-1].items())
        print(f"round {number + 1}: {seconds}", flush=True)
    identical = all(measured["scores"] == rounds[0]["plain"]["scores"] for row in rounds for measured in row.values())
    flags.out.write_text(report(rounds, identical))
    print(flags.out.read_text())


def report(rounds: list[dict[str, dict[str, Any]]], identical: bool) -> str:
    def middle(way: str, name: str) -> float:
        return statistics.median(row[way][name] for row in rounds)

    rows = []
    for way, words in WAYS.items():
        times = [statistics.median(row["plain"][name] / row[way][name] for row in rounds) for name in ("wall", "busy")]
        first = rounds[0][way]
        rows.append(
            [
                words,
                f"{middle(way, 'wall'):.0f}",
                f"{times[0]:.1f}",
                f"{middle(way, 'busy'):.0f}",
                f"{times[1]:.1f}",
                str(first["epochs_trained"]),
                str(first["pretraining_epochs_trained"]),
            ]
        )
    head = ["way", "wall, s", "times faster", "processor, s", "times less", "epochs of the pair", "epochs of pretraining"]
    same = "identical to the last bit" if identical else "NOT IDENTICAL"
    what = (
        f"A sweep of {len(configs())} trials (6 kernels x {len(SEEDS)} seeds, demo preset, {SIDE_BY_SIDE} side by side), each "
        f"way a command of its own, medians of {len(rounds)} rounds; test scores of all three ways: {same};"
    )
    return f"{caption(what, 1, ['ray'])}\n\n{table(head, rows)}\n"


if __name__ == "__main__":
    main()
