"""Reliability of confidences: bins, expected calibration error, and what a perfectly calibrated model would score."""

from dataclasses import dataclass

import numpy as np

BINS = 15
DRAWS = 200


@dataclass(frozen=True)
class Reliability:
    """Per equal-width bin: number of predictions, mean confidence, accuracy (NaN in empty bins); and the total ECE."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def reliability(confidence: np.ndarray, correct: np.ndarray) -> Reliability:
    """Bins (k/15, (k+1)/15] of top-class confidence; ECE = sum_b n_b/N |accuracy_b - confidence_b|."""
    bins = _bins(confidence)
    count = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=np.asarray(values, float), minlength=BINS) for values in (confidence, correct)]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [total / count for total in sums]
    return Reliability(count, means[0], means[1], float(np.abs(sums[1] - sums[0]).sum() / len(confidence)))


def null_ece(confidence: np.ndarray, draws: int = DRAWS, seed: int = 0) -> float:
    """Mean ECE of a perfectly calibrated model with these confidences: correct with exactly these probabilities.

    ECE is biased upwards: with few images even the truth does not score 0. Drawn ``draws`` times from ``seed``.
    """
    confidence = np.asarray(confidence, float)
    bins = _bins(confidence)
    expected = np.bincount(bins, weights=confidence, minlength=BINS)
    generator = np.random.default_rng(seed)
    scores = []
    for _ in range(draws):
        correct = generator.random(len(confidence)) < confidence
        scores.append(np.abs(np.bincount(bins, weights=correct.astype(float), minlength=BINS) - expected).sum())
    return float(np.mean(scores) / len(confidence))


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(np.asarray(confidence, float) * BINS).astype(int) - 1, 0, BINS - 1)
