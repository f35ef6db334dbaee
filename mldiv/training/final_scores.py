"""Give a trial its final scores: the only use of the test data, and of images of another kind."""

import io
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from mldiv import distributed
from mldiv.datasets import ood
from mldiv.datasets.splits import ImageData
from mldiv.evaluation import metrics, temperature_scaling
from mldiv.evaluation.metrics import Predictive
from mldiv.evaluation.predictive import predictives
from mldiv.record_files import write_atomically
from mldiv.training.loop import check_finite
from mldiv.training.resume import Trial

Members = dict[str, Predictive]


def score(trial: Trial) -> None:
    """Enter a trial's final scores into its record, and write predictions.parquet and ood.parquet.

    The scores are those on validation and test data; the same on test data after temperature scaling, with the temperature
    fitted on validation data; how well uncertainty detects errors and the images of ``config.ood``. Every rank's call.
    """
    record = trial.record
    validation, labels = _predict(trial, trial.data, "validation")
    record.validation = _scores(validation, labels)
    record.posterior = _posterior(trial, validation, labels)
    record.calibration_temperature = {
        member: temperature_scaling.fit_temperature(prediction.probabilities, labels)
        for member, prediction in validation.items()
    }
    test, labels = _predict(trial, trial.data, "test")
    record.test = _scores(test, labels)
    scaled = {
        member: Predictive(
            temperature_scaling.scale(prediction.probabilities, record.calibration_temperature[member]),
            prediction.expected_entropy,
        )
        for member, prediction in test.items()
    }
    names = tuple(name for name in metrics.METRICS if name != "mutual_information")  # what scaling leaves undefined
    record.test_scaled = {member: metrics.scores(prediction, labels, names) for member, prediction in scaled.items()}
    other = _other(trial)
    record.uncertainty = {
        member: metrics.uncertainty_scores(prediction, labels, other.get(member)) for member, prediction in test.items()
    }
    if distributed.rank() == 0:
        write_table(trial.folder / "predictions.parquet", predictions_table(test, scaled, labels), record.id)
        if other:
            write_table(trial.folder / "ood.parquet", other_table(other), record.id)


def _posterior(trial: Trial, sampled: Members, labels: Tensor) -> dict[str, dict[str, float]]:
    """Say how far the predictions of the weight samples, of validation data, are from those of the means alone."""
    means, _ = _predict(trial, trial.data, "validation", samples=0)
    names = ("nll", "accuracy")
    found = {
        member: metrics.scores(sampled[member], labels, names)
        | {f"mean_{name}": value for name, value in metrics.scores(prediction, labels, names).items()}
        for member, prediction in means.items()
    }
    *peers, together = found
    for name, peer in zip(peers, trial.pair.peers, strict=True):
        found[name]["sigma_over_mean"] = float((peer.sigma / peer.mean.abs()).detach().median())
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


def _other(trial: Trial) -> Members:
    """Predict as many images of another kind as there are test images, with the same weight samples."""
    config, data = trial.config, trial.data
    if config.ood == "none":
        return {}
    root = Path(config.data_root) if config.data_root else None
    other, _ = _predict(trial, ood.in_place_of_test(data, config.ood, root), "test")
    return other


def predictions_table(members: Members, scaled: Members, labels: Tensor) -> dict[str, list]:
    """Return the columns of predictions.parquet: one row per image and member (peer_1, peer_2, ..., pair)."""
    columns: dict[str, list] = {}
    for member, predictive in members.items():
        confidence, predicted = predictive.probabilities.max(-1)
        rows = {
            "image": torch.arange(len(labels)),
            "label": labels,
            "predicted": predicted,
            "confidence": confidence,
            "label_probability": _of_label(predictive, labels),
            "scaled_confidence": scaled[member].probabilities.max(-1).values,
            "scaled_label_probability": _of_label(scaled[member], labels),
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


def _of_label(predictive: Predictive, labels: Tensor) -> Tensor:
    return predictive.probabilities.gather(-1, labels[:, None]).squeeze(-1)


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
