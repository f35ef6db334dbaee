"""Where a trial begins: at its checkpoint, at a prefix that another trial stored, or at pretrained or random means."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mldiv import distributed, records
from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData
from mldiv.method.pair import MutualPair
from mldiv.records import TrialRecord
from mldiv.storage.files import State, load
from mldiv.training.first_stage import SharedFirstStage
from mldiv.training.pretraining import TEACHER, for_teacher, pretrained, purposes
from mldiv.training.worker_cache import Workspace

Line = dict[str, Any]

#: Called on rank 0 with each epoch's line; a true answer ends the trial early, as "stopped". Of epochs that come from the
#: store only the last one's line is reported.
Report = Callable[[Line], bool]


@dataclass
class Trial:
    """A trial in training: what is fixed, what changes with every epoch, and where it is kept.

    began: when it would have begun (`time.perf_counter`), had all its attempts followed each other; epoch: the next one.
    """

    config: TrialConfig
    folder: Path
    data: ImageData
    workspace: Workspace
    shared: SharedFirstStage
    record: TrialRecord
    pair: MutualPair
    optimizer: torch.optim.Optimizer
    began: float
    epoch: int = 0

    @property
    def device(self) -> torch.device:
        """The device of the workspace."""
        return self.workspace.device

    @property
    def diverse(self) -> bool:
        """Whether the diversity terms act in the next epoch."""
        return self.config.diverse and self.epoch >= self.config.switch_epoch

    @property
    def lines(self) -> Path:
        """The file with a line for every epoch."""
        return self.folder / "metrics.jsonl"


def begin(trial: Trial, report: Report, held: contextlib.ExitStack) -> bool:
    """Set the trial to the furthest epoch that its checkpoint or the store knows, or to its very start.

    Returns whether the report of an epoch from the store says that the trial is to stop there.

    held: takes the locks of what this trial is to publish; before that, waits for who else computes it now.
    """
    _resume(trial)
    held.enter_context(trial.shared.store.hold(trial.shared.missing(trial.epoch)))
    stored = trial.shared.longest(beyond=trial.epoch)
    if stored is not None:
        _take(trial, stored)
    elif trial.epoch == 0:
        _initialize(trial)
    _find_teacher(trial)
    extra = stored["lines"] if stored is not None else None
    if distributed.rank() == 0:
        kept = records.keep_epochs(trial.lines, trial.epoch - len(extra or []), extra)
        _count(trial.record, kept)
        if extra:
            trial.record.validation = extra[-1]["validation"]
        records.write_trial(trial.folder, trial.record)
    return distributed.from_first(bool(extra and report(extra[-1])) if distributed.rank() == 0 else False)


def _resume(trial: Trial) -> None:
    """Take up the folder's checkpoint, if there is one; rank 0 alone reads it, other ranks may be on another machine."""
    path = trial.folder / "checkpoint.pt"
    data = distributed.from_first(path.read_bytes() if distributed.rank() == 0 and path.exists() else None)
    if data is not None:
        saved = load(data, trial.device)
        trial.pair.load_state_dict(saved["pair"])
        trial.optimizer.load_state_dict(trial.optimizer.state_dict() | {"state": saved["optimizer"]["state"]})
        trial.epoch = saved["epoch"]


def _take(trial: Trial, stored: State) -> None:
    """Go on from a stored prefix: peers and momentum; the fusion is this trial's own. Its lines are cut to what is new."""
    trial.pair.load_state_dict(trial.pair.state_dict() | stored["pair"])
    trial.optimizer.load_state_dict(trial.optimizer.state_dict() | {"state": stored["optimizer"]})
    stored["lines"] = [line | {"shared": True} for line in stored["lines"] if line["epoch"] >= trial.epoch]
    trial.epoch = stored["epoch"]


def prefix(trial: Trial) -> dict[str, Any]:
    """Return the trial as the store keeps it for others."""
    peers = {name: value for name, value in trial.pair.state_dict().items() if name.startswith("peer_")}
    momentum = trial.optimizer.state_dict()["state"]
    lines = list(records.read_lines(trial.lines))
    return {"epoch": trial.epoch, "pair": peers, "optimizer": momentum, "lines": lines, "config": asdict(trial.config)}


def _initialize(trial: Trial) -> None:
    """Give the peers the means of pretrained networks, as `initialization` says."""
    for number, purpose in purposes(trial.config):
        state, trained = pretrained(trial.config, trial.data, trial.shared.store, trial.device, purpose)
        trial.pair.peers[number - 1].load_means(state)
        trial.record.cost["pretraining_epochs_trained"] += trained


def _find_teacher(trial: Trial) -> None:
    """Give the pair the weights of its teacher, wherever the trial begins: they are in no checkpoint."""
    for module in trial.pair.teachers:
        state, trained = pretrained(for_teacher(trial.config), trial.data, trial.shared.store, trial.device, TEACHER)
        module.load_state_dict(state)
        trial.record.cost["pretraining_epochs_trained"] += trained


def _count(record: TrialRecord, lines: list[Line]) -> None:
    """Enter how many epochs the trial has, trained itself or taken from the store."""
    record.epochs = len(lines)
    record.cost["epochs_shared"] = sum(line["shared"] for line in lines)
    record.cost["epochs_trained"] = len(lines) - record.cost["epochs_shared"]
