"""The ablation at the paper's size on one machine with a GPU: no Ray, no Optuna, in pieces of a few minutes.

Every seed trains stage one once and branches into mutual learning, parameter diversity, feature diversity and both, nothing
tuned. A piece ends after ``--minutes`` wherever it is; the same command goes on from the last epoch. First look what a budget
is enough for, then spend it:

    python benchmarks/paper_size.py --data-root DIR --measure --budget 30
    python benchmarks/paper_size.py --data-root DIR --seeds 2 --processes 2 --minutes 9
    python -m analysis results/paper_size

The folder holds ordinary records. Exit code 0: all trials have ended; 3: run the same command again.
"""

import argparse
import multiprocessing
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import mldiv
from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets import ood, sources
from mldiv.datasets.splits import ImageData, Split
from mldiv.environment import checkout
from mldiv.evaluation.predictive import predictives
from mldiv.presets import PRESETS
from mldiv.records import checked_files, study_files
from mldiv.records.contents import Assignment, StudyRecord
from mldiv.records.study_files import trial_folder
from mldiv.storage.cache import Store
from mldiv.training.fit import environment, fit
from mldiv.training.loop import let_fusion_learn, make_optimizer, steps_per_epoch, train_epoch
from mldiv.training.steps.choice import stage_step
from mldiv.training.worker_cache import Workspace, dataset

BASELINE, PARAMETER, FEATURE, BOTH = "mutual learning", "with parameter diversity", "with feature diversity", "with both"
#: In the order of training: the first leads stage one for all.
ARMS: dict[str, dict[str, Any]] = {
    BASELINE: {"alpha": 0.0, "beta": 0.0},
    PARAMETER: {"beta": 0.0},
    FEATURE: {"alpha": 0.0},
    BOTH: {},
}
CONTRASTS = {
    "main effect of parameter diversity": {PARAMETER: 0.5, BOTH: 0.5, BASELINE: -0.5, FEATURE: -0.5},
    "main effect of feature diversity": {FEATURE: 0.5, BOTH: 0.5, BASELINE: -0.5, PARAMETER: -0.5},
    "interaction (both, less the sum of each)": {BOTH: 1.0, BASELINE: 1.0, PARAMETER: -1.0, FEATURE: -1.0},
}

ALL_ENDED, MORE_TO_DO = 0, 3


