"""Define the tables' columns: what each is called, where its number comes from, which way is better. Add one to COLUMNS."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from analysis.records.load import Curve
from analysis.records.repeats import Repeat
from analysis.stats.calibration import debiased_calibration_error, null_ece
from analysis.stats.smooth_calibration import smooth_error
from mldiv.records.contents import PAIR, scored_by

#: Of corrupted images, as in a trial's record.
SEVERITIES = range(1, 6)
#: Kinds of corruption by family, as CIFAR-10-C's authors sort them.
FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}

Value = Callable[[Repeat], float | None]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    title: in the table; value: of a repeat, None if it has none; group: the table it stands in, a key of GROUPS; better:
    "high" or "low" marks the best mean; factor, digits: for print.
    """

    title: str
    value: Value
    group: str
    better: str | None = None
    factor: float = 1.0
    digits: int = 2


def mean_over_members(scores: dict[str, dict[str, Any]], member: str, name: str) -> float | None:
    """Average the score ``name`` over the networks that ``member`` is judged by; None unless each has one.

    scores: by network (a key of a record's ``test``, say) and name; member: "pair" or "peers".
    """
    return _mean([scores.get(network, {}).get(name) for network in scored_by(member, scores)]) if scores else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Average the values; None where there is none, or one is None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _scored(field: str, name: str, member: str | None = None) -> Value:
    """Take the score ``name`` of those in a record's ``field``; member: by whom, where not by whom the repeat is judged."""
    return lambda repeat: mean_over_members(getattr(repeat.record, field), member or repeat.member, name)


_test, _scaled, _recalibrated = (partial(_scored, field) for field in ("test", "test_scaled", "recalibrated"))
_corrupted, _uncertainty, _posterior = (partial(_scored, field) for field in ("shift", "uncertainty", "posterior"))


def _over(parts: Iterable[object], name: str) -> Value:
    """Average a score on corrupted images over severities, or over kinds of corruption."""
    return lambda repeat: _mean([_corrupted(f"{name}_{part}")(repeat) for part in parts])


_shift = partial(_over, SEVERITIES)


def _generalized(split: str, name: str) -> Value:
    return lambda repeat: repeat.record.generalized.get(split, {}).get(name)


def _on_training_images(name: str) -> Value:
    """Take a score on training images less the same on test images."""

    def value(repeat: Repeat) -> float | None:
        test, train = (_generalized(split, name)(repeat) for split in ("test", "train"))
        return None if test is None or train is None else train - test

    return value


def _forward(repeat: Repeat) -> float | None:
    """Return the operations of a prediction, in 10^9: of all peers, with as many weight samples as it takes."""
    flops, config = repeat.record.size.get("forward_flops"), repeat.record.config
    samples = _count(config.get("test_samples")) if config.get("posterior") != "deterministic" else 1
    return None if flops is None or samples is None else flops * samples / 1e9


def _training(repeat: Repeat) -> float | None:
    """Return the operations of training, in 10^12: forward and twice as many backward, of every image of every epoch."""
    flops, images = repeat.record.size.get("forward_flops"), _count(repeat.record.data.get("train"))
    samples = _count(repeat.record.config.get("train_samples", 1))
    return None if None in (flops, images, samples) else 3 * flops * images * samples * repeat.record.epochs / 1e12  # type: ignore[operator]


def _count(value: Any) -> int | None:
    """Return a number of images or samples; None for what is none, in a file that was written by hand."""
    return value if type(value) is int and 0 <= value < 2**53 else None


def _temperature(repeat: Repeat) -> float | None:
    temperatures = repeat.record.calibration_temperature
    return _mean([temperatures.get(network) for network in scored_by(repeat.member, temperatures)])


def _of_curve(take: Callable[[Curve], float]) -> Value:
    def value(repeat: Repeat) -> float | None:
        found = np.nan if repeat.curve is None else take(repeat.curve)
        return float(found) if np.isfinite(found) else None

    return value


def _last(name: str) -> Value:
    return _of_curve(lambda curve: curve.values[name][-1])


def _within(repeat: Repeat) -> float | None:
    """Return the share of the pair's mutual information that lies within its peers, the rest being their disagreement."""
    found = repeat.record.posterior.get(PAIR, {})
    within, whole = found.get("within"), found.get("mutual_information")
    return None if within is None or not whole else float(within / whole)


