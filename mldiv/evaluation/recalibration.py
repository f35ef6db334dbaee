"""Make a predictive's probabilities right on validation data: by a vector or a step per class; a temperature has its own file.

Add one to RECALIBRATORS: fitted to validation probabilities [images, classes] and labels [images], or soft ones
[images, classes], it is a function of probabilities [images, classes], whose rows it leaves summing to 1. All work in
float64, on probabilities, as a Monte Carlo predictive has no logits (`temperature_scaling`).
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from mldiv.evaluation.metrics import Labels
from mldiv.evaluation.temperature_scaling import HIGHEST, LOWEST, Probabilities, logarithms

#: How far a class's bias of `vector` may go: a factor of 22,000 in the odds.
LARGEST_BIAS = 10.0
#: Steps of its search at most: of real predictions a few dozen are enough, separable data end at the bounds.
STEPS = 200

Recalibrated = Callable[[Probabilities], Probabilities]


def vector(probabilities: Probabilities, labels: Labels) -> Recalibrated:
    r"""Fit a weight and a bias per class by which ``labels`` have the smallest mean negative log-likelihood.

    .. math:: \mathrm{softmax}(w \odot \log p + b)

    By L-BFGS from w = 1, b = 0; the likelihood is concave in both. Where what is found is no better than w = 1 and b = 0, or
    not finite, that stays: on validation data it is never worse than no recalibration. chosen: w between the inverses of the
    temperatures' bounds and b within ±10, as data that are separable, or without an image of some class, have no finite
    maximum. It may change which class is the most probable. p -> probabilities, clamped at their type's smallest normal
    number. References: Guo et al. (ICML 2017).

    Raises: ValueError without images.
    """
    from scipy.optimize import minimize  # takes half a second to import

    _check(labels)
    logs, classes, truth = logarithms(probabilities), probabilities.shape[-1], _shares(labels, probabilities)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, biases = torch.from_numpy(flat).to(logs.device).split(classes)
        scaled = (weights * logs + biases).log_softmax(-1)
        gaps = (scaled.exp() - truth) / len(labels)
        slope = torch.cat([(gaps * logs).sum(0), gaps.sum(0)])
        return -(scaled * truth).sum().item() / len(labels), slope.cpu().numpy()

    start = np.repeat([1.0, 0.0], classes)
    bounds = [(1 / HIGHEST, 1 / LOWEST)] * classes + [(-LARGEST_BIAS, LARGEST_BIAS)] * classes
    with _threads().limit(limits=1):  # its vectors are short: more threads wait for each other, 2 ms a step
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS, "ftol": 1e-9})
    fitted = torch.from_numpy(found.x if found.fun < loss(start)[0] else start)  # nan is not smaller

    def recalibrated(other: Probabilities) -> Probabilities:
        weights, biases = fitted.to(other.device).split(classes)
        return (weights * logarithms(other) + biases).softmax(-1)

    return recalibrated


def isotonic(probabilities: Probabilities, labels: Labels) -> Recalibrated:
    r"""Fit a rising step function per class to "is it this class?", each against all others, and let rows sum to 1 again.

    .. math:: \frac{N q + 1/C}{N + 1}, \quad q_c = f_c(p_c) / \sum_k f_k(p_k)

    Probabilities beyond the validation images' take the nearest one's value, and soft labels are fitted as the shares they
    are. A row in which every f is 0 stays what it was.
    chosen: steps reach 0 and 1, and one image of a class that was given 0 would make the likelihood 0; so one image is
    imagined beside the N of validation data, spread evenly over the C classes, as N images do not tell a chance under about
    1/N from none: no probability is less than 1/(C (N + 1)). f -> fitted; p -> probabilities. References: Zadrozny and Elkan
    (KDD 2002).

    Raises: ValueError without images.
    """
    from sklearn.isotonic import IsotonicRegression  # scikit-learn takes a second to import

    _check(labels)
    images, classes = probabilities.shape
    columns = zip(_numpy(probabilities).T, _numpy(_shares(labels, probabilities)).T, strict=True)
    fitted = [IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(*column) for column in columns]

    def recalibrated(other: Probabilities) -> Probabilities:
        given = _numpy(other)
        steps = np.stack([step.predict(column) for step, column in zip(fitted, given.T, strict=True)], axis=-1)
        steps = np.where(steps.sum(-1, keepdims=True) > 0, steps, given)
        shares = steps / steps.sum(-1, keepdims=True)
        return torch.from_numpy((images * shares + 1 / classes) / (images + 1)).to(other.device)

    return recalibrated


@cache  # which libraries there are takes as long to find out as a search
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _check(labels: Labels) -> None:
    if len(labels) == 0:
        raise ValueError("a recalibration cannot be fitted to no validation images")


def _shares(labels: Labels, probabilities: Probabilities) -> Probabilities:
    return (labels if labels.dim() == 2 else torch.nn.functional.one_hot(labels, probabilities.shape[-1])).double()


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


RECALIBRATORS: dict[str, Callable[[Probabilities, Labels], Recalibrated]] = {
    "vector": vector,
    "isotonic": isotonic,
}
