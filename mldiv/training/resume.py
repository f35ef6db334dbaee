"""Where a trial begins: at its checkpoint, at a prefix that another trial stored, or at pretrained or random means."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData
from mldiv.method.pair import MutualPair
from mldiv.records import study_files
from mldiv.records.checked_files import Damaged, RecordError, read_bytes, set_aside
from mldiv.records.contents import TrialRecord
from mldiv.storage.files import State, check_form, check_optimizer, fill, load, save_atomically
from mldiv.training.first_stage import SharedFirstStage
from mldiv.training.pretraining import TEACHER, for_teacher, from_file, pretrained, purposes
from mldiv.training.worker_cache import Workspace

CHECKPOINT = "checkpoint.pt"

#: In a record's note of the file from which a peer's means come: between the peer and what of the file fits.
STARTS = " starts from "

Line = dict[str, Any]

#: Called on rank 0 with each epoch's line; a true answer ends the trial early, as "stopped", and StudyOver leaves it. Of
#: epochs that come from the store only the last one's line is reported.
Report = Callable[[Line], bool]


class StudyOver(BaseException):
    """Raised by a `Report` when nobody waits for the trial any more: it is left as it is and goes on in a later run."""


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

    held: takes the locks of what this trial is to publish; before that, waits for who else computes it now (not as one of
    several lanes: who waits holds up those whose locks others wait for).
    """
    _resume(trial)
    alone = trial.workspace.lanes == 1
    held.enter_context(trial.shared.store.hold(trial.shared.missing(trial.epoch), wait=alone))
    stored = trial.shared.longest(trial.epoch, partial(_check_prefix, trial))
    if stored is not None:
        _take(trial, stored)
    elif trial.epoch == 0:
        _initialize(trial)
    _find_teacher(trial)
    extra = stored["lines"] if stored is not None else None
    if distributed.rank() == 0:
        kept = study_files.keep_epochs(trial.lines, trial.epoch - len(extra or []), extra)
        _count(trial.record, kept)
        if extra:
            trial.record.validation = extra[-1]["validation"]
            if trial.epoch == trial.config.epochs:  # no epoch is left to leave it
                save_atomically(trial.folder / CHECKPOINT, state(trial))
        study_files.write_trial(trial.folder, trial.record)
    return answered(lambda: bool(extra and report(extra[-1]))) and trial.epoch < trial.config.epochs


def answered(tell: Callable[[], bool]) -> bool:
    """Let rank 0 report by ``tell``; return the answer on every rank.

    Raises: StudyOver on every rank where rank 0 gets that, so that none is left waiting for the others.
    """
    answer: bool | StudyOver = False
    try:
        answer = tell() if distributed.rank() == 0 else False
    except StudyOver as over:
        answer = over
    answer = distributed.from_first(answer)
    if isinstance(answer, StudyOver):
        raise answer
    return answer


def _resume(trial: Trial) -> None:
    """Take up the folder's checkpoint, if there is one; rank 0 alone reads it, other ranks may be on another machine.

    One that is damaged, another trial's, or of epochs whose lines are lost is set aside, noted, and the trial begins anew.
    """
    data, lines = distributed.from_first(_checkpoint(trial) if distributed.rank() == 0 else None)
    try:
        if isinstance(data, Damaged):
            raise data
        if data is not None:
            _take_up(trial, load(data, trial.device), lines)
    except Damaged as error:
        if distributed.rank() == 0:
            name = set_aside(trial.folder / CHECKPOINT)
            trial.record.notes.append(f"{CHECKPOINT} was damaged ({error}), is kept as {name}, and the trial was begun anew")


def _checkpoint(trial: Trial) -> tuple[bytes | Damaged | None, int]:
    """Return the checkpoint's bytes, or what is wrong with the file, and how many epochs' lines are whole."""
    lines = 0
    with contextlib.suppress(RecordError):
        for _ in study_files.epoch_lines(trial.lines):
            lines += 1
    try:
        return read_bytes(trial.folder / CHECKPOINT, None), lines
    except FileNotFoundError:
        return None, lines
    except Damaged as error:
        return error, lines


