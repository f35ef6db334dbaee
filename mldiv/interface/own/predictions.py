"""Predictions of methods trained elsewhere, as arms of a study: scored as its trials are, compared as its arms are."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mldiv.config import ConfigError
from mldiv.evaluation import metrics
from mldiv.evaluation.metrics import Predictive
from mldiv.interface.results import Results, analysis, results
from mldiv.records import study_files
from mldiv.records.contents import GIVEN, PAIR, Assignment, TrialRecord, members_of
from mldiv.training.final_scores import Members, enter, keep

#: How far from 1 an image's probabilities may add up: what float16 makes of a thousand classes.
ROUNDING = 0.01


def add_predictions(
    place: str | os.PathLike[str], arms: Mapping[str, Sequence[Mapping[str, Any]]], out: str | os.PathLike[str]
) -> Results:  # fmt: skip
    """Copy a study's records to the new folder ``out``, with methods trained elsewhere as further arms; return its results.

    arms: by name, arrays for each of the study's seeds, or the first of them (what numpy.load gives of an .npz). ``test``:
    probabilities of the study's test images in their order, [images, classes], or [networks, images, classes] of networks that
    predict by their mean; ``labels``: these images' classes, by which their order is checked. What is fitted to validation
    images, as a temperature, needs ``validation`` and ``validation_labels``, the same of images that were not trained on.

    Raises: ConfigError, naming arm and run, for what are no predictions of the study's test images; RecordError; OSError.
    """
    place, out = Path(place), Path(out)
    header, study = study_files.read_study(place), analysis("records.load").load(place)
    known = [(record, of) for arm in study.arms for record in study.finished(arm).values() if (of := study.members(record))]
    if not known:
        raise ConfigError(f"{place}: no finished trial has predictions, beside which others could stand")
    data, truth = known[0][0].data, known[0][1][PAIR].label.astype(np.int64)
    found = []
    for number, (arm, runs) in enumerate(arms.items(), len(header.arms)):
        if arm in header.arms or not 0 < len(runs) <= len(header.seeds):
            raise ConfigError(f"{arm}: {len(runs)} runs; expected an arm of another name, of 1 to {len(header.seeds)} (seeds)")
        given: list[torch.Tensor] = []
        for seed, run in zip(header.seeds, runs, strict=False):
            test = _checked(run, "", f"{arm}, seed {seed}", data["classes"], truth)
            if any(torch.equal(test[PAIR].probabilities, earlier) for earlier in given):
                raise ConfigError(f"{arm}, seed {seed}: the predictions of an earlier run, which are no other seed's")
            given.append(test[PAIR].probabilities)
            validation = _checked(run, "validation_", f"{arm}, seed {seed}", data["classes"]) if "validation" in run else {}
            record = TrialRecord(f"{GIVEN}{number}-{seed}", {"epochs": 0, "seed": seed, "peers": len(test) - 1})
            record.status, record.data = "finished", data | {"train": None, "validation": len(run.get("validation_labels", ()))}
            record.notes = [f"{arm}, seed {seed}: trained elsewhere, its predictions were given"]
            found.append((Assignment(arm, "repeat", seed, record.id), record, validation, test, run))
    shutil.copytree(place / "trials", out / "trials", ignore=shutil.ignore_patterns("checkpoint.pt*"))
    if (sizes := place / "scaling.jsonl").exists():
        shutil.copy(sizes, out)
    for item, record, validation, test, run in found:
        folder, labels = study_files.trial_folder(out, item.trial), torch.from_numpy(truth)
        scaled = enter(record, validation, torch.as_tensor(run.get("validation_labels", ())), test, labels)
        record.uncertainty = {name: metrics.uncertainty_scores(member, labels) for name, member in test.items()}
        folder.mkdir()
        keep(folder, record.id, "full", test, scaled, labels)
        study_files.write_trial(folder, record)
    study_files.write_assignments(out, [*study_files.read_assignments(place), *(item for item, *_ in found)])
    compare = [*header.compare, *(arms if header.baseline else ())]
    study_files.write_study(out, replace(header, arms=[*header.arms, *arms], compare=compare))
    return results(out)


def _checked(run: Mapping[str, Any], kind: str, where: str, classes: int, truth: np.ndarray | None = None) -> Members:
    """Return the predictions of each network and of all together. Raises: ConfigError."""
    if missing := {kind.rstrip("_") or "test", f"{kind}labels"} - {*run}:
        raise ConfigError(f"{where}: {', '.join(sorted(missing))} is missing")
    values, labels = np.asarray(run[kind.rstrip("_") or "test"], dtype=float), np.asarray(run[f"{kind}labels"])
    values = values[None] if values.ndim == 2 else values
    sums = values.sum(-1, keepdims=True)
    if values.shape[1:] != (len(labels), classes) or not (values >= 0).all() or not (abs(sums - 1) < ROUNDING).all():
        raise ConfigError(
            f"{where}: an array {values.shape}, {len(labels)} labels; expected probabilities, not logits, of {classes} classes"
        )
    if labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < classes)).all():
        raise ConfigError(f"{where}, {kind}labels: expected whole numbers from 0 to {classes - 1}")
    if truth is not None and not np.array_equal(labels, truth):
        same = f", {np.mean(labels == truth):.0%} of them alike" if labels.shape == truth.shape else ""
        raise ConfigError(f"{where}: {len(labels)} labels, the study has {len(truth)}{same}: other images, or another order")
    peers = [Predictive(own, metrics.entropy(own)) for own in torch.from_numpy((values / sums).astype(np.float32))]
    return dict(zip(members_of(len(peers)), [*peers, metrics.together(*peers)], strict=True))