def _predicted(function: Callable[[np.ndarray, np.ndarray], float]) -> Value:
    """Average a function of confidences and correctness, [images] each, over the members."""

    def value(repeat: Repeat) -> float | None:
        if repeat.predictions is None:
            return None
        return float(np.mean([function(member.confidence, member.correct) for member in repeat.predictions]))

    return value


def _debiased(confidence: np.ndarray, correct: np.ndarray) -> float:
    square = debiased_calibration_error(confidence, correct)
    return math.copysign(math.sqrt(abs(square)), square)


#: What each table shows, in words.
GROUPS: dict[str, str] = {
    "scores": "Scores.",
    "calibration": "Calibration: the expected calibration error (15 bins) beside what a perfectly calibrated model with these "
    "confidences would score on so many images, for ECE is never 0 even then; the debiased root mean square error over 15 bins "
    "(negative: less than chance leaves); the smooth error, which has no bins; and scores after temperature, vector and "
    "isotonic scaling, fitted on validation data.",
    "shift": "Under shift: test images under 15 kinds of corruption, all together, mean over five severities and at the "
    "strongest.",
    "families": "By family of corruption, mean over its kinds and five severities: noise (gaussian, shot, impulse), blur "
    "(defocus, glass, motion, zoom), weather (snow, frost, fog, brightness), digital (contrast, elastic, pixelate, JPEG).",
    "worth": "Whether the diversity generalises: the peers' disagreement, and it relative to their mean error; the gain in NLL "
    "of their mean over one of them, on test images; and how much greater that gain is on training images (above 0: diversity "
    "that does not generalise). Then how far the peers overfit: their error on training images, as they are, less that on test "
    "images (what regularises helps where it is far below 0).",
    "cost": "What an arm costs: parameters of all its networks, floating-point operations of a prediction of one image and of "
    "training (forward and backward, without pretraining). Hours are in the report, for they are the machine's.",
    "diversity": "How different the peers are: disagreement and feature KL after the last epoch on validation data, W2² "
    "between the posteriors, the share of it that lies in their means (the rest: in their sigmas), and the cosine between the "
    "means.",
    "posterior": "How Bayesian the networks are, on validation data at the end: the median over weights of sigma over the size "
    "of the mean, mean over peers; the NLL of weight samples beside that of the mean networks; the share of the pair's mutual "
    "information (MI) that lies within its peers, the rest being their disagreement. And what is left of a pretrained start: "
    "the lowest accuracy of the pretrained peers in the first epoch, less that at which they began.",
    "uncertainty": "Uncertainty as a detector, area under the ROC curve: of the errors on test data, and of images of another "
    "kind (the first set), by entropy and by mutual information (MI); area under the risk-coverage curve by entropy, and under "
    "the generalised one.",
}