def _take_up(trial: Trial, saved: State, lines: int) -> None:
    """Set the trial to what a checkpoint holds. Raises: Damaged, with the trial as it was, where that is not this trial's.

    A checkpoint of mldiv 0.5.0 does not say whose it is, nor where the distances stood at the switch.
    """
    owner, epoch = saved.get("trial", trial.config.id), saved.get("epoch")
    if owner != trial.config.id:
        raise Damaged(f"it is trial {owner!r:.40}'s")
    if type(epoch) is not int or not 0 < epoch <= trial.config.epochs:
        raise Damaged(f"it is of epoch {epoch!r:.40} of {trial.config.epochs}")
    if epoch > lines:
        raise Damaged(f"metrics.jsonl holds {lines} of its {epoch} epochs")
    switch = saved.get("switch") or trial.record.switch
    if not isinstance(switch, dict) or not all(isinstance(value, float) for value in switch.values()):
        raise Damaged("what it knows of the switch is wrong")
    check_optimizer(saved.get("optimizer"), trial.optimizer)
    had = saved.get("momentum", [])  # which older checkpoints do not say
    if not isinstance(had, list) or not all(isinstance(number, int) for number in had):
        raise Damaged("what it knows of its momentum is wrong")
    if not _with_momentum(trial) | set(had) <= set(saved["optimizer"]["state"]):
        raise Damaged("its optimiser has lost its momentum")
    fill(trial.pair, saved.get("pair"))
    trial.optimizer.load_state_dict(trial.optimizer.state_dict() | {"state": saved["optimizer"]["state"]})
    trial.epoch, trial.record.switch = epoch, dict(switch)


def _with_momentum(trial: Trial) -> set[int]:
    """The numbers of the peers' means and rhos in the optimiser's state, which every step trains.

    What else a network has may be in no forward pass, and then has no state: a checkpoint says which have.
    """
    trained = {id(value) for peer in trial.pair.peers for value in (*peer.trained_means, *peer.trained_rhos)}
    numbered = enumerate(value for group in trial.optimizer.param_groups for value in group["params"])
    kept = trial.config.momentum or trial.config.optimizer == "adamw"
    return {number for number, value in numbered if kept and id(value) in trained and value.requires_grad}


def state(trial: Trial) -> State:
    """Return the trial as its checkpoint holds it."""
    optimizer = trial.optimizer.state_dict()
    return {
        "pair": trial.pair.state_dict(), "optimizer": optimizer, "momentum": list(optimizer["state"]), "epoch": trial.epoch,
        "trial": trial.config.id, "switch": trial.record.switch,
    }  # fmt: skip


def _check_prefix(trial: Trial, stored: State) -> None:
    """Raise Damaged for a stored prefix that does not hold what this trial goes on from."""
    check_form(stored.get("pair"), _peers(trial))
    check_optimizer({"state": stored.get("optimizer")}, trial.optimizer)
    lines = stored.get("lines")
    if not isinstance(lines, list) or len(lines) != stored.get("epoch"):
        raise Damaged("its lines are not those of its epochs")
    for number, line in enumerate(lines):
        study_files.check_line(line, number, f"line {number + 1}")


def _take(trial: Trial, stored: State) -> None:
    """Go on from a stored prefix: peers and momentum; the fusion is this trial's own. Its lines are cut to what is new."""
    trial.pair.load_state_dict(trial.pair.state_dict() | stored["pair"])
    trial.optimizer.load_state_dict(trial.optimizer.state_dict() | {"state": stored["optimizer"]})
    stored["lines"] = [line | {"shared": True} for line in stored["lines"] if line["epoch"] >= trial.epoch]
    trial.record.notes += [note for note in stored.get("notes", []) if note not in trial.record.notes]
    trial.epoch = stored["epoch"]


def prefix(trial: Trial) -> dict[str, Any]:
    """Return the trial as the store keeps it for others."""
    momentum, lines = trial.optimizer.state_dict()["state"], list(study_files.epoch_lines(trial.lines))
    notes = [note for note in trial.record.notes if STARTS in note]
    known = {"lines": lines, "config": asdict(trial.config), "notes": notes}
    return {"epoch": trial.epoch, "pair": _peers(trial), "optimizer": momentum, **known}


def _peers(trial: Trial) -> State:
    """Return the peers' part of the pair's state."""
    return {name: value for name, value in trial.pair.state_dict().items() if name.startswith("peer_")}


def _initialize(trial: Trial) -> None:
    """Give the peers the means of pretrained networks, as `initialization` says, or of a file's weights."""
    for number, purpose in purposes(trial.config):
        if trial.config.pretrained:
            state, said = from_file(trial.config, trial.data.shapes, purpose)
            trial.pair.peers[number - 1].load_means(state)
            if (note := f"peer {number}{STARTS}{said}") not in trial.record.notes:
                trial.record.notes.append(note)
            continue
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
