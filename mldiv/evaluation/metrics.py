"""Score a Monte Carlo predictive: accuracy, proper scores, calibration, uncertainty and what it detects. Add one to METRICS."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mldiv.datasets.formats.arrays import classes_of
from mldiv.evaluation.detection import augrc, aupr, aurc, auroc, fpr95

BINS = 15

#: Of UNCERTAINTIES, those whose scores a trial's record holds, and whose values its files of predictions do.
RECORDED = ("entropy", "mutual_information")

#: Of METRICS, those that take soft labels; the others are given the classes of the largest shares.
OF_SHARES = ("nll", "brier")

#: Classes, or soft labels.
Labels = Int[Tensor, " images"] | Float[Tensor, "images classes"]


class Predictive(NamedTuple):
    """The prediction of S weight samples for N images.

    probabilities: mean over samples of the softmax, [images, classes].
    expected_entropy: mean over samples of the softmax's entropy in nats, [images].
    log_partition, largest_logit: means over samples of the logits' logsumexp and of the largest of them, [images]; None where
    probabilities alone are known.
    """

    probabilities: Float[Tensor, "images classes"]
    expected_entropy: Float[Tensor, " images"]
    log_partition: Float[Tensor, " images"] | None = None
    largest_logit: Float[Tensor, " images"] | None = None


def together(*predictives: Predictive) -> Predictive:
    """Mix several networks' predictives equally: their samples taken as one larger set of samples.

    What one of them does not know, all together do not.
    """
    logits = ("log_partition", "largest_logit")
    known = [name for name in logits if all(getattr(own, name) is not None for own in predictives)]
    names = ("probabilities", "expected_entropy", *known)
    return Predictive(**{name: torch.stack([getattr(own, name) for own in predictives]).mean(0) for name in names})


def entropy(probabilities: Float[Tensor, "*images classes"]) -> Float[Tensor, "*images"]:
    """Return the Shannon entropy in nats, ``-sum_c p_c log p_c`` with ``0 log 0 = 0``."""
    return torch.special.entr(probabilities).sum(-1)


def mutual_information(predictive: Predictive) -> Float[Tensor, " images"]:
    """Subtract the mean of the entropies from the entropy of the mean (BALD), in nats; not negative."""
    return (entropy(predictive.probabilities) - predictive.expected_entropy).clamp_min(0)


def energy(predictive: Predictive) -> Float[Tensor, " images"] | None:
    r"""Return the free energy of the logits, mean over samples; None where the predictive has none.

    .. math:: E = -\log \sum_c e^{z_c}

    z -> logits, at temperature 1. chosen: the mean over samples of each one's energy, the reference having one network; the
    logarithm of the mean would be the energy of a sum of exponentials that no network computes. References: Liu et al.,
    Energy-based Out-of-distribution Detection (NeurIPS 2020).
    """
    return None if predictive.log_partition is None else -predictive.log_partition


def minus_largest_logit(predictive: Predictive) -> Float[Tensor, " images"] | None:
    """Return minus the largest logit, mean over samples (chosen, as of `energy`); None where the predictive has none.

    References: Hendrycks et al., Scaling Out-of-Distribution Detection for Real-World Settings (ICML 2022).
    """
    return None if predictive.largest_logit is None else -predictive.largest_logit


def minus_confidence(predictive: Predictive) -> Float[Tensor, " images"]:
    """Return minus the probability of the most probable class, -1 to -1/classes.

    References: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples (ICLR 2017).
    """
    return -predictive.probabilities.max(-1).values


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


def of_label(probabilities: Float[Tensor, "images classes"], labels: Labels) -> Float[Tensor, " images"]:
    r"""Return each image's probability of its label, [images]; of a soft one the geometric mean by its shares, in float64.

    .. math:: \exp \sum_c q_c \log p_c

    Its negative logarithm is the expected one of a label that is drawn by the shares. q -> labels; p -> probabilities.
    """
    if labels.dim() == 1:
        return probabilities.gather(-1, labels[:, None]).squeeze(-1)
    return (labels * probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).double().log()).sum(-1).exp()


def nll(predictive: Predictive, labels: Labels) -> Tensor:
    """Return the mean of ``-log p(label)`` in nats; probabilities under the smallest normal float count as that.

    Of soft labels their cross-entropy, at least the labels' own entropy.
    """
    chosen = of_label(predictive.probabilities, labels)
    return -chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log().double().mean()


def brier(predictive: Predictive, labels: Labels) -> Tensor:
    """Return the mean over images of ``sum_c (p_c - q_c)^2``: 0 to 2. q: 1 for the label, or the shares of a soft one."""
    truth = labels if labels.dim() == 2 else torch.nn.functional.one_hot(labels, predictive.probabilities.shape[-1])
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


def uncertainty_scores(test: Predictive, labels: Labels, other: Predictive | None = None) -> dict[str, float | None]:
    """Score how well entropy and mutual information find wrong predictions, and images of another data set.

    error_auroc_*, aurc_*, augrc_*: wrong predictions on ``test``; ood_auroc_*: the images of ``other``. None for what is not
    defined: all right, all wrong, no other data set.
    """
    wrong = test.probabilities.argmax(-1) != classes_of(labels)
    result: dict[str, float] = {}
    for name in RECORDED:
        measure = UNCERTAINTIES[name]
        uncertainty = measure(test)
        result[f"error_auroc_{name}"] = auroc(uncertainty[wrong], uncertainty[~wrong])
        result[f"ood_auroc_{name}"] = math.nan if other is None else auroc(measure(other), uncertainty)
        result[f"aurc_{name}"] = aurc(uncertainty, wrong)
        result[f"augrc_{name}"] = augrc(uncertainty, wrong)
    return _known(result)


def detection_scores(test: Predictive, other: Predictive) -> dict[str, float | None]:
    """Score how well each of UNCERTAINTIES finds the images of another data set, the positives, among ``test``'s.

    auroc_*, aupr_*, fpr95_*, as of `detection`. None where a predictive does not have the measure, or it is not finite.
    """
    result: dict[str, float] = {}
    for name, measure in UNCERTAINTIES.items():
        positive, negative = measure(other), measure(test)
        for score, function in (("auroc", auroc), ("aupr", aupr), ("fpr95", fpr95)):
            known = positive is not None and negative is not None
            result[f"{score}_{name}"] = function(positive, negative) if known else math.nan
    return _known(result)


def _known(result: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in result.items()}


def scores(predictive: Predictive, labels: Labels, names: tuple[str, ...] | None = None) -> dict[str, float]:
    """Compute every metric of METRICS (or those in ``names``) as a plain number; of soft labels those of OF_SHARES alone."""
    classes = classes_of(labels)
    return {name: float(METRICS[name](predictive, labels if name in OF_SHARES else classes)) for name in names or METRICS}


def _equal_width(values: Float[Tensor, " images"]) -> Int[Tensor, " images"]:
    """Return the bin (k/15, (k+1)/15] of each value; 0 belongs to the first."""
    return ((values.double() * BINS).ceil().long() - 1).clamp(0, BINS - 1)


def _binned_gap(confidence: Tensor, correct: Tensor, bins: Tensor) -> Tensor:
    gaps = torch.zeros(BINS, dtype=torch.double, device=confidence.device)
    gaps.index_add_(0, bins, correct.double() - confidence.double())
    return gaps.abs().sum() / len(confidence)


#: Measures of how uncertain a predictive is of each image; None where it has not what they need.
UNCERTAINTIES: dict[str, Callable[[Predictive], Any]] = {
    "entropy": lambda predictive: entropy(predictive.probabilities),
    "mutual_information": mutual_information,
    "energy": energy,
    "largest_logit": minus_largest_logit,
    "confidence": minus_confidence,
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
