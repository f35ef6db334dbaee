"""Train one trial, without Ray: pretraining, stage one, the switch, stage two, test. Resumes exactly where it stopped."""

import contextlib
import itertools
import os
import platform
import time
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData
from mldiv.environment import checkout, numerics
from mldiv.environment.checkout import VERSION
from mldiv.environment.extras import version
from mldiv.evaluation import predictive
from mldiv.evaluation.alignment import align
from mldiv.evaluation.first_epoch import FirstEpoch
from mldiv.evaluation.gradients import Trace, measure
from mldiv.evaluation.metrics import scores
from mldiv.method.gradients import strengths
from mldiv.method.pair import OF_PAIRS, term_names
from mldiv.plugins.loading import hashes
from mldiv.records import checked_files, study_files
from mldiv.records.checked_files import Damaged, set_aside
from mldiv.records.contents import TrialRecord
from mldiv.settings.setting import TRIAL, identity
from mldiv.storage.cache import Store
from mldiv.storage.files import save_atomically
from mldiv.training import loop
from mldiv.training.final_scores import score
from mldiv.training.first_stage import SharedFirstStage
from mldiv.training.lanes.asked import Epoch, Training
from mldiv.training.pretraining import train_fusion
from mldiv.training.resume import CHECKPOINT, Line, Report, Trial, answered, begin, prefix, state
from mldiv.training.steps.choice import named, stage_step
from mldiv.training.worker_cache import Workspace

#: A fall of the feature KL below this share of its value at the switch means that the feature term died.
DEAD_SHARE = 0.01
#: A rise above this multiple means that it ran away.
RUNAWAY_MULTIPLE = 100.0


def fit(
    config: TrialConfig,
    folder: Path,
    *,
    store: Store,
    workspace: Workspace | None = None,
    publish: Collection[int] = (),
    report: Report = lambda line: False,
) -> TrialRecord:
    """Train the trial and leave its record in ``folder``; called by every rank of a group alike.

    A finished trial is returned as recorded. One that was interrupted goes on after its last whole epoch, and one whose first
    stage, or a part of it, is in the store starts from there; on CPU the result is bit for bit that of an uninterrupted run
    alone.

    workspace: device and whatever is kept between trials (default: CPU, nothing); publish: epochs of stage one after which
    other trials want to branch off, besides this trial's switch.

    Raises: ConfigError when the data cannot fill a batch; OSError when the records cannot be written. A non-finite loss does
    not raise: the trial ends as "diverged".
    """
    return alone(fitting(config, folder, store=store, workspace=workspace, publish=publish, report=report))


def alone(trial: Training) -> TrialRecord:
    """Train the epochs that a trial asks for, one after the other; return its record."""
    try:
        asked = next(trial)
        while True:
            try:
                terms = loop.train_epoch(*asked.given)
            except BaseException as error:
                asked = trial.throw(error)
            else:
                asked = trial.send(terms)
    except StopIteration as end:
        return end.value


def fitting(
    config: TrialConfig, folder: Path, *, store: Store, workspace: Workspace | None = None, publish: Collection[int] = (),
    report: Report = lambda line: False,
) -> Training:  # fmt: skip
    """Do what `fit` does, but leave every epoch's steps to whoever asks, as `fit` or `lanes.run.train_lanes`."""
    workspace = workspace or Workspace()
    data = workspace.data(config)
    record = distributed.from_first(_open_record(config, folder, data, workspace))
    if record.final:
        return record
    loop.steps_per_epoch(config, data)
    began = time.perf_counter()
    pair = workspace.pair(config, data)
    shared = SharedFirstStage(config, data, store, workspace.device, publish, lanes=workspace.lanes > 1)
    trial = Trial(config, folder, data, workspace, shared, record, pair, loop.make_optimizer(config, pair), began)
    with contextlib.ExitStack() as held:
        stopped, step = begin(trial, report, held), None
        trial.began -= sum(line["seconds"] for line in checked_files.read_lines(trial.lines) if not line["shared"])
        try:
            while trial.epoch < config.epochs and not stopped:
                started = time.perf_counter()
                loop.weigh_prior(config, pair, trial.epoch)
                if step is None or trial.epoch == config.first_stage:
                    step = None  # the old graph goes first
                    step = _begin_stage(trial)
                watch = _Watch(trial)
                given = config, pair, trial.optimizer, data, trial.epoch, trial.diverse, trial.device
                asked = Epoch(*given, watch, step)
                try:
                    terms = yield asked
                finally:
                    started, trial.began = started + asked.waited, trial.began + asked.waited
                    asked.pair_step = None
                stopped = _end_epoch(trial, terms, watch, started, report, held)
            _end_training(trial, stopped)
        except loop.Diverged as error:
            record.status, record.reason = "diverged", str(error)
    _close(trial)
    return distributed.from_first(record)


