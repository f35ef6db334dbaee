"""Means, paired differences, tests, contrasts and power over seeds. Functions of numbers; no files, no drawing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import optimize, stats

LEVEL = 0.05
#: Up to so many pairs the sign-flip test enumerates every sign; above, it draws.
EXACT = 16
DRAWS, CHUNK = 100_000, 10_000
#: More seeds than this are not worth planning, and larger shifts (in deviations) than this are certain to be seen.
MOST = 10_000
LARGEST_SHIFT = 100.0


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
    """Paired differences of an arm to the baseline: mean, 95 % interval (None for n < 2), sign-flip p, Holm's p, the
    differences' sample standard deviation (None for n < 2), and over how many images the interval holds (None: over seeds
    alone)."""

    mean: float
    interval: tuple[float, float] | None
    p: float
    n: int
    adjusted: float = 1.0
    deviation: float | None = None
    images: int | None = None


def difference(pairs: Sequence[float]) -> Difference:
    """Mean, t interval and exact two-sided sign-flip p of paired differences.

    The interval takes the differences as normal; the p-value takes them as symmetric around 0 under the null.
    """
    values = np.asarray(pairs, float)
    interval, deviation = None, None
    if len(values) > 1:
        deviation = float(values.std(ddof=1))
        half = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values))
        interval = (float(values.mean()) - half, float(values.mean()) + half)
    return Difference(float(values.mean()), interval, sign_flip(values), len(values), deviation=deviation)


def sign_flip(values: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the mean under random signs: all 2^n of them up to n = 16, else 100,000 drawn from ``seed``."""
    n, observed = len(values), abs(values.sum())
    if n <= EXACT:
        return float(np.mean(np.abs(_signs(n) @ values) >= observed * (1 - 1e-12) - 1e-300))
    generator, larger = np.random.default_rng(seed), 0
    for _ in range(DRAWS // CHUNK):
        signs = 1.0 - 2.0 * generator.integers(0, 2, (CHUNK, n), dtype=np.int8)
        larger += int(np.sum(np.abs(signs @ values) >= observed * (1 - 1e-12)))
    return (1 + larger) / (1 + DRAWS)


@lru_cache(maxsize=EXACT)
def _signs(n: int) -> np.ndarray:
    """All 2^n rows of signs, [2^n, n]."""
    return np.array(list(product((1.0, -1.0), repeat=n)))


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


def seeds_for_power(
    mean: float, deviation: float | None, comparisons: int, power: float = 0.8, level: float = LEVEL
) -> int | None:
    """The fewest paired seeds that show a difference of this size with this power at Holm's strictest level.

    mean, deviation: of the paired differences, in the same units; the strictest level is level/comparisons. None if the
    mean is 0, the deviation unknown, or more than 10,000 seeds would be needed. A mean taken from the same few seeds is
    itself uncertain, and the largest of several means is too large: the answer is a plan, not a promise.
    """
    if deviation is None or not math.isfinite(mean) or not math.isfinite(deviation) or mean == 0:
        return None
    least = seeds_needed(comparisons, level)
    shift = min(abs(mean) / deviation, LARGEST_SHIFT) if deviation > 0 else LARGEST_SHIFT
    enough = [n for n in (least, MOST) if _power(shift, n, level / comparisons) >= power]
    if not enough or enough[0] == least:
        return enough[0] if enough else None
    low, high = least, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(shift, middle, level / comparisons) >= power else (middle, high)
    return high


def detectable(deviation: float | None, n: int, comparisons: int, power: float = 0.8, level: float = LEVEL) -> float | None:
    """The smallest mean difference that n paired seeds show with this power at Holm's strictest level, in the units of
    ``deviation``, the standard deviation of the paired differences; None if n seeds cannot reach the level at all."""
    if deviation is None or not math.isfinite(deviation) or n < seeds_needed(comparisons, level):
        return None
    lacking = lambda shift: _power(shift, n, level / comparisons) - power  # noqa: E731
    return deviation * float(optimize.brentq(lacking, 0.0, LARGEST_SHIFT))


def _power(shift: float, n: int, level: float) -> float:
    """The chance that the two-sided sign-flip test of n normal differences with mean ``shift`` deviations rejects.

    The test can only reject at k/2^(n-1), k whole; the largest such value below ``level`` counts. For k = 1 it rejects if
    all signs agree: Phi(shift)^n + Phi(-shift)^n, exactly. Otherwise the paired t test at that value stands for it,
    P(|T| > t) with T noncentral t, n-1 degrees of freedom and noncentrality shift sqrt(n); at a stated power of 0.80 the
    sign-flip test's own is 0.74 to 0.75 for k = 2, 0.76 to 0.78 for k = 3 to 10 and 0.78 to 0.81 above (simulated).
    """
    if n <= EXACT:
        k = math.floor(level * 2 ** (n - 1) * (1 + 1e-12))
        if k <= 1:
            return k * float(stats.norm.cdf(shift) ** n + stats.norm.cdf(-shift) ** n)
        level = k / 2 ** (n - 1)
    critical = stats.t.ppf(1 - level / 2, n - 1)
    return float(stats.nct.sf(critical, n - 1, shift * n**0.5) + stats.nct.sf(critical, n - 1, -shift * n**0.5))


def contrast(values: Mapping[str, Mapping[int, float]], weights: Mapping[str, float]) -> dict[int, float]:
    """Per seed the sum over arms of weight * value, {arm: {seed: value}} to {seed: value}, over seeds that all arms have.

    Seeds act as blocks: their own level falls out of weights that sum to 0. In a 2x2 design with cells 00, 10, 01 and 11,
    the interaction has the weights 1, -1, -1, 1 and the first factor's main effect -1/2, 1/2, -1/2, 1/2.
    """
    shared = set.intersection(*(set(values[arm]) for arm in weights))
    return {seed: sum(weight * values[arm][seed] for arm, weight in weights.items()) for seed in sorted(shared)}