class PieceOver(BaseException):
    """The piece's time is up; whatever is under way goes on from its last epoch in the next piece."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/paper_size.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="cifar100")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--epochs", type=int, default=300, help="two thirds of them, rounded, without diversity terms")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="seeds trained side by side")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this piece")
    parser.add_argument("--measure", action="store_true", help="time the steps, and say how many seeds fit into --budget")
    parser.add_argument("--budget", type=float, default=30.0, metavar="MINUTES", help="of all pieces together")
    parser.add_argument("--commit", help="the commit, where the code is no git checkout")
    parser.add_argument("--compile", action="store_true", help="torch.compile, without comparing it with graphs")
    parser.add_argument("--out", type=Path, default=Path("results/paper_size"))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--train-size", type=int, metavar="IMAGES", help="cut the training data (tests)")
    parser.add_argument("--test-size", type=int, metavar="IMAGES", help="cut the test data (tests)")
    parser.add_argument("--test-samples", type=int, metavar="N", help="weight samples of a final prediction (tests)")
    return parser.parse_args(argv)


def configure(flags: argparse.Namespace) -> TrialConfig:
    """Make the trials' common settings from the flags.

    Raises: ConfigError for what cannot be.
    """
    for name in ("seeds", "processes"):
        if getattr(flags, name) < 1:
            raise ConfigError(f"--{name} {getattr(flags, name)}: must be at least 1")
    root = str(flags.data_root.resolve()) if flags.data_root else None
    switch = round(flags.epochs * 2 / 3)
    return TrialConfig().replace(
        **PRESETS["paper"].settings | {"data": flags.data, "data_root": root, "arch": flags.arch, "width": flags.width}
        | {"epochs": flags.epochs, "switch_epoch": switch, "pretrain_epochs": switch}
        | {"compile": "on" if flags.compile else "auto"}
        | {"train_size": flags.train_size, "test_size": flags.test_size}
        | ({"test_samples": flags.test_samples} if flags.test_samples else {})
    )  # fmt: skip


def trials(base: TrialConfig, seeds: int) -> list[tuple[str, TrialConfig]]:
    """Seed after seed, so that what is finished when time runs out is whole seeds."""
    return [(arm, base.replace(**changes, seed=seed)) for seed in range(1, seeds + 1) for arm, changes in ARMS.items()]


def prepare(flags: argparse.Namespace, base: TrialConfig) -> None:
    """The study folder's header and assignments.

    Raises: ConfigError when the folder holds another configuration, or was begun on another device.
    """
    header = _header(flags, base)
    if (flags.out / "study.json").exists():
        before = study_files.read_study(flags.out)
        here = {name: header.environment[name] for name in ("device", "torch")} | asdict(base)
        there = asdict(TrialConfig()) | before.environment | before.settings
        if differing := [f"{name} ({there.get(name)} there)" for name, value in here.items() if there.get(name) != value
                         and name != "data_root"]:  # fmt: skip
            raise ConfigError(
                f"{flags.out} was begun with another {', '.join(differing)}, and its seeds would no longer be paired: "
                "use the same flags and kind of machine, or another --out"
            )
        if len(before.seeds) > flags.seeds:
            raise ConfigError(f"--seeds {flags.seeds}: {flags.out} has {len(before.seeds)} already; take at least so many")
        commits = [before.environment["commit"], header.environment["commit"]]
        header.environment["commit"] = ", then ".join(dict.fromkeys(commits))
    study_files.write_study(flags.out, header)
    found = [Assignment(arm, "repeat", config.seed, config.id) for arm, config in trials(base, flags.seeds)]
    study_files.write_assignments(flags.out, found)


def _header(flags: argparse.Namespace, base: TrialConfig) -> StudyRecord:
    here = environment(_device())
    return StudyRecord(
        name="paper_size",
        question="What do parameter diversity and feature diversity give at the paper's size?",
        scientific="method",
        preset="paper",
        baseline=BASELINE,
        arms=list(ARMS),
        changes=ARMS,
        compare=[arm for arm in ARMS if arm != BASELINE],
        contrasts=CONTRASTS,
        samples=0,
        search_seeds=[],
        searched={arm: [] for arm in ARMS},
        selection="none",
        world_size=1,
        data_is_subset=bool(flags.train_size or flags.test_size),
        seeds=list(range(1, flags.seeds + 1)),
        settings=asdict(base),
        data=dataset(base).describe(),
        environment={"mldiv": mldiv.__version__, "commit": flags.commit or checkout.commit(), "device": here["device"]}
        | {"torch": here["torch"]},
    )  # fmt: skip


@contextmanager
def time_limit(seconds: float) -> Any:
    """Raise PieceOver in the body after ``seconds``: records and checkpoints are written whole or not at all."""

    def stop(*_: Any) -> None:
        raise PieceOver

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), 5.0)  # again, should a library swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(configs: list[TrialConfig], out: Path, until: float) -> None:
    """Train these trials one after the other until all have ended or ``until`` (time.time) has come."""
    torch.set_num_threads(1)
    workspace = Workspace(_device())
    try:
        with time_limit(until - time.time()):
            for config in configs:
                folder = trial_folder(out, config.id)
                fit(config, folder, store=Store(out / "trunks"), workspace=workspace, publish=(config.switch_epoch,))
    except PieceOver:
        pass


def run(flags: argparse.Namespace, base: TrialConfig) -> int:
    until = time.time() + 60 * flags.minutes
    prepare(flags, base)
    shares: list[list[TrialConfig]] = [[] for _ in range(min(flags.processes, flags.seeds))]
    for _, config in trials(base, flags.seeds):
        shares[config.seed % len(shares)].append(config)
    if len(shares) == 1:
        train(shares[0], flags.out, until)
    else:
        processes = multiprocessing.get_context("forkserver")  # one imports torch, and its compiler for the first optimiser
        processes.set_forkserver_preload(["mldiv.training.fit", "torch._dynamo"])
        with ProcessPoolExecutor(len(shares), mp_context=processes) as pool:
            list(pool.map(train, shares, [flags.out] * len(shares), [until] * len(shares)))
    return report(flags, base)


def report(flags: argparse.Namespace, base: TrialConfig) -> int:
    """A line per trial; the exit code."""
    ended = 0
    for arm, config in trials(base, flags.seeds):
        record = study_files.find_trial(flags.out, config.id)
        ended += bool(record and record.final)
        state = f"{record.status}, {record.epochs} of {base.epochs} epochs" if record else "not begun"
        accuracy = record.test.get("pair", {}).get("accuracy") if record else None
        print(f"seed {config.seed}, {arm}: {state}" + (f", test accuracy {100 * accuracy:.2f} %" if accuracy else ""))
    total = len(ARMS) * flags.seeds
    print(f"{ended} of {total} trials have ended" + ("" if ended == total else ": run the same command again"))
    return ALL_ENDED if ended == total else MORE_TO_DO


def measure(flags: argparse.Namespace, base: TrialConfig) -> int:
    """Time an epoch of each stage and its validation, and say what a seed takes and how many the budget is enough for.

    An epoch of pretraining is taken as half an epoch of a pair.
    """
    torch.set_num_threads(1)
    workspace = Workspace(_device())
    data = workspace.data(base)
    steps = steps_per_epoch(base, data)
    spent = costs(base, workspace)
    seed, training = seed_minutes(base, spent, len(ARMS)), 60 * seed_minutes(base, spent | {"validation": 0.0}, len(ARMS))
    print(f"{data.describe()}\n{base.arch}, {base.precision}, batch {base.batch_size}, {environment(_device())['device']}")
    print("\n".join(filter(None, dict.fromkeys([workspace.fallback, *workspace.messages]))))
    for stage in ("stage one", "stage two"):
        seconds = spent[stage]
        rate = steps * base.batch_size / seconds
        print(f"{stage}: {seconds:.2f} s an epoch, {1e3 * seconds / steps:.2f} ms a step, {rate:,.0f} images/s")
    print(f"a seed of {base.epochs} epochs, {len(ARMS)} arms: about {seed:.1f} min, of which {training / 60:.1f} are steps")
    if seed <= flags.budget:
        print(f"--budget {flags.budget:g}: {int(flags.budget / seed)} seeds one after the other, more with --processes")
    else:
        shorter = max(3, int(base.epochs * flags.budget / seed))
        print(f"--budget {flags.budget:g}: not one seed; one would take --epochs {shorter}")
    return ALL_ENDED


def costs(base: TrialConfig, workspace: Workspace) -> dict[str, float]:
    """Seconds of an epoch of each stage, of its validation, and of a trial's final scores."""
    data = workspace.data(base)
    stages = {"stage one": epoch_seconds(base, workspace, False), "stage two": epoch_seconds(base, workspace, True)}
    looked = validation_seconds(base, workspace)
    images = (len(data.validation) + 2 * len(data.test)) / len(data.validation)  # test data, and as many of another kind
    return stages | {"validation": looked, "images": images}


