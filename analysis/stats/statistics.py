"""Compute means, paired differences, their verdicts, contrasts and plans over seeds. Functions of numbers; no files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from mldiv.records.contents import LEVEL

#: The chance with which a planned study is to decide a comparison.
POWER = 0.8
#: With fewer seeds an interval is not trusted (`bootstrap` has the coverage), and nothing is decided.
LEAST_SEEDS = 3
#: More seeds than this are not worth planning.
MOST_SEEDS = 1000

#: What a comparison ends as.
BETTER, EQUIVALENT, WORSE, UNDECIDED = VERDICTS = ("better", "equivalent", "worse", "undecided")


@dataclass(frozen=True)
class Summary:
    """The mean, sample standard error (None for fewer than two values) and number of values."""

    mean: float
    error: float | None
    n: int

    def text(self, digits: int, mean: str = "{}") -> str:
        """Write mean and standard error; ``mean`` is a format for the former."""
        error = f" ± {self.error:.{digits}f}" if self.error is not None else ""
        return mean.format(fixed(self.mean, digits)) + error


@dataclass(frozen=True)
class Drawn:
    """The mean of draws, and the ends between which the central ones lie."""

    mean: float
    low: float
    high: float


def of_draws(values: np.ndarray, ends: tuple[float, float]) -> Drawn:
    """Sum up draws; ends: the shares of them that lie below either end."""
    low, high = np.quantile(values, ends)
    return Drawn(float(values.mean()), float(low), float(high))


def fixed(value: float, digits: int, sign: str = "") -> str:
    """Write a number with so many digits after the point; 0 is never negative. sign: "+" writes that of positive ones too."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def digits_of(errors: Sequence[float], most: int) -> int:
    """Return after how many digits numbers with these standard errors end, at the most ``most``.

    Their median keeps two significant digits up to 35, one above (the rule of the Particle Data Group): 0.0106 and 0.031 give
    three, 0.42 one.
    """
    error = float(np.median(errors)) if len(errors) else 0.0
    if not error:
        return most
    exponent = math.floor(math.log10(error))
    return min(most, max(0, -exponent + (error / 10**exponent < 3.55)))


