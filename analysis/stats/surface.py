"""Fit a response surface over alpha and beta by a Gaussian process: where its optimum lies, and how sure that is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from analysis.stats.gaussian_process import KEPT_STEPS, chain, fit_process, posterior, remove_seeds
from analysis.stats.statistics import Drawn, of_draws

Range = tuple[float, float]

#: The paper's alpha and beta.
PAPER = (1.0, 2.0)
#: Decades between the smallest positive setting of an axis and the place of zero.
ZERO_DECADES = 0.5
LEVEL, TAILS = 0.9, (0.05, 0.95)
FLAT_LEVEL, PERMUTATIONS = 0.05, 1999
#: How surely the noise is at least its lower bound, by the repeats.
SURE = 0.995
#: Share of the square from which on the optimum's region no longer says where it is.
WIDE = 0.5
LEAST_TRIALS = 6


@dataclass(frozen=True)
class Axis:
    """A setting on a log10 scale from ``low`` to ``high``, in decades; with ``zero``, 0 lies half a decade left of ``low``.

    Positions between zero's place and ``low`` stand for positive settings smaller than any that was searched.
    """

    low: float
    high: float
    zero: bool
    points: int

    @property
    def grid(self) -> np.ndarray:
        """Evenly spaced positions, [points], decades."""
        return np.linspace(self.low - ZERO_DECADES * self.zero, self.high, self.points)

    @property
    def values(self) -> np.ndarray:
        """The settings at the grid's positions, [points]: the first is 0 where the axis has a zero."""
        settings = 10.0**self.grid
        settings[0] *= not self.zero
        return settings

    def place(self, settings: np.ndarray | float) -> np.ndarray:
        """Return the positions of settings, of any shape: log10, and zero's place for 0."""
        settings = np.asarray(settings, float)
        return np.log10(np.where(settings > 0, settings, 10.0 ** (self.low - ZERO_DECADES)))

    def nearest(self, setting: float) -> int | None:
        """Return the index of the grid point nearest to a setting; None outside the axis."""
        distance = np.abs(self.grid - self.place(setting))
        return int(distance.argmin()) if distance.min() <= 0.51 * (self.grid[1] - self.grid[0]) else None


@dataclass(frozen=True)
class Surface:
    """The surface that `fit_surface` finds. Grids are [A, B], alpha by beta; values in the unit given, lower is better.

    mean: of the latent function, without the noise of a trial. optimum: share of posterior draws whose minimum lies at each
    grid point. region: 90 % region of the optimum, all points whose mean is at most ``threshold``; share: of the square.
    best: alpha and beta where ``mean`` is lowest. alpha_interval, beta_interval: equal-tailed 90 % of the optimum's draws.
    inside: whether PAPER is in the region; False outside the square. gain: f at PAPER less f at ``best``, with 90 % too;
    an interval that holds 0 cannot tell them apart. As ``best`` is chosen by the same data, it is somewhat too narrow: on bowls
    and slopes of 12 to 50 trials it held the true difference in 72 to 96 % of 50 tests each, on flat ones in 94 to 100 %.
    hyperparameters: [16, 4], drawn: standard deviation of the signal, length scales of alpha and beta in decades, standard
    deviation of a trial's mean over its seeds. p_flat: p-value of a flat surface. alpha, beta, value: the trials used, [n],
    seeds' effects removed.
    """

    alpha_axis: Axis
    beta_axis: Axis
    mean: np.ndarray
    optimum: np.ndarray
    region: np.ndarray
    threshold: float
    share: float
    best: tuple[float, float]
    alpha_interval: tuple[float, float]
    beta_interval: tuple[float, float]
    inside: bool
    gain: Drawn
    hyperparameters: np.ndarray
    p_flat: float
    alpha: np.ndarray
    beta: np.ndarray
    value: np.ndarray

    @property
    def located(self) -> bool:
        """Whether the data locate an optimum: a flat surface is ruled out (p <= 0.05), the region is under half the square."""
        return self.p_flat <= FLAT_LEVEL and self.share < WIDE


def flat_p(positions: np.ndarray, value: np.ndarray) -> float:
    """Test for a flat surface: the p-value of y' K y against the same after 1,999 permutations of y over trials.

    Exact where the noise of trials is exchangeable. K: Matern kernel of fixed length, 0.4 spans. positions [n, 2]; value [n].
    Reference: the Hilbert-Schmidt independence criterion with a linear kernel on the value, Gretton et al., A Kernel
    Statistical Test of Independence (NeurIPS 2007).
    """
    centered = value - value.mean()
    kernel = Matern(0.4 * np.ptp(positions, axis=0), nu=2.5)(positions)
    drawn = np.random.default_rng(0).permuted(np.tile(centered, (PERMUTATIONS, 1)), axis=1)
    observed = centered @ kernel @ centered
    return float((1 + np.sum(np.sum(drawn @ kernel * drawn, 1) >= observed - 1e-12 * abs(observed))) / (1 + PERMUTATIONS))