def seed_minutes(base: TrialConfig, spent: dict[str, float], arms: int) -> float:
    """Minutes of a seed whose arms, one of them without diversity terms, share stage one; of `costs`."""
    branch, plain, looked = base.epochs - base.switch_epoch, spent["stage one"], spent["validation"]
    training = base.pretrain_epochs * plain / 2 + base.epochs * plain + (arms - 1) * branch * spent["stage two"]
    final = arms * looked * spent["images"] * base.test_samples / base.validation_samples
    return (training + (base.switch_epoch + arms * branch) * looked + final) / 60


def of_made_up_images(base: TrialConfig, device: torch.device, count: int) -> Workspace:
    """A workspace whose data are noise of CIFAR-100's form: what a trial takes does not depend on what it sees."""
    workspace, sizes = Workspace(device), (count - count // 10, count // 10, count // 5)
    parts = [Split(torch.randint(256, (size, 3, 32, 32), dtype=torch.uint8), torch.arange(size) % 100) for size in sizes]
    made_up = ImageData("made up", 100, *parts, (0.5,) * 3, (0.25,) * 3, padding=4, flip=True).to(device)
    workspace.data = lambda config: made_up  # type: ignore[method-assign]
    return workspace


def validation_seconds(base: TrialConfig, workspace: Workspace) -> float:
    """Of what `fit` predicts after every epoch; the second time counts."""
    data = workspace.data(base)
    pair = workspace.pair(base, data)
    for _ in range(2):
        began = time.perf_counter()
        predictives(base, pair, data, "validation", samples=base.validation_samples, epoch=0, device=workspace.device)
        if workspace.device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - began


def epoch_seconds(base: TrialConfig, workspace: Workspace, diverse: bool) -> float:
    """Of a second epoch, after one that warms up, as `fit` trains it."""
    data = workspace.data(base)
    pair = workspace.pair(base, data)
    pair.set_scales(torch.tensor(0.01, device=workspace.device))
    let_fusion_learn(base, pair, diverse)
    optimizer = make_optimizer(base, pair)
    how = workspace.how(base, data)
    step, why = stage_step(base, pair, optimizer, data, diverse, workspace.device, how)
    workspace.messages += [why] if why else []
    for epoch in range(2):
        began = time.perf_counter()
        given = base, pair, optimizer, data, epoch, diverse, workspace.device
        train_epoch(*given, pair_step=step)  # reads the terms: waits for the device
    return time.perf_counter() - began


def main(argv: list[str] | None = None) -> int:
    flags = parse(argv)
    try:
        base = configure(flags)
        root = Path(base.data_root) if base.data_root else None
        sources.check(base.data, root)
        ood.check(base.ood, root, base.data)
        return measure(flags, base) if flags.measure else run(flags, base)
    except (ConfigError, sources.DataError, checked_files.RecordError) as error:
        print(f"paper_size: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
