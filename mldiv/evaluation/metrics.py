"""Score a Monte Carlo predictive: accuracy, proper scores, calibration, uncertainty and what it detects. Add one to METRICS."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor

BINS = 15


class Predictive(NamedTuple):
    """The prediction of S weight samples for N images.

    probabilities: mean over samples of the softmax, [images, classes].
    expected_entropy: mean over samples of the softmax's entropy in nats, [images].
    """

    probabilities: Float[Tensor, "images classes"]
    expected_entropy: Float[Tensor, " images"]


def together(*predictives: Predictive) -> Predictive:
    """Mix several networks' predictives equally: their samples taken as one larger set of samples."""
    columns = zip(*predictives, strict=True)
    return Predictive(*(torch.stack(column).mean(0) for column in columns))


def entropy(probabilities: Float[Tensor, "*images classes"]) -> Float[Tensor, "*images"]:
    """Return the Shannon entropy in nats, ``-sum_c p_c log p_c`` with ``0 log 0 = 0``."""
    return torch.special.entr(probabilities).sum(-1)


def mutual_information(predictive: Predictive) -> Float[Tensor, " images"]:
    """Subtract the mean of the entropies from the entropy of the mean (BALD), in nats; not negative."""
    return (entropy(predictive.probabilities) - predictive.expected_entropy).clamp_min(0)


def mutual_information_parts(*peers: Predictive) -> dict[str, float]:
    r"""Split the mean mutual information of several networks together into what lies within and what between them, in nats.

    .. math:: I = \frac{1}{K} \sum_k \left( H(\bar p_k) - \overline{H(p_k)} \right)
              + \left( H(\bar p) - \frac{1}{K} \sum_k H(\bar p_k) \right)

    derived: the first sum is the mean over networks of their own mutual information, what their weight samples disagree on;
    the second how much the networks' predictives disagree. ``pair`` is their sum, exactly, and of `together`.
    p_k bar -> probabilities of network k; p bar -> of all together. References: Houlsby et al., Bayesian Active Learning for
    Classification and Preference Learning (2011), for I.
    """
    own = [entropy(peer.probabilities).double() for peer in peers]
    within = torch.stack([found - peer.expected_entropy for found, peer in zip(own, peers, strict=True)]).mean()
    between = (entropy(together(*peers).probabilities).double() - torch.stack(own).mean(0)).mean()
    return {"mutual_information": float(within + between), "within": float(within), "between": float(between)}


