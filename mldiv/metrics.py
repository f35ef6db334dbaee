"""Scores of a Monte Carlo predictive: accuracy, proper scores, calibration, uncertainty."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BINS = 15


class Predictive(NamedTuple):
    """What S weight samples say of N images.

    probabilities: mean over samples of the softmax, [images, classes].
    expected_entropy: mean over samples of the softmax's entropy in nats, [images].
    """

    probabilities: Float[Tensor, "images classes"]
    expected_entropy: Float[Tensor, " images"]


def together(*predictives: Predictive) -> Predictive:
    """The equal mixture of several networks' predictives: their samples taken as one larger set of samples."""
    columns = zip(*predictives, strict=True)
    return Predictive(*(torch.stack(column).mean(0) for column in columns))


def entropy(probabilities: Float[Tensor, "*images classes"]) -> Float[Tensor, "*images"]:
    """Shannon entropy in nats, ``-sum_c p_c log p_c`` with ``0 log 0 = 0``."""
    return torch.special.entr(probabilities).sum(-1)


def mutual_information(predictive: Predictive) -> Float[Tensor, " images"]:
    """BALD: entropy of the mean less the mean of the entropies, in nats; not negative."""
    return (entropy(predictive.probabilities) - predictive.expected_entropy).clamp_min(0)


def accuracy(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Share of images whose most probable class is the label."""
    return (predictive.probabilities.argmax(-1) == labels).double().mean()


def nll(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Mean of ``-log p(label)`` in nats; probabilities under the smallest normal float count as that."""
    chosen = predictive.probabilities.gather(-1, labels[:, None]).squeeze(-1)
    return -chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log().double().mean()


def brier(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Mean over images of ``sum_c (p_c - 1[c = label])^2``: 0 to 2."""
    truth = torch.nn.functional.one_hot(labels, predictive.probabilities.shape[-1])
    return (predictive.probabilities - truth).square().sum(-1).double().mean()


def ece(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Expected calibration error of the top class, 15 equal-width bins.

    ``sum_b n_b/N |accuracy_b - confidence_b|``. Biased upwards at small N: a perfectly calibrated model does not score 0.
    """
    confidence, predicted = predictive.probabilities.max(-1)
    return _binned_gap(confidence, predicted == labels, _equal_width(confidence))


def adaptive_ece(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """As `ece`, in 15 bins of equal numbers of images (as equal as N allows), by rank of confidence."""
    confidence, predicted = predictive.probabilities.max(-1)
    rank = confidence.argsort(stable=True).argsort()
    return _binned_gap(confidence, predicted == labels, rank * BINS // len(rank))


def classwise_ece(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Mean over classes of the calibration error of "is it this class?", 15 equal-width bins each."""
    columns = predictive.probabilities.unbind(-1)
    gaps = [_binned_gap(column, labels == index, _equal_width(column)) for index, column in enumerate(columns)]
    return torch.stack(gaps).mean()


def mean_entropy(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Mean predictive entropy in nats."""
    return entropy(predictive.probabilities).double().mean()


def mean_mutual_information(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Mean mutual information of prediction and weights in nats."""
    return mutual_information(predictive).double().mean()


def disagreement(first: Predictive, second: Predictive) -> Tensor:
    """Share of images on which two predictives name different classes."""
    return (first.probabilities.argmax(-1) != second.probabilities.argmax(-1)).double().mean()


def scores(predictive: Predictive, labels: Int[Tensor, " images"], names: tuple[str, ...] | None = None) -> dict[str, float]:
    """Every metric of METRICS (or those in ``names``) as a plain number."""
    return {name: float(METRICS[name](predictive, labels)) for name in names or METRICS}


def _equal_width(values: Float[Tensor, " images"]) -> Int[Tensor, " images"]:
    """Bin (k/15, (k+1)/15] of each value; 0 belongs to the first."""
    return ((values.double() * BINS).ceil().long() - 1).clamp(0, BINS - 1)


def _binned_gap(confidence: Tensor, correct: Tensor, bins: Tensor) -> Tensor:
    gaps = torch.zeros(BINS, dtype=torch.double, device=confidence.device)
    gaps.index_add_(0, bins, correct.double() - confidence.double())
    return gaps.abs().sum() / len(confidence)


METRICS: dict[str, Callable[[Predictive, Tensor], Tensor]] = {
    "accuracy": accuracy,
    "nll": nll,
    "brier": brier,
    "ece": ece,
    "adaptive_ece": adaptive_ece,
    "classwise_ece": classwise_ece,
    "entropy": mean_entropy,
    "mutual_information": mean_mutual_information,
}
