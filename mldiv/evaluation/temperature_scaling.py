"""Make a predictive's confidence right by one number, its temperature, fitted on validation data."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mldiv.evaluation.metrics import Labels
from mldiv.records.contents import TEMPERATURES

LOWEST, HIGHEST = TEMPERATURES

Probabilities = Float[Tensor, "images classes"]


def scale(probabilities: Probabilities, temperature: float) -> Probabilities:
    r"""Return the predictive at another temperature: above 1 less sure of itself, below 1 surer; the order of classes stays.

    .. math:: \mathrm{softmax}(\log p / T)

    chosen: a Monte Carlo predictive is a mean of softmaxes and has no logits, so its log-probabilities stand for them; for
    one sample this is the usual form. p clamped at its type's smallest normal number. The result is float64, in which two
    classes that differ stay different. p -> probabilities; T -> temperature. References: Guo et al. (ICML 2017).
    """
    return (logarithms(probabilities) / temperature).softmax(-1)


def fit_temperature(probabilities: Probabilities, labels: Labels) -> float:
    """Fit the temperature in [0.05, 20] at which `scale` has the smallest mean negative log-likelihood of ``labels``.

    Validation data. The likelihood has one maximum in the temperature; it is found by a bounded search on its logarithm, in
    float64. Where none is better than 1, 1. Predictions that are all right give a temperature near the lower bound, as there
    is no error to be unsure of: with few validation images that is chance, and dear on test images.

    Raises: ValueError without images.
    """
    from scipy.optimize import minimize_scalar  # takes half a second to import

    if len(labels) == 0:
        raise ValueError("a temperature cannot be fitted to no validation images")
    logs, labels = logarithms(probabilities), labels.double() if labels.dim() == 2 else labels

    def nll(log_temperature: float) -> float:
        return torch.nn.functional.cross_entropy(logs / math.exp(log_temperature), labels).item()

    bounds = math.log(LOWEST), math.log(HIGHEST)
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x) if found.fun < nll(0.0) else 1.0


def logarithms(probabilities: Probabilities) -> Probabilities:
    """Return natural logarithms in float64, of probabilities that are at least their type's smallest normal number."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).double().log()