def _open_record(config: TrialConfig, folder: Path, data: ImageData, workspace: Workspace) -> TrialRecord | None:
    """Return the trial's record, new or as an interrupted attempt left it, marked as running (rank 0 only)."""
    if distributed.rank():
        return None
    record = _found(config, folder, data)
    if record.final:
        return record
    record.config, record.attempts = asdict(config), record.attempts + 1
    record.left_out = sorted(set(record.config) - set(identity(config, TRIAL)))
    sizes = {name: len(split) for name, split in data.splits.items()}
    record.status, record.reason = "running", None
    record.data = sizes | {"classes": data.classes, "fingerprint": data.fingerprint, "test_fingerprint": data.test_fingerprint}
    record.data |= {"whole_fingerprint": data.whole_fingerprint, "label_entropy": data.label_entropy} | data.form
    record.environment = environment(workspace.device) | ({"lanes": workspace.lanes} if workspace.lanes > 1 else {})
    study_files.write_trial(folder, record)
    return record


def _found(config: TrialConfig, folder: Path, data: ImageData) -> TrialRecord:
    """Return the record in the folder, or a new one; one that is damaged or another trial's is set aside and noted.

    So is one of other images, as in a folder that was copied, with its checkpoint.
    """
    new = TrialRecord(config.id, asdict(config), attempts=0)
    path = folder / "trial.json"
    if not os.path.lexists(path):
        return new
    try:
        record = study_files.read_trial(folder)
        if record.id != config.id:
            raise Damaged(f"{path}: the record of another trial, {record.id!r:.80}")
        if record.of_other_images(data.whole_fingerprint, data.test_fingerprint):
            if (folder / CHECKPOINT).exists():
                set_aside(folder / CHECKPOINT)
            raise Damaged(f"{path}: this trial with other images")
        return record
    except Damaged as error:
        why = str(error).removeprefix(f"{path}: ").removesuffix(f"; {study_files.MEND['trial.json']}")
        new.notes.append(f"trial.json was damaged ({why}) and is kept as {set_aside(path)}")
        return new


def environment(device: torch.device) -> dict[str, Any]:
    """Return what besides the configuration can change numbers."""
    return {
        "mldiv": VERSION,
        "python": platform.python_version(),
        "commit": checkout.commit(),
        "code": checkout.code(),
        "torch": torch.__version__,
        **{name: version(name) or "none" for name in ("ray", "optuna", "numpy")},
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # by the vectors' width sums have other last digits
        **numerics.described(device),
        "world_size": distributed.size(),
        "threads": torch.get_num_threads(),
        **({"plugins": found} if (found := hashes()) else {}),
    }


def _begin_stage(trial: Trial) -> loop.PairStep:
    """Return the step of the stage that the trial has come to, gradients averaged over ranks; on a GPU, record how it is made.

    The fusion has gradients in stage two only. At the switch the scales of the diversity terms are fixed, and the optimiser
    of a stage two that restarts forgets its momentum.
    """
    config, pair = trial.config, trial.pair
    if config.restarts and trial.epoch == config.switch_epoch:
        trial.optimizer.state.clear()
    loop.let_fusion_learn(config, pair, trial.diverse)
    if trial.diverse and trial.epoch == config.switch_epoch:
        _switch(trial)
    loop.let_fusion_learn(config, pair, trial.diverse and config.fusion_training != "switch")
    how = trial.workspace.how(config, trial.data)
    step, why = stage_step(config, pair, trial.optimizer, trial.data, trial.diverse, trial.device, how)
    if trial.device.type == "cuda":
        trial.record.environment["steps"] = named(how, why)
    trial.workspace.messages += [why] if why else []
    return step


class _Watch:
    """What is measured within an epoch, after its steps."""

    def __init__(self, trial: Trial) -> None:
        config, pair, epoch, device = trial.config, trial.pair, trial.epoch, trial.device
        batches = partial(loop.epoch_batches, config, trial.data, epoch, "gradients", device)
        self.gradients = Trace(config, pair, epoch, trial.diverse, batches)
        self.first_epoch = FirstEpoch(config, pair, trial.data, epoch, device)

    def __call__(self, done: float) -> None:
        self.gradients(done)
        self.first_epoch(done)

    def lines(self) -> Line:
        """Return its part of the epoch's line."""
        return {"gradients": self.gradients.lines(), "first_epoch": self.first_epoch.lines()}


def _end_epoch(trial: Trial, terms: Tensor, watch: _Watch, started: float, report: Report, held: contextlib.ExitStack) -> bool:
    """Evaluate and keep an epoch, let go of the locks when nothing is left to publish; tell whether to stop early."""
    distributed.average_buffers(trial.pair)
    line = _line(trial, trial.epoch, trial.diverse, terms)
    line |= watch.lines()
    line["seconds"] = time.perf_counter() - started
    trial.epoch += 1
    stop = answered(lambda: _keep(trial, line, report))
    if trial.epoch >= trial.shared.last:
        held.close()
    return stop and trial.epoch < trial.config.epochs


def _end_training(trial: Trial, stopped: bool) -> None:
    """Enter into the record how the trial ended, with the final scores of one that was not stopped."""
    record = trial.record
    if stopped:
        record.status, record.reason = "stopped", f"stopped early after epoch {record.epochs - 1}"
    else:
        record.status, record.reason = "finished", None
        score(trial)