def summarize(values: Sequence[float | None]) -> Summary | None:
    """Summarise the values that are not None; None when there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    error = _standard_error(known) if len(known) > 1 else None
    return Summary(float(np.mean(known)), error, len(known))


@dataclass(frozen=True)
class Difference:
    """Paired differences of an arm to the baseline, or of a contrast, over n seeds; all in one unit.

    error: the mean's standard error, over seeds and images where images is given; df: its degrees of freedom; images_error:
    the part of it that more seeds do not lower; images: over how many the interval holds too, None where it is over seeds
    alone; adjusted: Holm's p; level: of its interval, below LEVEL where that is shared out over several looks.
    """

    mean: float
    n: int
    error: float | None = None
    df: float = 0.0
    images_error: float = 0.0
    images: int | None = None
    adjusted: float = 1.0
    level: float = LEVEL

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval at ``level`` (95 % at LEVEL), by Student's t; None for a single seed."""
        if self.error is None:
            return None
        half = float(special.stdtrit(self.df, 1 - self.level / 2)) * self.error
        return self.mean - half, self.mean + half

    @property
    def tested(self) -> bool:
        """Whether there are seeds enough for a p that is trusted."""
        return self.n >= LEAST_SEEDS

    @property
    def p(self) -> float:
        """The two-sided p of no difference: at most LEVEL where the interval leaves out 0, and nowhere else; 1 if not `tested`.

        Of one of several looks it is multiplied by their number, as Bonferroni does.
        """
        above = self.chance_above
        if above is None or not self.tested:
            return 1.0
        if not self.error:
            return float(self.mean == 0)
        return min(1.0, 2 * min(above, 1 - above) * LEVEL / self.level)

    @property
    def chance_above(self) -> float | None:
        """The chance that the true difference is above 0, if nothing was known of it before; None for a single seed."""
        if self.error is None:
            return None
        return float(special.stdtr(self.df, self.mean / self.error)) if self.error else float(np.sign(self.mean) / 2 + 0.5)

    def text(self, digits: int) -> str:
        """Write the mean with its sign, and the interval in brackets."""
        if self.interval is None:
            return f"{fixed(self.mean, digits, '+')} (one seed, no interval)"
        low, high = (fixed(end, digits, "+") for end in self.interval)
        return f"{fixed(self.mean, digits, '+')} [{low}, {high}]"

    def verdict(self, margin: float, more: bool) -> str:
        """Judge by the interval: equivalent where it lies within the margin, better or worse where it lies beside 0.

        margin: the smallest difference that matters; more: whether a higher score is better. The first of the three is two
        one-sided tests at half of ``level`` (Schuirmann 1987), the others are the two-sided test. Nothing is decided by fewer
        than LEAST_SEEDS.
        """
        if self.interval is None or not self.tested:
            return UNDECIDED
        low, high = self.interval
        if -margin < low and high < margin:
            return EQUIVALENT
        if low > 0 or high < 0:
            return BETTER if (low > 0) == more else WORSE
        return UNDECIDED

    def seeds_to_decide(self, margin: float) -> int | None:
        """Return the fewest seeds that end as a verdict with a chance of POWER, were the true difference what was found.

        None where 1,000 do not, or a single seed says nothing of how differences vary. The mean is itself uncertain: a plan,
        not a promise.
        """
        if self.error is None:
            return None
        n = np.arange(LEAST_SEEDS, MOST_SEEDS + 1)
        images = self.images_error**2
        seeds = max(self.error**2 - images, 0.0) * self.n / n
        variance = seeds + images
        if not variance[0]:
            return LEAST_SEEDS
        df = 1 / (seeds / variance / (n - 1) + images / variance / ((self.images or 2) - 1))
        error, half = np.sqrt(variance), special.stdtrit(df, 1 - self.level / 2) * np.sqrt(variance)
        untold = np.maximum(margin - half, 0.0), np.maximum(half, margin - half)  # |estimate| between them decides nothing
        cdf = [special.ndtr((sign * end - self.mean) / error) for sign in (1, -1) for end in untold]
        chance = 1 - (cdf[1] - cdf[0]) - (cdf[2] - cdf[3])
        enough = np.flatnonzero(chance >= POWER)
        return int(n[enough[0]]) if len(enough) else None


def difference(pairs: Sequence[float]) -> Difference:
    """Summarise paired differences [seeds], taken as normal: over seeds alone."""
    values = np.asarray(pairs, float)
    if len(values) < 2:
        return Difference(float(values.mean()), len(values))
    return Difference(float(values.mean()), len(values), _standard_error(values), len(values) - 1.0)


def _standard_error(values: Sequence[float] | np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def interval_name(level: float) -> str:
    """Name an interval at this level."""
    return f"{100 * (1 - level):.4g} % interval"


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's method; they stay in the order given."""
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    times = np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(times * np.asarray(p)[order]), 1.0)
    return adjusted.tolist()


def contrast(values: Mapping[str, Mapping[int, float]], weights: Mapping[str, float]) -> dict[int, float]:
    """Add up weight * value over arms, {arm: {seed: value}} to {seed: value}, for every seed that all arms have.

    Seeds act as blocks: their own level falls out of weights that sum to 0. In a 2x2 design with cells 00, 10, 01 and 11,
    the interaction has the weights 1, -1, -1, 1 and the first factor's main effect -1/2, 1/2, -1/2, 1/2.
    """
    shared = set.intersection(*(set(values[arm]) for arm in weights))
    return {seed: sum(weight * values[arm][seed] for arm, weight in weights.items()) for seed in sorted(shared)}
