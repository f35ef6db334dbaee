"""Judge confidences: bins, calibration errors, their intervals, and what a perfectly calibrated model would score.

Confidence is the probability of the predicted class, correct whether that class is the label; [images], or [seeds, images]
for several seeds on the same test images. Everything is in shares of 1, not percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import sparse

from analysis.stats import bootstrap
from analysis.stats.bootstrap import Interval
from analysis.stats.statistics import LEVEL, Drawn, of_draws

BINS = 15
DRAWS = 200
#: Draws for quantiles, which need more than a mean does.
QUANTILE_DRAWS = 2000
#: Where the central 95 % begin and end.
CENTRAL = (LEVEL / 2, 1 - LEVEL / 2)
#: Random numbers held in memory at once.
CHUNK_CELLS = 2_000_000


@dataclass(frozen=True)
class Reliability:
    """The number of predictions, mean confidence and accuracy (NaN in empty bins) of each bin, [15] each, and the ECE."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def reliability(confidence: np.ndarray, correct: np.ndarray) -> Reliability:
    """Sort predictions [images] into 15 bins (k/15, (k+1)/15] of confidence; ECE = sum_b n_b/N |accuracy_b - confidence_b|."""
    bins = _bins(confidence)
    count = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=np.asarray(values, float), minlength=BINS) for values in (confidence, correct)]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [total / count for total in sums]
    return Reliability(count, means[0], means[1], float(np.abs(sums[1] - sums[0]).sum() / len(confidence)))


def null_ece(confidence: np.ndarray) -> float:
    """Return the mean ECE of a perfectly calibrated model with these confidences [images], drawn 200 times.

    Such a model is correct with exactly these probabilities. ECE is biased upwards: with few images even the truth does not
    score 0.
    """
    return null_distributions([confidence], DRAWS)[0].mean


def null_distributions(confidences: Sequence[np.ndarray], draws: int = QUANTILE_DRAWS) -> list[Drawn]:
    """Return for each of several models mean and central 95 % of the ECE if it were calibrated; confidences [images] of each.

    An ECE within the range is no evidence of miscalibration; one below it comes from chance or from selection. Several
    models at once are given one draw, which takes most of the time.
    """
    found = []
    for confidence, counts in zip(confidences, _calibrated_counts(confidences, draws), strict=True):
        expected = np.bincount(_bins(confidence), weights=confidence, minlength=BINS)
        scores = np.abs(counts - expected).sum(1) / len(confidence)
        found.append(of_draws(scores, CENTRAL))
    return found


def consistency_band(confidence: np.ndarray, draws: int) -> np.ndarray:
    """Return the range of each bin, [2, 15], in which a calibrated model's accuracy lies in 95 % of test sets.

    NaN in empty bins.

    Consistency bars (Broecker and Smith, Increasing the reliability of reliability diagrams, Weather and Forecasting 22,
    2007), with the confidences [images] held fixed instead of resampled. Each bin on its own: of 15 bins of a calibrated
    model, one outside is no surprise. Accuracies are whole counts, so ranges of small bins hold more than 95 %.
    """
    number = np.bincount(_bins(confidence), minlength=BINS)
    (counts,) = _calibrated_counts([confidence], draws)
    ends = np.quantile(counts, CENTRAL, axis=0, method="inverted_cdf")
    with np.errstate(invalid="ignore"):
        return ends / number


def debiased_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the squared (l2) calibration error over 15 bins, less what chance adds to it; inputs [images].

    Below 0 by chance near calibration. The bins are those of ``reliability``, of equal width.

    sum_b n_b/N [(accuracy_b - confidence_b)² - accuracy_b (1 - accuracy_b)/(n_b - 1)]

    (Kumar, Liang and Ma, Verified uncertainty calibration, NeurIPS 2019). A bin with one prediction counts as 0, as in
    their code: its chance part cannot be estimated. Differences within a bin cancel, so the target is a lower bound of the
    true error; spread of confidences within a bin makes the subtraction too large by about a hundredth.
    """
    bins = reliability(confidence, correct)
    several = bins.count > 1
    count, accuracy, sure = bins.count[several], bins.accuracy[several], bins.confidence[several]
    terms = (accuracy - sure) ** 2 - accuracy * (1 - accuracy) / (count - 1)
    return float((count * terms).sum() / len(confidence))


def log_scale(found: Interval) -> Interval:
    """Lay the interval of a calibration error on a log scale: error exp(± half width/error), at most 1; of 0 as it is.

    Of an ECE over seeds and test images, ``bootstrap.two_way_statistic`` of `image_eces`, it covers the expected ECE of such a
    model on test sets of this size, upward bias included (compare ``null_ece``), not the ECE at infinitely many images. A
    resample is biased once more; so resamples only serve for the variance, and the interval stands around the ECE of the
    sample, on a log scale because a mean of few ECEs is skewed. It is never narrower than that of the images alone, and
    therefore wide: in simulations with 3 to 8 seeds and 300 images 95 % intervals held 96 to 99 % for overconfident models
    and 99.5 % or more for calibrated ones.
    """
    if found.estimate == 0:
        return found
    factor = float(np.exp((found.high - found.estimate) / found.estimate))
    return replace(found, low=found.estimate / factor, high=min(found.estimate * factor, 1.0))


def image_eces(confidence: np.ndarray, correct: np.ndarray) -> bootstrap.PerSeed:
    """Return a function from weights of images [draws, images] to the ECE of each seed [draws, seeds].

    confidence, correct: [seeds, images].
    """
    confidence = np.asarray(confidence, float)
    seeds, images = confidence.shape
    gaps = (np.asarray(correct, float) - confidence).ravel()
    rows = (_bins(confidence) + BINS * np.arange(seeds)[:, None]).ravel()
    columns = np.tile(np.arange(images), seeds)
    by_bin = sparse.csr_array((gaps, (rows, columns)), shape=(BINS * seeds, images))

    def eces(weights: np.ndarray) -> np.ndarray:
        sums = np.asarray(by_bin @ np.ascontiguousarray(weights.T)).reshape(seeds, BINS, -1)
        return np.abs(sums).sum(1).T / images

    return eces


def _calibrated_counts(confidences: Sequence[np.ndarray], draws: int) -> list[np.ndarray]:
    """Draw how many predictions of each bin are correct, [draws, 15] for each model, confidences being probabilities."""
    models = [np.sort(np.asarray(confidence, float)) for confidence in confidences]
    bins = [np.unique(_bins(confidence), return_index=True) for confidence in models]
    found = [np.zeros((draws, BINS)) for _ in models]
    most = max(map(len, models))
    step = max(1, CHUNK_CELLS // most)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        uniform = _uniforms(start, rows, most)
        for counts, confidence, (filled, starts) in zip(found, models, bins, strict=True):
            hits = (uniform[:, : len(confidence)] < confidence).view(np.uint8)
            counts[start : start + rows, filled] = np.add.reduceat(hits, starts, axis=1, dtype=np.uint32)
    return found


@lru_cache(maxsize=1)  # of the next model with so many images too
def _uniforms(start: int, rows: int, images: int) -> np.ndarray:
    """Return some rows of an endless matrix of random numbers, always the same."""
    return np.random.Generator(np.random.PCG64(0).advance(start * images)).random((rows, images))


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(np.asarray(confidence, float) * BINS).astype(int) - 1, 0, BINS - 1)
