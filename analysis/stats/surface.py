"""Response surface over alpha and beta: a Gaussian process, where its optimum lies, and how sure that is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from sklearn.gaussian_process.kernels import Matern

from analysis.stats.gaussian_process import KEPT, chain, fit_process, posterior, remove_seeds

#: The paper's alpha and beta.
PAPER = (1.0, 2.0)
#: Decades between the smallest positive setting of an axis and the place of zero.
STEP = 0.5
LEVEL, TAILS = 0.9, (0.05, 0.95)
FLAT_LEVEL, PERMUTATIONS = 0.05, 1999
#: How surely the noise is at least its lower bound, by the repeats.
SURE = 0.995
#: Fewest trials; share of the square from which on the optimum's region no longer says where it is.
LEAST, WIDE = 6, 0.5


@dataclass(frozen=True)
class Axis:
    """A setting on a log10 scale from ``low`` to ``high`` (decades); with ``zero``, 0 lies STEP decades left of ``low``.

    Positions between zero's place and ``low`` stand for positive settings smaller than any that was searched.
    """

    low: float
    high: float
    zero: bool
    points: int

    @property
    def grid(self) -> np.ndarray:
        """Evenly spaced positions, [points], decades."""
        return np.linspace(self.low - STEP * self.zero, self.high, self.points)

    @property
    def values(self) -> np.ndarray:
        """The settings at the grid's positions, [points]: the first is 0 where the axis has a zero."""
        settings = 10.0**self.grid
        settings[0] *= not self.zero
        return settings

    def place(self, settings: np.ndarray | float) -> np.ndarray:
        """Positions of settings, any shape: log10, and zero's place for 0."""
        settings = np.asarray(settings, float)
        return np.log10(np.where(settings > 0, settings, 10.0 ** (self.low - STEP)))

    def nearest(self, setting: float) -> int | None:
        """The grid point nearest to a setting; None outside the axis."""
        distance = np.abs(self.grid - self.place(setting))
        return int(distance.argmin()) if distance.min() <= 0.51 * (self.grid[1] - self.grid[0]) else None


@dataclass(frozen=True)
class Estimate:
    """Posterior mean and equal-tailed 90 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Surface:
    """What `fit_surface` finds. Grids are [A, B], alpha by beta; values in the unit given, lower is better.

    mean, std: of the latent function, without the noise of a trial. optimum: share of posterior draws whose minimum lies at
    each grid point. region: 90 % region of the optimum, all points whose mean is at most ``threshold``; share: of the square.
    best: alpha and beta where ``mean`` is lowest. alpha_interval, beta_interval: equal-tailed 90 % of the optimum's draws.
    inside: whether ``point`` is in the region; False outside the square. gain: f at ``point`` less f at ``best``; an interval
    that holds 0 cannot tell them apart. As ``best`` is chosen by the same data, the interval is somewhat too narrow: on bowls
    and slopes of 12 to 50 trials it held the true difference in 72 to 96 % of 50 tests each, on flat ones in 94 to 100 %.
    hyperparameters: [kept, 4], standard deviation of the signal, length scales of alpha and beta in decades, standard
    deviation of a trial's mean over its seeds. at_bound: those whose likeliest value is a bound of the search; converged:
    whether that search did. p_flat: p-value of a flat surface. alpha, beta, value: the trials used, [n], seeds' effects
    removed. left_out: trials without any finite value.
    """

    alpha_axis: Axis
    beta_axis: Axis
    mean: np.ndarray
    std: np.ndarray
    optimum: np.ndarray
    region: np.ndarray
    threshold: float
    share: float
    best: tuple[float, float]
    alpha_interval: tuple[float, float]
    beta_interval: tuple[float, float]
    point: tuple[float, float]
    inside: bool
    gain: Estimate
    hyperparameters: np.ndarray
    at_bound: tuple[str, ...]
    converged: bool
    p_flat: float
    alpha: np.ndarray
    beta: np.ndarray
    value: np.ndarray
    left_out: int

    @property
    def noise(self) -> float:
        """Standard deviation of a trial's mean over its seeds: posterior median."""
        return float(np.median(self.hyperparameters[:, 3]))

    @property
    def length_scales(self) -> tuple[float, float]:
        """Of alpha and beta, in decades: posterior medians."""
        first, second = np.median(self.hyperparameters[:, 1:3], 0)
        return float(first), float(second)

    @property
    def located(self) -> bool:
        """Whether the data locate an optimum: a flat surface is ruled out (p <= 0.05), the region is under half the square."""
        return self.p_flat <= FLAT_LEVEL and self.share < WIDE