def _close(trial: Trial) -> None:
    """Write the record of a trial that has ended (rank 0 alone)."""
    record, store, workspace = trial.record, trial.shared.store, trial.workspace
    record.seconds = time.perf_counter() - trial.began
    if distributed.rank() == 0:
        fallback = [workspace.fallback] if trial.config.steps == "on" and workspace.fallback else []
        said = _notes(record, trial.lines) + store.messages + workspace.messages + fallback
        record.notes += [note for note in dict.fromkeys(said) if note not in record.notes]
        study_files.write_trial(trial.folder, record)
    store.messages.clear()
    workspace.messages.clear()


def _switch(trial: Trial) -> None:
    """Fix the order of channels, the diversity terms' scales and strengths; note these and where both distances stand."""
    config, pair = trial.config, trial.pair
    if config.fusion_training == "switch" and config.fusion != "frozen":
        train_fusion(config, pair, trial.data, trial.device)
    align(config, pair, trial.data, trial.device)
    level = predictive.feature_kl(config, pair, trial.data, "train", epoch=trial.epoch, device=trial.device, own=True)
    trial.record.switch = pair.set_scales(level)
    if config.weighting == "gradient":
        batches = itertools.islice(
            loop.epoch_batches(config, trial.data, trial.epoch, "gradients", trial.device), config.scale_batches
        )
        lengths = measure(config, pair, batches, epoch=trial.epoch, diverse=True, weighted=False)
        found = strengths(lengths, len(pair.peers))
        pair.set_strengths(found["param"], found["feature"])
        trial.record.switch |= {f"{name}_strength": float(value) for name, value in found.items()}
    if distributed.rank() == 0:
        study_files.write_trial(trial.folder, trial.record)


def _keep(trial: Trial, line: Line, report: Report) -> bool:
    """Write an epoch's line and checkpoint, publish what others want, report; tell whether to stop (rank 0 only)."""
    record = trial.record
    study_files.append_line(trial.lines, line)
    record.epochs, record.validation = trial.epoch, line["validation"]
    record.cost["epochs_trained"] += 1
    record.seconds = time.perf_counter() - trial.began
    if trial.shared.wants(trial.epoch):  # before the checkpoint: a trial that resumes from there has published
        trial.shared.publish(trial.epoch, prefix(trial))
    save_atomically(trial.folder / CHECKPOINT, state(trial))
    return bool(report(line))


def _line(trial: Trial, epoch: int, diverse: bool, terms: Tensor) -> Line:
    """Return an epoch's line of metrics.jsonl. The fields are the same in both stages; what is not computed is None."""
    config, pair, data, device = trial.config, trial.pair, trial.data, trial.device
    train = dict(zip(term_names(len(pair.peers)), terms.tolist(), strict=True))
    if not diverse:
        train |= dict.fromkeys(OF_PAIRS)
    validation, diversity = {}, predictive.diversity(pair, diverse and config.param_alignment != "none")
    if len(data.validation):
        members, labels = predictive.predictives(
            config, pair, data, "validation", samples=config.validation_samples, epoch=epoch, device=device
        )
        loop.check_finite(members, f"epoch {epoch}, validation")
        validation = {member: scores(prediction, labels, predictive.EPOCH_METRICS) for member, prediction in members.items()}
    if len(pair.peers) > 1 and not validation:
        diversity |= dict.fromkeys(("feature_kl", "disagreement"))
    elif len(pair.peers) > 1:
        diversity["feature_kl"] = float(predictive.feature_kl(config, pair, data, "validation", epoch=epoch, device=device))
        diversity["disagreement"] = predictive.disagreement(members)
    return {
        "epoch": epoch,
        "stage": 1 if epoch < config.first_stage else 2,
        "shared": False,
        "lr": loop.stage_rate(config, epoch),
        "train": train,
        "validation": validation,
        "diversity": diversity,
    }


def _notes(record: TrialRecord, path: Path) -> list[str]:
    """Return what a reader of the record should know: a feature term that died or ran away since the switch."""
    levels = [line["train"]["feature_kl"] for line in checked_files.read_lines(path) if line["stage"] == 2]
    start = record.switch.get("feature_kl")
    if not levels or not start or levels[-1] is None:
        return []
    if levels[-1] < DEAD_SHARE * start:
        return [f"feature term died: feature KL fell from {start:.2g} at the switch to {levels[-1]:.2g}"]
    if levels[-1] > RUNAWAY_MULTIPLE * start:
        return [f"feature term ran away: feature KL rose from {start:.2g} at the switch to {levels[-1]:.2g}"]
    return []


def summary(line: dict[str, Any]) -> dict[str, Any]:
    """Return what a trial's client hears of an epoch; the rest is in metrics.jsonl."""
    scores = line["validation"].get("pair", dict.fromkeys(predictive.EPOCH_METRICS))
    return {"epoch": line["epoch"], "stage": line["stage"], "seconds": line["seconds"], **scores}
