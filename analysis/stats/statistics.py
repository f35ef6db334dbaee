"""Compute means, paired differences, tests, contrasts and power over seeds. Functions of numbers; no files, no drawing."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import optimize, stats

LEVEL = 0.05
#: The chance with which a planned study is to show an effect.
POWER = 0.8
#: Up to so many pairs the sign-flip test enumerates every sign; above, it draws so many, a chunk at a time.
EXACT_PAIRS = 16
DRAWS, CHUNK_DRAWS = 100_000, 10_000
#: More seeds than this are not worth planning, and larger shifts (in deviations) than this are certain to be seen.
MOST_SEEDS = 10_000
LARGEST_SHIFT = 100.0


@dataclass(frozen=True)
class Summary:
    """The mean, sample standard error (None for fewer than two values) and number of values."""

    mean: float
    error: float | None
    n: int

    def text(self, digits: int, mean: str = "{}") -> str:
        """Write mean and standard error; ``mean`` is a format for the former."""
        error = f" ± {self.error:.{digits}f}" if self.error is not None else ""
        return mean.format(f"{self.mean:.{digits}f}") + error


def summarize(values: Sequence[float | None]) -> Summary | None:
    """Summarise the values that are not None; None when there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    error = float(stats.sem(known)) if len(known) > 1 else None
    return Summary(float(np.mean(known)), error, len(known))


@dataclass(frozen=True)
class Difference:
    """Paired differences of an arm to the baseline, or of a contrast, over n seeds.

    interval: 95 %, None for n < 2; p: of the sign-flip test; adjusted: Holm's p; deviation: the differences' sample standard
    deviation, None for n < 2; images: over how many the interval holds too, None where it is over seeds alone.
    """

    mean: float
    interval: tuple[float, float] | None
    p: float
    n: int
    adjusted: float = 1.0
    deviation: float | None = None
    images: int | None = None


def difference(pairs: Sequence[float]) -> Difference:
    """Return mean, t interval and exact two-sided sign-flip p of paired differences.

    The interval takes the differences as normal; the p-value takes them as symmetric around 0 under the null.
    """
    values = np.asarray(pairs, float)
    interval, deviation = None, None
    if len(values) > 1:
        deviation = float(values.std(ddof=1))
        half = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values))
        interval = (float(values.mean()) - half, float(values.mean()) + half)
    return Difference(float(values.mean()), interval, sign_flip(values), len(values), deviation=deviation)


def sign_flip(values: np.ndarray) -> float:
    """Return the two-sided p of the mean of ``values`` [n] under random signs: all 2^n up to n = 16, else 100,000 drawn."""
    n, observed = len(values), abs(values.sum())
    if n <= EXACT_PAIRS:
        return float(np.mean(np.abs(_signs(n) @ values) >= observed * (1 - 1e-12) - 1e-300))
    generator, larger = np.random.default_rng(0), 0
    for _ in range(DRAWS // CHUNK_DRAWS):
        signs = 1.0 - 2.0 * generator.integers(0, 2, (CHUNK_DRAWS, n), dtype=np.int8)
        larger += int(np.sum(np.abs(signs @ values) >= observed * (1 - 1e-12)))
    return (1 + larger) / (1 + DRAWS)


@lru_cache(maxsize=EXACT_PAIRS)
def _signs(n: int) -> np.ndarray:
    """Return all 2^n rows of signs, [2^n, n]."""
    return np.array(list(product((1.0, -1.0), repeat=n)))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's method; they stay in the order given."""
    order = np.argsort(p, kind="stable")
    adjusted, largest = np.empty(len(p)), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = largest
    return adjusted.tolist()


def smallest_p(n: int) -> float:
    """Return the smallest p that a two-sided sign-flip test of n pairs can give: 2 / 2^n."""
    return 2.0 / 2**n


def seeds_needed(comparisons: int) -> int:
    """Return the fewest pairs with which the test can reach LEVEL after Holm's correction over so many comparisons."""
    return math.ceil(math.log2(2 * comparisons / LEVEL))


def seeds_for_power(mean: float, deviation: float | None, comparisons: int, power: float = POWER) -> int | None:
    """Return the fewest paired seeds that show a difference of this size with this power at Holm's strictest level.

    mean, deviation: of the paired differences, in the same units; the strictest level is LEVEL/comparisons. None if the
    mean is 0, the deviation unknown, or more than 10,000 seeds would be needed. A mean taken from the same few seeds is
    itself uncertain, and the largest of several means is too large: the answer is a plan, not a promise.
    """
    if deviation is None or not math.isfinite(mean) or not math.isfinite(deviation) or mean == 0:
        return None
    shift = min(abs(mean) / deviation, LARGEST_SHIFT) if deviation > 0 else LARGEST_SHIFT
    candidates = range(seeds_needed(comparisons), MOST_SEEDS + 1)
    first = bisect_left(candidates, power, key=lambda n: _power(shift, n, LEVEL / comparisons))
    return candidates[first] if first < len(candidates) else None


def detectable(deviation: float | None, n: int, comparisons: int, power: float = POWER) -> float | None:
    """Return the smallest mean difference that n paired seeds show with this power at Holm's strictest level.

    In the units of ``deviation``, the standard deviation of the paired differences. None if n seeds cannot reach the level.
    """
    if deviation is None or not math.isfinite(deviation) or n < seeds_needed(comparisons):
        return None
    return deviation * float(optimize.brentq(lambda shift: _power(shift, n, LEVEL / comparisons) - power, 0.0, LARGEST_SHIFT))


def _power(shift: float, n: int, level: float) -> float:
    """Return the chance that the two-sided sign-flip test of n normal differences with mean ``shift`` deviations rejects.

    The test can only reject at k/2^(n-1), k whole; the largest such value below ``level`` counts. For k = 1 it rejects if
    all signs agree: Phi(shift)^n + Phi(-shift)^n, exactly. Otherwise the paired t test at that value stands for it,
    P(|T| > t) with T noncentral t, n-1 degrees of freedom and noncentrality shift sqrt(n); at a stated power of 0.80 the
    sign-flip test's own is 0.74 to 0.75 for k = 2, 0.76 to 0.78 for k = 3 to 10 and 0.78 to 0.81 above (simulated).
    """
    if n <= EXACT_PAIRS:
        k = math.floor(level * 2 ** (n - 1) * (1 + 1e-12))
        if k <= 1:
            return k * float(stats.norm.cdf(shift) ** n + stats.norm.cdf(-shift) ** n)
        level = k / 2 ** (n - 1)
    critical = stats.t.ppf(1 - level / 2, n - 1)
    return float(stats.nct.sf(critical, n - 1, shift * n**0.5) + stats.nct.sf(critical, n - 1, -shift * n**0.5))


def contrast(values: Mapping[str, Mapping[int, float]], weights: Mapping[str, float]) -> dict[int, float]:
    """Add up weight * value over arms, {arm: {seed: value}} to {seed: value}, for every seed that all arms have.

    Seeds act as blocks: their own level falls out of weights that sum to 0. In a 2x2 design with cells 00, 10, 01 and 11,
    the interaction has the weights 1, -1, -1, 1 and the first factor's main effect -1/2, 1/2, -1/2, 1/2.
    """
    shared = set.intersection(*(set(values[arm]) for arm in weights))
    return {seed: sum(weight * values[arm][seed] for arm, weight in weights.items()) for seed in sorted(shared)}