#: Columns in their order. Scores are of the pair on test data unless the title, or the arm, says otherwise.
COLUMNS: dict[str, Column] = {
    "accuracy": Column("Accuracy %", _test("accuracy"), "scores", "high", 100),
    "nll": Column("NLL", _test("nll"), "scores", "low", 1, 4),
    "ece": Column("ECE %", _test("ece"), "scores", "low", 100),
    "brier": Column("Brier", _test("brier"), "scores", "low", 1, 4),
    "peers": Column("A peer's accuracy %", _test("accuracy", "peers"), "scores", None, 100),
    "peers_nll": Column("A peer's NLL", _test("nll", "peers"), "scores", None, 1, 4),
    "ece_15": Column("ECE %", _test("ece"), "calibration", "low", 100),
    "null_ece": Column("ECE % if calibrated", _predicted(lambda sure, _: null_ece(sure)), "calibration", None, 100),
    "debiased": Column("debiased error %", _predicted(_debiased), "calibration", "low", 100),
    "adaptive_ece": Column("adaptive ECE %", _test("adaptive_ece"), "calibration", "low", 100),
    "classwise_ece": Column("classwise ECE %", _test("classwise_ece"), "calibration", "low", 100),
    "scaling_temperature": Column("temperature", _temperature, "calibration", None, 1, 3),
    "scaled_ece": Column("ECE % scaled", _scaled("ece"), "calibration", "low", 100),
    "scaled_nll": Column("NLL scaled", _scaled("nll"), "calibration", "low", 1, 4),
    "smooth": Column("smooth error %", _predicted(smooth_error), "calibration", "low", 100),
    "vector_nll": Column("NLL vector", _recalibrated("vector_nll"), "calibration", "low", 1, 4),
    "isotonic_nll": Column("NLL isotonic", _recalibrated("isotonic_nll"), "calibration", "low", 1, 4),
    "vector_ece": Column("ECE % vector", _recalibrated("vector_ece"), "calibration", "low", 100),
    "isotonic_ece": Column("ECE % isotonic", _recalibrated("isotonic_ece"), "calibration", "low", 100),
    "shift_accuracy": Column("Accuracy %", _shift("accuracy"), "shift", "high", 100),
    "shift_nll": Column("NLL", _shift("nll"), "shift", "low", 1, 4),
    "shift_ece": Column("ECE %", _shift("ece"), "shift", "low", 100),
    "shift_brier": Column("Brier", _shift("brier"), "shift", "low", 1, 4),
    "strongest_accuracy": Column("Accuracy %, severity 5", _corrupted("accuracy_5"), "shift", "high", 100),
    "strongest_nll": Column("NLL, severity 5", _corrupted("nll_5"), "shift", "low", 1, 4),
    **{f"{family}_accuracy": Column(f"Accuracy %, {family}", _over(kinds, "accuracy"), "families", "high", 100)
       for family, kinds in FAMILIES.items()},
    **{f"{family}_nll": Column(f"NLL, {family}", _over(kinds, "nll"), "families", "low", 1, 4)
       for family, kinds in FAMILIES.items()},
    "test_disagreement": Column("disagreement %", _generalized("test", "disagreement"), "worth", None, 100, 1),
    "over_error": Column("disagreement over error", _generalized("test", "over_error"), "worth", None, 1, 3),
    "gain": Column("gain in NLL", _generalized("test", "gain"), "worth", None, 1, 4),
    "lost": Column("more of it on training images", _on_training_images("gain"), "worth", None, 1, 4),
    "overfit": Column("training less test error %", _on_training_images("error"), "worth", None, 100, 1),
    "disagreement": Column("Disagreement %", _last("disagreement"), "diversity", None, 100),
    "w2_per_weight": Column("W2² per weight", _last("w2_per_weight"), "diversity", None, 1, 4),
    "w2_share_means": Column("W2² in means %", _last("w2_share_means"), "diversity", None, 100, 1),
    "cosine": Column("cosine of means", _last("cosine"), "diversity", None, 1, 3),
    "feature_kl": Column("feature KL", _last("feature_kl"), "diversity", None, 1, 4),
    "sigma_over_mean": Column("sigma over mean %", _posterior("sigma_over_mean", "peers"), "posterior", None, 100),
    "samples_nll": Column("NLL of samples", _posterior("nll"), "posterior", None, 1, 4),
    "means_nll": Column("NLL of the means", _posterior("mean_nll"), "posterior", None, 1, 4),
    "mi_within": Column("MI within peers %", _within, "posterior", None, 100, 1),
    "survived": Column("pretrained, first epoch", _of_curve(lambda curve: curve.survived), "posterior", None, 100, 1),
    "error_entropy": Column("errors, entropy", _uncertainty("error_auroc_entropy"), "uncertainty", "high", 1, 3),
    "error_mi": Column("errors, MI", _uncertainty("error_auroc_mutual_information"), "uncertainty", "high", 1, 3),
    "ood_entropy": Column("other images, entropy", _uncertainty("ood_auroc_entropy"), "uncertainty", "high", 1, 3),
    "ood_mi": Column("other images, MI", _uncertainty("ood_auroc_mutual_information"), "uncertainty", "high", 1, 3),
    "aurc": Column("risk-coverage", _uncertainty("aurc_entropy"), "uncertainty", "low", 1, 4),
    "augrc": Column("generalised", _uncertainty("augrc_entropy"), "uncertainty", "low", 1, 4),
    "parameters": Column("parameters 10⁶", lambda repeat: repeat.record.size.get("parameters"), "cost", None, 1e-6, 3),
    "forward": Column("prediction 10⁶", _forward, "cost", None, 1e3, 2),
    "training": Column("training 10¹²", _training, "cost", None, 1, 4),
}  # fmt: skip
