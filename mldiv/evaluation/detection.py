"""Score how well an uncertainty tells wrong predictions from right ones, or other images from a network's own."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Percent of the positives that `fpr95` finds.
FOUND_PERCENT = 95


def auroc(positive: Float[Tensor, " positives"], negative: Float[Tensor, " negatives"]) -> float:
    """Return the area under the ROC curve: how often a positive's score exceeds a negative's, ties counted half.

    0.5 is chance; nan where there are no positives, no negatives, or a score is not finite. By the sum of the positives' ranks
    (Mann and Whitney, 1947): scikit-learn's value, without its checks.
    """
    if not _defined(positive, negative):
        return math.nan
    from scipy.stats import rankdata  # takes half a second to import

    ranks, least = rankdata(_together(positive, negative)), len(positive) * (len(positive) + 1) / 2
    return float((ranks[: len(positive)].sum() - least) / (len(positive) * len(negative)))


def aupr(positive: Float[Tensor, " positives"], negative: Float[Tensor, " negatives"]) -> float:
    """Return the average precision: over the positives, the mean share of positives among what scores at least as high.

    The area under the precision-recall curve as steps, without interpolation; what scores the same is found together. Chance
    is the share of positives, so the curve depends on which class is positive: for the other way round give ``-negative``
    and ``-positive``. nan as of `auroc`.
    """
    if not _defined(positive, negative):
        return math.nan
    from sklearn.metrics import average_precision_score  # scikit-learn takes a second to import

    values = _together(positive, negative)
    return float(average_precision_score(np.arange(len(values)) < len(positive), values))


def fpr95(positive: Float[Tensor, " positives"], negative: Float[Tensor, " negatives"]) -> float:
    """Return the share of negatives that score as high as the threshold at which 95 % of the positives are found, or higher.

    The threshold is the highest score of a positive that at least 95 % of the positives reach; what scores the same lies on
    the same side of it, without interpolation, so a constant score gives 1. 0.95 is chance. nan as of `auroc`. References:
    Liang et al. (ICLR 2018), who take the images of the network's own data as the positives; here, as by Hendrycks et al.
    (ICML 2022), those of the other data are.
    """
    if not _defined(positive, negative):
        return math.nan
    found = -(-FOUND_PERCENT * len(positive) // 100)
    threshold = positive.double().cpu().sort(descending=True).values[found - 1]
    return float((negative.double().cpu() >= threshold).double().mean())


def aurc(uncertainty: Float[Tensor, " images"], wrong: Bool[Tensor, " images"]) -> float:
    """Average the share of errors among the k least uncertain images over k = 1..N: the area under the risk-coverage curve.

    0 is perfect; an uncertainty that says nothing gives about the error rate. Equally uncertain images count in the mean
    over all their orders, whatever order they are in. nan without images, or where an uncertainty is not finite. References:
    Geifman et al. (ICLR 2019).
    """
    errors = _errors(uncertainty, wrong)
    return float((errors / torch.arange(1, len(errors) + 1)).mean())


def augrc(uncertainty: Float[Tensor, " images"], wrong: Bool[Tensor, " images"]) -> float:
    """Average the errors among the k least uncertain images, over N, over k = 1..N: the generalised risk-coverage area.

    The chance that an image is both kept and wrong. Half the error rate where the uncertainty says nothing, half its square at
    best (both up to 1/N); unlike `aurc` it gives the first images kept no more weight than the others. Ties and nan as of
    `aurc`. References: Traub et al. (NeurIPS 2024).
    """
    errors = _errors(uncertainty, wrong)
    return float((errors / len(errors)).mean())


def _errors(uncertainty: Float[Tensor, " images"], wrong: Bool[Tensor, " images"]) -> Float[Tensor, " images"]:
    """Count the errors among the k least uncertain images, k = 1..N; of ties, the mean over their orders."""
    values, errors = uncertainty.double().cpu(), wrong.double().cpu()
    if not values.isfinite().all():
        return torch.full_like(values, math.nan)
    levels, level, counts = values.unique(return_inverse=True, return_counts=True)  # levels rise
    shares = torch.zeros(len(levels), dtype=torch.double).index_add_(0, level, errors) / counts
    return shares.repeat_interleave(counts).cumsum(0)


def _defined(positive: Tensor, negative: Tensor) -> bool:
    return bool(len(positive) and len(negative) and positive.isfinite().all() and negative.isfinite().all())


def _together(positive: Tensor, negative: Tensor) -> np.ndarray:
    return torch.cat([positive, negative]).double().cpu().numpy()
