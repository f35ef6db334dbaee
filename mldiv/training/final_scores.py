"""Give a trial its final scores: the only use of the test data, and of images of another kind."""

import io
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.datasets import corruptions, ood
from mldiv.datasets.formats.arrays import classes_of
from mldiv.datasets.splits import ImageData
from mldiv.evaluation import metrics, recalibration, temperature_scaling
from mldiv.evaluation.metrics import Predictive
from mldiv.evaluation.predictive import disagreement, evaluation, predictives
from mldiv.records.checked_files import write_atomically
from mldiv.records.contents import PAIR, TrialRecord, members_of
from mldiv.storage import full_predictions
from mldiv.training.loop import check_finite
from mldiv.training.resume import Trial

Members = dict[str, Predictive]

#: A step of training takes the arithmetic of so many predictions: forward once, backward twice.
STEP_PASSES = 3

#: Scores of a few peers together, and what recalibration is judged by.
PROPER = ("nll", "accuracy", "ece")

#: Scores of each kind of corruption, all severities together.
OF_A_KIND = ("nll", "accuracy")


def score(trial: Trial) -> None:
    """Enter a trial's final scores into its record, and write what ``keep_predictions`` says of its predictions.

    The scores are those on validation and test data; the same on test data after temperature scaling and other recalibrations,
    fitted on validation data; of the first peers together; how well uncertainty detects errors and each set of ``config.ood``;
    on corrupted test images. What needs validation images is left out where there are none. Every rank's call.
    """
    record = trial.record
    validation, known = _predict(trial, trial.data, "validation") if len(trial.data.validation) else ({}, torch.empty(0))
    record.posterior = _posterior(trial, validation, known)
    test, labels = _predict(trial, trial.data, "test")
    scaled = enter(record, validation, known, test, labels)
    record.generalized = _generalized(trial, test, labels)
    record.size = _size(trial)
    others = _others(trial)
    first = next(iter(others.values()), {})
    record.uncertainty = {
        member: metrics.uncertainty_scores(prediction, labels, first.get(member)) for member, prediction in test.items()
    }
    record.other = {
        member: {
            f"{name}/{score}": value
            for name, other in others.items()
            for score, value in metrics.detection_scores(prediction, other[member]).items()
        }
        for member, prediction in test.items()
        if others
    }
    record.shift = _shift(trial)
    if distributed.rank() == 0 and trial.config.keep_predictions != "none":
        keep(trial.folder, record.id, trial.config.keep_predictions, test, scaled, labels)
        if first:
            write_table(trial.folder / "ood.parquet", other_table(first), record.id)


def enter(record: TrialRecord, validation: Members, known: Tensor, test: Members, labels: Tensor) -> Members:
    """Enter what predictions alone tell into a record; return those of the test after temperature scaling.

    known, labels: of validation and of test images; without validation images nothing is scaled.
    """
    record.validation = _scores(validation, known)
    record.calibration_temperature = {
        member: temperature_scaling.fit_temperature(prediction.probabilities, known)
        for member, prediction in validation.items()
    }
    record.test = _scores(test, labels)
    scaled = {
        member: prediction._replace(
            probabilities=temperature_scaling.scale(prediction.probabilities, record.calibration_temperature[member])
        )
        for member, prediction in test.items()
        if validation
    }
    names = tuple(name for name in metrics.METRICS if name != "mutual_information")  # what scaling leaves undefined
    record.test_scaled = {member: metrics.scores(prediction, labels, names) for member, prediction in scaled.items()}
    record.recalibrated = {
        member: _recalibrated(prediction, known, test[member], labels) for member, prediction in validation.items()
    }
    record.ensembles = _ensembles(validation, known, test, labels)
    return scaled


def keep(folder: Path, trial: str, what: str, test: Members, scaled: Members, labels: Tensor) -> None:
    """Write a trial's predictions of the test images. what: "top" or "full"."""
    write_table(folder / "predictions.parquet", predictions_table(test, scaled, labels), trial)
    if what == "full":
        logarithms = {member: prediction.probabilities.log().cpu().numpy() for member, prediction in test.items()}
        full_predictions.write(folder / full_predictions.FILE, logarithms, trial)


def _posterior(trial: Trial, sampled: Members, labels: Tensor) -> dict[str, dict[str, float]]:
    """Say how far the predictions of the weight samples, of validation data, are from those of the means alone."""
    means = _predict(trial, trial.data, "validation", samples=0)[0] if sampled else {}
    names = ("nll", "accuracy")
    found: dict[str, dict[str, float]] = {member: {} for member in members_of(len(trial.pair.peers))}
    for member, prediction in means.items():
        found[member] = metrics.scores(sampled[member], labels, names)
        found[member] |= {f"mean_{name}": value for name, value in metrics.scores(prediction, labels, names).items()}
    *peers, together = found
    for name, peer in zip(peers, trial.pair.peers, strict=True):
        found[name]["sigma_over_mean"] = float((peer.sigma / peer.mean.abs()).detach().median())
    if sampled:
        found[together] |= metrics.mutual_information_parts(*(sampled[name] for name in peers))
    return found