def fit_surface(
    alpha: np.ndarray, beta: np.ndarray, value: np.ndarray, *, alpha_range: Range, beta_range: Range, points: int = 30,
    draws: int = 2000,
) -> Surface:  # fmt: skip
    r"""Fit a Gaussian process over (log alpha, log beta) and draw where its optimum lies.

    .. math:: y_i = f(x_i) + \epsilon_i, \quad f \sim GP(\bar y, s^2 \mathrm{Matern}_{5/2}), \quad \epsilon_i \sim N(0, \tau^2)

    Lower is better: negate an accuracy. The hyperparameters are not fixed at their likeliest values: a Metropolis chain that
    starts there draws 16 sets from their posterior (log-uniform between the bounds), and every result averages over them.
    The optimum's posterior is that of the minimum on the grid of joint draws of f. Its region is a level set of the mean, not
    the highest-density set: draws reach their minimum on the square's edge more often than smooth functions do. On noisy bowls
    (12, 25 and 50 trials, 60 each) the densest 90 % held the true optimum in 65, 73 and 77 %, the level set in 95, 88 and 92 %.

    alpha, beta: [n], >= 0. value: [n], or [n, seeds] with NaN for what is missing: then `remove_seeds`, and the noise is at
    least what the repeats allow (99.5 %). Trials without any finite value are left out; those with fewer seeds have more noise.
    alpha_range, beta_range: what was searched, > 0. points: of the grid, per axis. draws: of f.

    Raises: ValueError for fewer than 6 trials, negative or non-finite settings, or a setting that never varies.
    References: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5.
    """
    finite = np.isfinite(value.reshape(len(value), -1)).any(1)
    alpha, beta, value = alpha[finite], beta[finite], value[finite]
    if len(value) < LEAST_TRIALS:
        raise ValueError(f"{len(value)} trials with a finite value: a surface needs at least {LEAST_TRIALS}")
    axes = _axis("alpha", alpha, alpha_range, points), _axis("beta", beta, beta_range, points)
    counts, lowest = np.ones(len(value)), 0.0
    if value.ndim == 2:
        value, counts, variance, freedom = remove_seeds(value)
        lowest = variance / counts.max() * freedom / stats.chi2.ppf(SURE, freedom) if variance else 0.0
    x = np.stack([axes[0].place(alpha), axes[1].place(beta)], 1)
    center, scale = value.mean(), value.std() or 1.0
    model = fit_process(x, (value - center) / scale, counts, lowest / scale**2)
    kept, mean, functions = _drawn(model, axes, draws)
    return Surface(
        alpha_axis=axes[0], beta_axis=axes[1], alpha=alpha, beta=beta, value=value, p_flat=flat_p(x, value),
        hyperparameters=np.exp(kept) ** [0.5, 1, 1, 0.5] * [scale, 1, 1, scale],
        **_optimum(center + scale * mean, center + scale * functions, axes),
    )  # fmt: skip


def _axis(name: str, settings: np.ndarray, searched: Range, points: int) -> Axis:
    if not (np.isfinite(settings).all() and (settings >= 0).all() and len(np.unique(settings)) > 1):
        raise ValueError(f"{name} must be finite, not negative, and take more than one value")
    positive = settings[settings > 0]
    low, high = min(searched[0], positive.min()), max(searched[1], positive.max())
    return Axis(float(np.log10(low)), float(np.log10(high)), 0 in settings, points)


def _drawn(model: GaussianProcessRegressor, axes: tuple[Axis, Axis], draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw log hyperparameters [16, 4], and return f's mean [A B + 1] and draws [draws, A B + 1] on the grid and at PAPER."""
    where = np.stack(np.meshgrid(axes[0].grid, axes[1].grid, indexing="ij"), -1).reshape(-1, 2)
    where = np.concatenate([where, [[axes[0].place(PAPER[0]), axes[1].place(PAPER[1])]]])
    generator = np.random.default_rng(0)
    kept = chain(model, generator)
    parts = [posterior(model, theta, where, draws // KEPT_STEPS, generator) for theta in kept]
    return kept, np.mean([mean for mean, _ in parts], axis=0), np.concatenate([functions for _, functions in parts])


def _optimum(mean: np.ndarray, functions: np.ndarray, axes: tuple[Axis, Axis]) -> dict[str, Any]:
    """Return what the draws [draws, A B + 1] and their mean [A B + 1] say of the optimum; the last column is PAPER's."""
    at, grid = functions[:, -1], functions[:, :-1]
    shape = axes[0].points, axes[1].points
    lowest, best = grid.argmin(1), int(mean[:-1].argmin())
    optimum = np.bincount(lowest, minlength=grid.shape[1]) / len(grid)
    order = np.argsort(mean[:-1], kind="stable")
    threshold = mean[order[np.searchsorted(np.cumsum(optimum[order]), LEVEL - 1e-9)]]
    region = (mean[:-1] <= threshold).reshape(shape)
    here = [axis.nearest(setting) for axis, setting in zip(axes, PAPER, strict=True)]
    places = np.unravel_index([*lowest, best], shape)
    alpha, beta = (axis.values[place] for axis, place in zip(axes, places, strict=True))
    alpha_interval, beta_interval = (
        tuple(np.quantile(settings[:-1], TAILS, method="nearest").tolist()) for settings in (alpha, beta)
    )
    return {
        "mean": mean[:-1].reshape(shape),
        "optimum": optimum.reshape(shape),
        "region": region,
        "threshold": float(threshold),
        "share": float(region.mean()),
        "best": (float(alpha[-1]), float(beta[-1])),
        "alpha_interval": alpha_interval,
        "beta_interval": beta_interval,
        "inside": None not in here and bool(region[here[0], here[1]]),
        "gain": of_draws(at - grid[:, best], TAILS),
    }