def accuracy(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Return the share of images whose most probable class is the label."""
    return (predictive.probabilities.argmax(-1) == labels).double().mean()


def nll(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Return the mean of ``-log p(label)`` in nats; probabilities under the smallest normal float count as that."""
    chosen = predictive.probabilities.gather(-1, labels[:, None]).squeeze(-1)
    return -chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log().double().mean()


def brier(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Return the mean over images of ``sum_c (p_c - 1[c = label])^2``: 0 to 2."""
    truth = torch.nn.functional.one_hot(labels, predictive.probabilities.shape[-1])
    return (predictive.probabilities - truth).square().sum(-1).double().mean()


def ece(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Return the expected calibration error of the top class over 15 equal-width bins.

    ``sum_b n_b/N |accuracy_b - confidence_b|``. Biased upwards at small N: a perfectly calibrated model does not score 0.
    """
    confidence, predicted = predictive.probabilities.max(-1)
    return _binned_gap(confidence, predicted == labels, _equal_width(confidence))


def adaptive_ece(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Compute it as `ece` does, in 15 bins of equal numbers of images (as equal as N allows), by rank of confidence."""
    confidence, predicted = predictive.probabilities.max(-1)
    rank = confidence.argsort(stable=True).argsort()
    return _binned_gap(confidence, predicted == labels, rank * BINS // len(rank))


def classwise_ece(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Average over classes the calibration error of "is it this class?", 15 equal-width bins each."""
    columns = predictive.probabilities.unbind(-1)
    gaps = [_binned_gap(column, labels == index, _equal_width(column)) for index, column in enumerate(columns)]
    return torch.stack(gaps).mean()


def mean_entropy(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Return the mean predictive entropy in nats."""
    return entropy(predictive.probabilities).double().mean()


def mean_mutual_information(predictive: Predictive, labels: Int[Tensor, " images"]) -> Tensor:
    """Return the mean mutual information of prediction and weights in nats."""
    return mutual_information(predictive).double().mean()


def disagreement(first: Predictive, second: Predictive) -> Tensor:
    """Return the share of images on which two predictives name different classes."""
    return (first.probabilities.argmax(-1) != second.probabilities.argmax(-1)).double().mean()


def auroc(positive: Float[Tensor, " positives"], negative: Float[Tensor, " negatives"]) -> float:
    """Return the area under the ROC curve: how often a positive's score exceeds a negative's, ties counted half.

    0.5 is chance; nan where there are no positives, no negatives, or a score is not finite.
    """
    values = torch.cat([positive, negative]).double().cpu()
    if not len(positive) or not len(negative) or not values.isfinite().all():
        return math.nan
    truth = torch.arange(len(values)) < len(positive)
    return float(roc_auc_score(truth.numpy(), values.numpy()))


def error_detection(uncertainty: Float[Tensor, " images"], wrong: Bool[Tensor, " images"]) -> float:
    """Return the AUROC of telling wrong predictions from right ones by uncertainty; nan where all are right, or all wrong."""
    return auroc(uncertainty[wrong], uncertainty[~wrong])


def aurc(uncertainty: Float[Tensor, " images"], wrong: Bool[Tensor, " images"]) -> float:
    """Average the share of errors among the k least uncertain images over k = 1..N: the area under the risk-coverage curve.

    0 is perfect; an uncertainty that says nothing gives about the error rate. Equally uncertain images count in the mean
    over all their orders, whatever order they are in. nan without images, or where an uncertainty is not finite. References:
    Geifman et al. (ICLR 2019).
    """
    values, errors = uncertainty.double().cpu(), wrong.double().cpu()
    if not len(values) or not values.isfinite().all():
        return math.nan
    levels, level, counts = values.unique(return_inverse=True, return_counts=True)  # levels rise
    shares = torch.zeros(len(levels), dtype=torch.double).index_add_(0, level, errors) / counts
    risks = shares.repeat_interleave(counts).cumsum(0) / torch.arange(1, len(values) + 1)
    return float(risks.mean())


def uncertainty_scores(
    test: Predictive, labels: Int[Tensor, " images"], other: Predictive | None = None
) -> dict[str, float | None]:
    """Score how well entropy and mutual information find wrong predictions, and images of another data set.

    error_auroc_*, aurc_*: wrong predictions on ``test``; ood_auroc_*: the images of ``other``. None for what is not defined:
    all right, all wrong, no other data set.
    """
    wrong = test.probabilities.argmax(-1) != labels
    result: dict[str, float] = {}
    for name, measure in UNCERTAINTIES.items():
        uncertainty = measure(test)
        result[f"error_auroc_{name}"] = error_detection(uncertainty, wrong)
        result[f"ood_auroc_{name}"] = math.nan if other is None else auroc(measure(other), uncertainty)
        result[f"aurc_{name}"] = aurc(uncertainty, wrong)
    return {name: None if math.isnan(value) else value for name, value in result.items()}


def scores(predictive: Predictive, labels: Int[Tensor, " images"], names: tuple[str, ...] | None = None) -> dict[str, float]:
    """Compute every metric of METRICS (or those in ``names``) as a plain number."""
    return {name: float(METRICS[name](predictive, labels)) for name in names or METRICS}


def _equal_width(values: Float[Tensor, " images"]) -> Int[Tensor, " images"]:
    """Return the bin (k/15, (k+1)/15] of each value; 0 belongs to the first."""
    return ((values.double() * BINS).ceil().long() - 1).clamp(0, BINS - 1)


def _binned_gap(confidence: Tensor, correct: Tensor, bins: Tensor) -> Tensor:
    gaps = torch.zeros(BINS, dtype=torch.double, device=confidence.device)
    gaps.index_add_(0, bins, correct.double() - confidence.double())
    return gaps.abs().sum() / len(confidence)


def _predictive_entropy(predictive: Predictive) -> Float[Tensor, " images"]:
    return entropy(predictive.probabilities)


#: Measures of how uncertain a predictive is of each image.
UNCERTAINTIES: dict[str, Callable[[Predictive], Tensor]] = {
    "entropy": _predictive_entropy,
    "mutual_information": mutual_information,
}

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
