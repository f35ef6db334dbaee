"""Sum up comparisons over several data sets, as rliable does: interquartile mean and probability of improvement.

References: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice (NeurIPS 2021).
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from analysis.stats.statistics import LEVEL

#: Of the interquartile mean; and of the probability, each of which meets every run with every other.
DRAWS = 10_000
PROBABILITY_DRAWS = 1000

Ends = tuple[float, float]


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of values [..., values]: a quarter is left out at either end, rounded down."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=-1))


def probability_of_improvement(better: Sequence[np.ndarray], worse: Sequence[np.ndarray]) -> float:
    """Return how probable it is that a run of the one exceeds a run of the other, on a data set drawn at random; ties are half.

    better, worse: scores of which more is better, for each data set [runs]; every run meets every run of its data set.
    """
    shares = [np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)) for a, b in zip(better, worse, strict=True)]
    return float(np.mean(shares))


def aggregate(differences: Sequence[np.ndarray]) -> tuple[float, Ends]:
    """Return the interquartile mean of all data sets' paired differences, and its 95 % interval.

    differences: for each data set [seeds]; each seed of each weighs the same. The interval is a percentile bootstrap that draws
    seeds within each data set: it holds over seeds, for these data sets and their images.
    """
    found = float(interquartile_mean(np.concatenate(differences)))
    stream = np.random.default_rng(0)
    drawn = [values[stream.integers(len(values), size=(DRAWS, len(values)))] for values in differences]
    low, high = np.quantile(interquartile_mean(np.concatenate(drawn, axis=1)), (LEVEL / 2, 1 - LEVEL / 2))
    return found, (float(low), float(high))


def improvement(better: Sequence[np.ndarray], worse: Sequence[np.ndarray]) -> tuple[float, Ends]:
    """Return the probability of improvement and its 95 % interval by the bootstrap of `aggregate`, seeds drawn in pairs.

    better, worse: as of `probability_of_improvement`, the same seeds in the same order.
    """
    stream = np.random.default_rng(0)
    found = []
    for _ in range(PROBABILITY_DRAWS):
        rows = [stream.integers(len(values), size=len(values)) for values in better]
        pairs = [[values[row] for values, row in zip(of, rows, strict=True)] for of in (better, worse)]
        found.append(probability_of_improvement(*pairs))
    low, high = np.quantile(found, (LEVEL / 2, 1 - LEVEL / 2))
    return probability_of_improvement(better, worse), (float(low), float(high))