def _predict(trial: Trial, data: ImageData, split: str, samples: int | None = None) -> tuple[Members, Tensor]:
    config = trial.config
    samples, epoch = config.test_samples if samples is None else samples, config.epochs
    found, labels = predictives(config, trial.pair, data, split, samples=samples, epoch=epoch, device=trial.device)
    check_finite(found, f"after the last epoch, {split}")
    return found, labels


def _scores(members: Members, labels: Tensor) -> dict[str, dict[str, float]]:
    return {member: metrics.scores(prediction, labels) for member, prediction in members.items()}


def _recalibrated(validation: Predictive, known: Tensor, test: Predictive, labels: Tensor) -> dict[str, float]:
    """Score a member's test predictions after each of RECALIBRATORS."""
    found: dict[str, float] = {}
    for name, fit in recalibration.RECALIBRATORS.items():
        made = test._replace(probabilities=fit(validation.probabilities, known)(test.probabilities))
        found |= {f"{name}_{metric}": value for metric, value in metrics.scores(made, labels, PROPER).items()}
    return found


def _ensembles(validation: Members, known: Tensor, test: Members, labels: Tensor) -> dict[str, dict[str, float]]:
    """Score the first 1, 2, ... peers together, also after a temperature that is fitted to so many."""
    peers, found = [name for name in test if name != PAIR], {}
    for count in range(1, len(peers) + 1):
        made = metrics.together(*(test[name] for name in peers[:count]))
        found[str(count)] = metrics.scores(made, labels, PROPER)
        if validation:
            fitted = metrics.together(*(validation[name] for name in peers[:count]))
            temperature = temperature_scaling.fit_temperature(fitted.probabilities, known)
            scaled = made._replace(probabilities=temperature_scaling.scale(made.probabilities, temperature))
            found[str(count)]["scaled_nll"] = float(metrics.nll(scaled, labels))
    return found


def _generalized(trial: Trial, test: Members, labels: Tensor) -> dict[str, dict[str, float | None]]:
    """Measure the peers' diversity on test images, and on as many training images, as they are: what of it generalises."""
    if len(test) < 3:
        return {}
    train = trial.data.train
    places = np.linspace(0, len(train) - 1, min(len(train), len(labels))).round().astype(int)
    seen, their = _predict(trial, replace(trial.data, test=train.take(places)), "test")
    return {"test": diversity_scores(test, labels), "train": diversity_scores(seen, their)}


def diversity_scores(members: Members, labels: Tensor) -> dict[str, float | None]:
    """Return the peers' disagreement, the share of it in their mean error, and the gain in NLL of all over their mean.

    over_error is None where no peer errs: of independent errors it is at most 2, in a joint error less. gain: never negative,
    by Jensen's inequality: Abe et al., Pathologies of Predictive Diversity in Deep Ensembles (TMLR 2024).
    """
    peers = [prediction for name, prediction in members.items() if name != PAIR]
    error = 1 - statistics.fmean(float(metrics.accuracy(peer, classes_of(labels))) for peer in peers)
    apart = disagreement(members)
    mean = statistics.fmean(float(metrics.nll(peer, labels)) for peer in peers)
    found = {"disagreement": apart, "error": error, "gain": mean - float(metrics.nll(members[PAIR], labels))}
    return found | {"over_error": apart / error if error else None}


def _size(trial: Trial) -> dict[str, float]:
    """Count all peers' parameters, and the floating-point operations of an image's prediction by one weight sample each."""
    image = torch.zeros(1, *trial.data.train.images.shape[1:], device=trial.device)
    with torch.no_grad(), evaluation(trial.pair), FlopCounterMode(display=False) as counter:
        for peer in trial.pair.peers:
            peer(image, weights=peer.mean)
    parameters = sum(value.numel() for peer in trial.pair.peers for value in peer.parameters() if value.requires_grad)
    return {"parameters": float(parameters), "forward_flops": float(counter.get_total_flops())}


def _others(trial: Trial) -> dict[str, Members]:
    """Predict as many images of each other set as there are test images, with the same weight samples."""
    config, data = trial.config, trial.data
    root = Path(config.data_root) if config.data_root else None
    return {
        ood.label(name): _predict(trial, ood.in_place_of_test(data, name, root), "test")[0] for name in ood.names(config.ood)
    }


