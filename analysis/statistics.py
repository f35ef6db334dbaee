"""Means, paired differences and tests over seeds. Functions of numbers; no files, no drawing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

LEVEL = 0.05
#: Up to so many pairs the sign-flip test enumerates every sign; above, it draws.
EXACT = 16
DRAWS = 100_000


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard error (None for fewer than two values) and number of values."""

    mean: float
    error: float | None
    n: int


def summarize(values: Sequence[float]) -> Summary | None:
    """The summary of ``values``; None when there are none."""
    if not len(values):
        return None
    error = float(stats.sem(values)) if len(values) > 1 else None
    return Summary(float(np.mean(values)), error, len(values))


@dataclass(frozen=True)
class Difference:
    """Paired differences of an arm to the baseline: mean, 95 % t interval (None for n < 2), sign-flip p, Holm's p."""

    mean: float
    interval: tuple[float, float] | None
    p: float
    n: int
    adjusted: float = 1.0


def difference(pairs: Sequence[float]) -> Difference:
    """Mean, t interval and exact two-sided sign-flip p of paired differences.

    The interval takes the differences as normal; the p-value takes them as symmetric around 0 under the null.
    """
    values = np.asarray(pairs, float)
    interval = None
    if len(values) > 1:
        half = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values))
        interval = (float(values.mean()) - half, float(values.mean()) + half)
    return Difference(float(values.mean()), interval, sign_flip(values), len(values))


def sign_flip(values: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the mean under random signs: all 2^n of them up to n = 16, else 100,000 drawn from ``seed``."""
    n, observed = len(values), abs(values.sum())
    if n <= EXACT:
        signs = np.array(list(product((1, -1), repeat=n)))
        return float(np.mean(np.abs(signs @ values) >= observed * (1 - 1e-12) - 1e-300))
    signs = np.random.default_rng(seed).choice((-1, 1), (DRAWS, n))
    return float((1 + np.sum(np.abs(signs @ values) >= observed * (1 - 1e-12))) / (1 + DRAWS))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given."""
    order = np.argsort(p, kind="stable")
    adjusted, largest = np.empty(len(p)), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = largest
    return adjusted.tolist()


def smallest_p(n: int) -> float:
    """The smallest p that a two-sided sign-flip test of n pairs can give: 2 / 2^n."""
    return 2.0 / 2**n


def seeds_needed(comparisons: int, level: float = LEVEL) -> int:
    """The fewest pairs with which the test can come out at ``level`` after Holm's correction over so many comparisons."""
    return math.ceil(math.log2(2 * comparisons / level))
