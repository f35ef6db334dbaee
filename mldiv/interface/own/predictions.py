"""Predictions of methods trained elsewhere, as arms of a study: scored as its trials are, compared as its arms are."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mldiv import soft_labels
from mldiv.config import ConfigError
from mldiv.datasets.formats.arrays import classes_of
from mldiv.evaluation import metrics
from mldiv.evaluation.metrics import Predictive
from mldiv.interface.results import Results, analysis, results
from mldiv.records import study_files
from mldiv.records.contents import GIVEN, PAIR, Assignment, StudyRecord, TrialRecord, members_of
from mldiv.settings.setting import shown
from mldiv.training.final_scores import Members, enter, keep

#: How far from 1 an image's probabilities may add up: what float16 makes of a thousand classes.
ROUNDING = 0.01


def add_predictions(
    place: str | os.PathLike[str], arms: Mapping[str, Sequence[Mapping[str, Any]]], out: str | os.PathLike[str]
) -> Results:  # fmt: skip
    """Copy a study's records to the new folder ``out``, with methods trained elsewhere as further arms; return its results.

    arms: by name, arrays for each of the study's seeds, or the first of them (what numpy.load gives of an .npz). ``test``:
    probabilities of the study's test images in their order, [images, classes], or [networks, images, classes] of networks that
    predict by their mean; ``labels``: these images' classes, by which their order is checked, in a study of soft labels the
    shares. What is fitted to validation images, as a temperature, needs ``validation`` and ``validation_labels``, the same of
    images that were not trained on.

    Raises: ConfigError, naming arm and run, for what are no predictions of the study's test images; RecordError; OSError.
    """
    place, out = Path(place), Path(out)
    header, study = study_files.read_study(place), analysis("records.load").load(place)
    _check_arms(arms, header)
    known = [(record, of) for arm in study.arms for record in study.finished(arm).values() if (of := study.members(record))]
    if not known:
        raise ConfigError(f"{place}: no finished trial has predictions, beside which others could stand")
    data, truth = known[0][0].data, known[0][1][PAIR].label.astype(np.int64)
    soft = any(map(analysis("compact.planes").soft, (member for _, of in known for member in of.values())))
    found = []
    for number, (arm, runs) in enumerate(arms.items(), len(header.arms)):
        given: list[Members] = []
        for seed, run in zip(header.seeds, runs, strict=False):
            test, labels = _checked(run, "", f"{arm}, seed {seed}", data["classes"])
            _check_order(labels, truth, soft, f"{arm}, seed {seed}")
            if any(torch.equal(test[PAIR].probabilities, earlier[PAIR].probabilities) for earlier in given):
                raise ConfigError(f"{arm}, seed {seed}: the predictions of an earlier run, which are no other seed's")
            given.append(test)
            validation: Members = {}
            fitted = torch.empty(0)
            if "validation" in run:
                validation, fitted = _checked(run, "validation_", f"{arm}, seed {seed}", data["classes"])
            if any(of.keys() != given[0].keys() for of in (test, validation) if of):
                raise ConfigError(
                    f"{arm}, seed {seed}: predictions of another number of networks than the arm's first of test images"
                )
            record = TrialRecord(f"{GIVEN}{number}-{seed}", {"epochs": 0, "seed": seed, "peers": len(test) - 1})
            record.status, record.data = "finished", data | {"train": None, "validation": len(fitted)}
            record.notes = [f"{arm}, seed {seed}: trained elsewhere, its predictions were given"]
            found.append((Assignment(arm, "repeat", seed, record.id), record, validation, fitted, test, labels))
    shutil.copytree(place / "trials", out / "trials", ignore=shutil.ignore_patterns("checkpoint.pt*"))
    if (sizes := place / "scaling.jsonl").exists():
        shutil.copy(sizes, out)
    for item, record, validation, fitted, test, labels in found:
        folder, scaled = study_files.trial_folder(out, item.trial), enter(record, validation, fitted, test, labels)
        record.uncertainty = {name: metrics.uncertainty_scores(member, labels) for name, member in test.items()}
        folder.mkdir()
        keep(folder, record.id, "full", test, scaled, labels)
        study_files.write_trial(folder, record)
    study_files.write_assignments(out, [*study_files.read_assignments(place), *(item for item, *_ in found)])
    compare = [*header.compare, *(arms if header.baseline else ())]
    study_files.write_study(out, replace(header, arms=[*header.arms, *arms], compare=compare))
    return results(out)


def _check_arms(arms: Any, header: StudyRecord) -> None:
    """Refuse what are no runs by name, too many of them, and a name that is taken. Raises: ConfigError."""
    if not isinstance(arms, Mapping):
        raise ConfigError(f"arms = {shown(arms)}: expected a list of runs for each by its name, {{name: [run, ...]}}")
    for arm, runs in arms.items():
        many, most = len(runs) if isinstance(runs, Sequence) else 0, len(header.seeds)
        if not isinstance(arm, str) or arm in header.arms or not 0 < many <= most:
            found = f"{arm!r}: {many or 'no list of'} runs"
            raise ConfigError(f"{found}; expected a list of 1 to {most} runs (seeds), of an arm of another name")


def _checked(run: Mapping[str, Any], kind: str, where: str, classes: int) -> tuple[Members, torch.Tensor]:
    """Return the predictions of each network and of all together, and the labels, also soft ones. Raises: ConfigError."""
    if not isinstance(run, Mapping):
        raise ConfigError(f"{where}: a {type(run).__name__}, where arrays by name are expected")
    if missing := {kind.rstrip("_") or "test", f"{kind}labels"} - {*run}:
        raise ConfigError(f"{where}: {', '.join(sorted(missing))} is missing")
    try:
        values = np.asarray(run[kind.rstrip("_") or "test"], dtype=float)
        labels = np.atleast_1d(np.asarray(run[f"{kind}labels"]))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{where}: no array of numbers ({error})") from None
    values = values[None] if values.ndim == 2 else values
    sums, given = values.sum(-1, keepdims=True), f"{where}, {kind}labels"
    if (
        values.shape[1:] != (len(labels), classes) or not values.size
        or not (values >= 0).all() or not (abs(sums - 1) < ROUNDING).all()
    ):  # fmt: skip
        raise ConfigError(
            f"{where}: an array {values.shape}, {len(labels)} labels; expected probabilities, not logits, of {classes} classes"
        )
    if labels.shape == (len(labels), classes):
        labels = soft_labels.normalised(labels, given, ConfigError).astype(np.float32)
    elif labels.ndim != 1 or labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < classes)).all():
        raise ConfigError(f"{given}: expected whole numbers from 0 to {classes - 1}, or soft labels of these classes")
    else:
        labels = labels.astype(np.int64)
    peers = [Predictive(own, metrics.entropy(own)) for own in torch.from_numpy((values / sums).astype(np.float32))]
    return dict(zip(members_of(len(peers)), [*peers, metrics.together(*peers)], strict=True)), torch.from_numpy(labels)


def _check_order(labels: torch.Tensor, truth: np.ndarray, soft: bool, where: str) -> None:
    """Refuse labels of other test images than the study's, or of another order or kind. Raises: ConfigError."""
    found = classes_of(labels).numpy()
    if not np.array_equal(found, truth):
        same = f", {np.mean(found == truth):.0%} of them alike" if found.shape == truth.shape else ""
        raise ConfigError(f"{where}: {len(found)} labels, the study has {len(truth)}{same}: other images, or another order")
    if (labels.dim() == 2) != soft:
        kind = "soft, a share of each class" if soft else "whole numbers"
        raise ConfigError(f"{where}: the study's test labels are {kind}: give those (results(...).images().test.truth)")