def flat_p(positions: np.ndarray, value: np.ndarray, seed: int = 0) -> float:
    """P-value of a flat surface: y' K y against the same after permutations of y over trials.

    Exact where the noise of trials is exchangeable. K: Matern kernel of fixed length, 0.4 spans. positions [n, 2]; value [n].
    Reference: the Hilbert-Schmidt independence criterion with a linear kernel on the value, Gretton et al., A Kernel
    Statistical Test of Independence (NeurIPS 2007).
    """
    centered = value - value.mean()
    kernel = Matern(0.4 * np.ptp(positions, axis=0), nu=2.5)(positions)
    generator = np.random.default_rng(seed)
    drawn = generator.permuted(np.tile(centered, (PERMUTATIONS, 1)), axis=1)
    observed = centered @ kernel @ centered
    return float((1 + np.sum(np.sum(drawn @ kernel * drawn, 1) >= observed - 1e-12 * abs(observed))) / (1 + PERMUTATIONS))


def fit_surface(
    alpha: np.ndarray,
    beta: np.ndarray,
    value: np.ndarray,
    *,
    repetitions: np.ndarray | None = None,
    alpha_range: tuple[float, float] | None = None,
    beta_range: tuple[float, float] | None = None,
    point: tuple[float, float] = PAPER,
    points: int = 30,
    draws: int = 2000,
    seed: int = 0,
) -> Surface:
    r"""Gaussian process over (log alpha, log beta) and the posterior of its optimum.

    .. math:: y_i = f(x_i) + \epsilon_i, \quad f \sim GP(\bar y, s^2 \mathrm{Matern}_{5/2}), \quad \epsilon_i \sim N(0, \tau^2)

    Lower is better: negate an accuracy. The hyperparameters are not fixed at their likeliest values: a Metropolis chain that
    starts there draws KEPT sets from their posterior (log-uniform between the bounds), and every result averages over them.
    The optimum's posterior is that of the minimum on the grid of joint draws of f. Its region is a level set of the mean, not
    the highest-density set: draws reach their minimum on the square's edge more often than smooth functions do. On noisy bowls
    (12, 25 and 50 trials, 60 each) the densest 90 % held the true optimum in 65, 73 and 77 %, the level set in 95, 88 and 92 %.

    alpha, beta: [n], >= 0. value: [n], or [n, seeds] with NaN for what is missing: then `remove_seeds`, and the noise is at
    least what the repeats allow (99.5 %). repetitions: [n], how many seeds are behind each value, if that is [n]; trials with
    fewer get more noise. alpha_range, beta_range: what was searched, > 0 (default: the trials' positive range). points: per
    axis. draws: of f. seed: of the restarts, the chain and the draws.

    Raises: ValueError for fewer than 6 trials, negative or non-finite settings, or a setting that never varies.
    References: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5.
    """
    alpha, beta, value = np.asarray(alpha, float), np.asarray(beta, float), np.asarray(value, float)
    finite = np.isfinite(value.reshape(len(value), -1)).any(1)
    counts = (np.ones(len(value)) if repetitions is None else np.asarray(repetitions, float))[finite]
    alpha, beta, value = alpha[finite], beta[finite], value[finite]
    if len(value) < LEAST:
        raise ValueError(f"{len(value)} trials with a finite value: a surface needs at least {LEAST}")
    axes = _axis("alpha", alpha, alpha_range, points), _axis("beta", beta, beta_range, points)
    variance, freedom = None, 0
    if value.ndim == 2:
        value, counts, variance, freedom = remove_seeds(value)
    x = np.stack([axes[0].place(alpha), axes[1].place(beta)], 1)
    where = np.stack(np.meshgrid(axes[0].grid, axes[1].grid, indexing="ij"), -1).reshape(-1, 2)
    where = np.concatenate([where, [[axes[0].place(point[0]), axes[1].place(point[1])]]])
    center, scale = value.mean(), value.std() or 1.0
    lowest = variance / counts.max() * freedom / stats.chi2.ppf(SURE, freedom) / scale**2 if variance else 0.0
    model, at_bound, converged = fit_process(x, (value - center) / scale, counts, lowest, seed)
    generator = np.random.default_rng(seed)
    kept = chain(model, generator)
    parts = [posterior(model, theta, where, draws // KEPT, generator) for theta in kept]
    mean, variances, functions = (np.array(part) for part in zip(*parts, strict=True))
    shape = points, points
    return Surface(
        alpha_axis=axes[0], beta_axis=axes[1], alpha=alpha, beta=beta, value=value, left_out=int((~finite).sum()),
        std=scale * np.sqrt(variances.mean(0) + mean.var(0))[:-1].reshape(shape), point=point,
        hyperparameters=np.exp(kept) ** [0.5, 1, 1, 0.5] * [scale, 1, 1, scale], at_bound=at_bound,
        converged=converged, p_flat=flat_p(x, value, seed),
        **_optimum(center + scale * mean.mean(0), center + scale * functions.reshape(-1, len(where)), axes, point),
    )  # fmt: skip


def _axis(name: str, settings: np.ndarray, searched: tuple[float, float] | None, points: int) -> Axis:
    if not (np.isfinite(settings).all() and (settings >= 0).all() and len(np.unique(settings)) > 1):
        raise ValueError(f"{name} must be finite, not negative, and take more than one value")
    positive = settings[settings > 0]
    low, high = searched or (positive.min(), positive.max())
    return Axis(float(np.log10(min(low, positive.min()))), float(np.log10(max(high, positive.max()))), 0 in settings, points)


def _optimum(mean: np.ndarray, functions: np.ndarray, axes: tuple[Axis, Axis], point: tuple[float, float]) -> dict[str, Any]:
    """What the draws [draws, A B + 1] and their mean [A B + 1] say about the optimum; the last column is the point's."""
    at, grid = functions[:, -1], functions[:, :-1]
    shape = axes[0].points, axes[1].points
    lowest, best = grid.argmin(1), int(mean[:-1].argmin())
    optimum = np.bincount(lowest, minlength=grid.shape[1]) / len(grid)
    order = np.argsort(mean[:-1], kind="stable")
    threshold = mean[order[np.searchsorted(np.cumsum(optimum[order]), LEVEL - 1e-9)]]
    region = (mean[:-1] <= threshold).reshape(shape)
    places, here = np.unravel_index([*lowest, best], shape), [axis.nearest(one) for axis, one in zip(axes, point, strict=True)]
    values = [axis.values[place] for axis, place in zip(axes, places, strict=True)]
    intervals = [tuple(np.quantile(one[:-1], TAILS, method="nearest").tolist()) for one in values]
    return {
        "mean": mean[:-1].reshape(shape),
        "optimum": optimum.reshape(shape),
        "region": region,
        "threshold": float(threshold),
        "share": float(region.mean()),
        "best": (float(values[0][-1]), float(values[1][-1])),
        "alpha_interval": intervals[0],
        "beta_interval": intervals[1],
        "inside": None not in here and bool(region[here[0], here[1]]),
        "gain": _estimate(at - grid[:, best]),
    }


def _estimate(draws: np.ndarray) -> Estimate:
    low, high = np.quantile(draws, TAILS)
    return Estimate(float(draws.mean()), float(low), float(high))
