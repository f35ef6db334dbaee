"""Judge by the smooth calibration error, which has no bins, whether confidences are calibrated well enough.

smECE_s is the mean size of the residuals, correct - confidence, after smoothing by a Gaussian of width s that is reflected at
the ends of [0, 1]; the smooth calibration error is smECE_s at the width that equals it:

    smECE_s = integral over t in [0, 1] of |1/N sum_i K_s(t, c_i) (y_i - c_i)|,        smECE = s with s = smECE_s

(Blasiok and Nakkiran, Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing, ICLR 2024). smECE_s falls as s
rises, so there is one such s. The reflected Gaussian is a product in the cosine series, exp(-(pi k s)²/2)
for the k-th: residuals are shared out between the nearest two of CELLS midpoints, and smoothed by a discrete cosine transform.

Chance makes it too large, by at most the smECE of chance alone: with y_i - c_i = d_i + e_i, e_i of mean 0, smECE_s of the sum
is at most that of d and that of e added up; at s = smECE(d) + smECE(e), by both falling, it is at most s, so

    smECE(d + e) <= smECE(d) + smECE(e).

The last is estimated by giving every image's residuals a random sign (a wild bootstrap): it keeps their sizes, and holds
whatever the true chances are.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import fft, sparse
from scipy.optimize.elementwise import find_root

from analysis.stats import bootstrap
from analysis.stats.bootstrap import Interval
from analysis.stats.calibration import log_scale
from analysis.stats.statistics import LEAST_SEEDS, UNDECIDED

CELLS = 1024
#: Of the width, in shares of 1.
TOLERANCES = {"xatol": 1e-7, "xrtol": 0.0}
#: An exponent below minus this leaves nothing of a cosine.
NOTHING = 40.0
#: Draws of random signs.
SIGN_DRAWS = 100

#: A calibration error that does not matter, in shares of 1, where a study does not say.
NEGLIGIBLE = 0.02

#: What a judgement ends as, beside undecided.
CALIBRATED, MISCALIBRATED = "calibrated", "miscalibrated"


@dataclass(frozen=True)
class Judgement:
    """The smooth calibration error's interval as of `judge`, and the verdict.

    interval: None with one seed; its estimate holds what chance added.
    """

    interval: Interval | None
    verdict: str


def smooth_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the smooth calibration error of predictions [images], in shares of 1.

    Of 10,000 images within 1e-4 of the sum over all images, and in some milliseconds.
    """
    every = np.ones((1, len(confidence)))
    return float(image_smooth_errors(np.asarray(confidence)[None], np.asarray(correct)[None])(every)[0, 0])


def image_smooth_errors(confidence: np.ndarray, correct: np.ndarray) -> bootstrap.PerSeed:
    """Return a function from weights of images [draws, images] to the smooth calibration error of each seed [draws, seeds].

    confidence, correct: [seeds, images].
    """
    confidence = np.asarray(confidence, float)
    seeds, images = confidence.shape
    residuals = (np.asarray(correct, float) - confidence) / images
    below = np.floor(confidence * CELLS - 0.5)
    upper = confidence * CELLS - 0.5 - below  # the share of the midpoint above
    cells = np.clip([below, below + 1], 0, CELLS - 1) + CELLS * np.arange(seeds)[:, None]
    values = np.array([residuals * (1 - upper), residuals * upper])
    columns = np.broadcast_to(np.arange(images), cells.shape)
    by_cell = sparse.csr_array((values.ravel(), (cells.ravel().astype(int), columns.ravel())), shape=(CELLS * seeds, images))

    def errors(weights: np.ndarray) -> np.ndarray:
        sums = np.asarray(by_cell @ np.ascontiguousarray(weights.T)).T.reshape(-1, CELLS)
        return _fixed_point(sums).reshape(-1, seeds)

    return errors


def judge(confidence: np.ndarray, correct: np.ndarray, *, draws: int = bootstrap.DRAWS) -> Judgement:
    """Judge whether the smooth calibration error, mean over seeds, is below a size that does not matter; [seeds, images].

    The interval is of the error at infinitely many images, over seeds and test images: its upper end is that of the sample's
    error, on a log scale (`calibration.log_scale`), which chance makes too large; the lower end less the most that chance
    adds (this file's head), and at least 0. So both ends err to the outside. "calibrated" where the whole interval lies below
    NEGLIGIBLE, "miscalibrated" where it lies above; otherwise, and with fewer than LEAST_SEEDS seeds, "undecided": too few
    images never end as either for their number alone. Verdicts are wrong in 2.5 % of cases at most, simulated
    (tests/analysis/test_smooth_calibration.py).
    """
    errors, (seeds, images) = image_smooth_errors(confidence, correct), np.shape(confidence)
    found = bootstrap.two_way_statistic(errors, seeds, images, draws=draws)
    if found is None:
        return Judgement(None, UNDECIDED)
    found, chance = log_scale(found), float(np.mean(errors(_signs(images))))
    found = replace(found, low=max(found.low - chance, 0.0))
    verdict = CALIBRATED if found.high < NEGLIGIBLE else MISCALIBRATED if found.low > NEGLIGIBLE else UNDECIDED
    return Judgement(found, verdict if seeds >= LEAST_SEEDS else UNDECIDED)


@lru_cache(maxsize=1)
def _signs(images: int) -> np.ndarray:
    """Draw random signs, [draws, images]."""
    return np.random.default_rng(0).choice((-1.0, 1.0), size=(SIGN_DRAWS, images))


def _fixed_point(sums: np.ndarray) -> np.ndarray:
    """Find the width that equals the error at it, for each row of residuals summed by cell, [rows, CELLS]."""
    spectrum, frequency = fft.dct(sums, norm="ortho"), np.pi**2 * np.arange(CELLS) ** 2 / 2

    def excess(width: np.ndarray, row: np.ndarray) -> np.ndarray:
        kept = 1 + int(np.sum(frequency * width.min() ** 2 < NOTHING))  # of the cosines: the rest is smoothed away
        smoothed = spectrum[row, :kept] * np.exp(-frequency[:kept] * width[:, None] ** 2)
        return np.abs(fft.idct(smoothed, n=CELLS, norm="ortho")).sum(1) - width

    above = 1.001 * np.abs(sums).sum(1)  # no smoothing makes residuals larger
    found: np.ndarray = find_root(excess, (np.zeros_like(above), above), args=(np.arange(len(sums)),), tolerances=TOLERANCES).x
    return found