def shifted_images(config: TrialConfig, data: ImageData) -> int:
    """Return how many test images of each corruption are predicted: by ``shift_share``, at most those that are its own.

    A prediction of an image takes ``test_samples`` passes of each peer, an epoch's training on one STEP_PASSES. Networks
    without noise, and those trained on several samples, get the same images as the others.
    """
    training = config.epochs * len(data.train) * STEP_PASSES
    within = int(config.shift_share * training / (cells() * config.test_samples))
    return min(within, len(data.test) // len(corruptions.CORRUPTIONS))


def cells() -> int:
    """Return how many kinds of corruption there are, each severity for itself."""
    return len(corruptions.CORRUPTIONS) * len(corruptions.SEVERITIES)


def _shift(trial: Trial) -> dict[str, dict[str, float]]:
    """Score corrupted test images with the same weight samples: each severity with all kinds, each kind at all severities."""
    config, data = trial.config, trial.data
    count = shifted_images(config, data)
    if not count:
        if config.shift_share:
            trial.record.notes.append("no corrupted images: shift_share leaves room for none of a kind, or there are too few")
        return {}
    files = corruptions.published(config.data, config.data_root) if config.shift_images == "files" else None
    parts = list(corruptions.shifted(data, count, files=files))
    seen = data.test.take(torch.cat([part.indices for part in parts]).numpy())
    seen = replace(seen, images=torch.cat([part.split.images for part in parts]))  # type: ignore[misc]
    members, labels = _predict(trial, replace(data, test=seen), "test")
    severities, kinds = (np.repeat([part[place] for part in parts], count) for place in (1, 0))
    rows: list[tuple[int | str, tuple[str, ...], np.ndarray]]
    rows = [(level, tuple(metrics.METRICS), severities == level) for level in corruptions.SEVERITIES]
    rows += [(kind, OF_A_KIND, kinds == kind) for kind in corruptions.CORRUPTIONS]
    found: dict[str, dict[str, float]] = {member: {"images": float(count)} for member in members}
    for of, names, which in rows:
        these = torch.from_numpy(which).to(labels.device)
        for member, prediction in members.items():
            scores = metrics.scores(chosen(prediction, these), labels[these], names)
            found[member] |= {f"{name}_{of}": value for name, value in scores.items()}
    return found


def chosen(prediction: Predictive, rows: Tensor) -> Predictive:
    """Return the prediction of some images."""
    return type(prediction)(*(None if values is None else values[rows] for values in prediction))  # type: ignore[arg-type]


def predictions_table(members: Members, scaled: Members, labels: Tensor) -> dict[str, list]:
    """Return the columns of predictions.parquet: one row per image and member (peer_1, peer_2, ..., pair).

    scaled: after temperature scaling; where there is none, its columns are NaN.
    """
    columns: dict[str, list] = {}
    unknown = torch.full((len(labels),), torch.nan)
    for member, predictive in members.items():
        confidence, predicted = predictive.probabilities.max(-1)
        rows = {
            "image": torch.arange(len(labels)),
            "label": classes_of(labels),
            "predicted": predicted,
            "confidence": confidence,
            "label_probability": metrics.of_label(predictive.probabilities, labels),
            "scaled_confidence": scaled[member].probabilities.max(-1).values if scaled else unknown,
            "scaled_label_probability": metrics.of_label(scaled[member].probabilities, labels) if scaled else unknown,
            "entropy": metrics.entropy(predictive.probabilities),
            "mutual_information": metrics.mutual_information(predictive),
        }
        _extend(columns, member, rows)
    return columns


def other_table(members: Members) -> dict[str, list]:
    """Return the columns of ood.parquet: one row per image of another kind and member."""
    columns: dict[str, list] = {}
    for member, predictive in members.items():
        rows = {
            "image": torch.arange(len(predictive.probabilities)),
            "confidence": predictive.probabilities.max(-1).values,
            "entropy": metrics.entropy(predictive.probabilities),
            "mutual_information": metrics.mutual_information(predictive),
        }
        _extend(columns, member, rows)
    return columns


def _extend(columns: dict[str, list], member: str, rows: dict[str, Tensor]) -> None:
    columns.setdefault("member", []).extend([member] * len(rows["image"]))
    for name, values in rows.items():
        columns.setdefault(name, []).extend(values.cpu().tolist())


def write_table(path: Path, columns: dict[str, list], trial: str) -> None:
    """Write a parquet file, in the smallest types that hold its columns, whole or not at all; it says whose it is."""
    kinds = {"image": "int32", "member": "category", "label": "int16", "predicted": "int16"}
    frame = pd.DataFrame(columns)
    frame = frame.astype({name: kinds.get(name, "float32") for name in frame.columns})
    frame.attrs["trial"] = trial
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, write_page_checksum=True)
    write_atomically(path, buffer.getvalue())
