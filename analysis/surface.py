"""Response surface over alpha and beta: a Gaussian process, where its optimum lies, and how sure that is."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Transform
from scipy import linalg, optimize, stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

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
#: Bounds of the length scales in spans of their axis, of the signal's and the noise's variance in variances of the values.
LENGTHS, SIGNAL, NOISE = (0.1, 10.0), (1e-3, 1e4), (1e-4, 2.0)
#: Ink on the surface's own colours, the same on every page.
DARK, LIGHT = "#101010", "#fdfdfd"
HYPERPARAMETERS = ("signal", "length scale of alpha", "length scale of beta", "noise")
#: Steps of the chain over the hyperparameters, how many of them are kept, and the steps' size in log units.
CHAIN, KEPT, WALK = 800, 16, np.array([0.5, 0.25, 0.25, 0.5])


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

    def verdict(self) -> str:
        """The finding in a sentence or two."""
        region = f"its 90 % region covers {100 * self.share:.0f} % of the square"
        point = f"alpha = {self.point[0]:g}, beta = {self.point[1]:g} lies {'inside' if self.inside else 'outside'} it"
        if self.located:
            (a, b), (c, d) = self.alpha_interval, self.beta_interval
            return f"The optimum lies at alpha {a:.2g} to {b:.2g}, beta {c:.2g} to {d:.2g}: {region}, and {point}."
        flat = f"a flat surface is not ruled out (p = {self.p_flat:.2g}); " if self.p_flat > FLAT_LEVEL else ""
        return f"The data do not locate an optimum: {flat}{region}, and {point}."


def remove_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float | None, int]:
    """Trials' means as if every trial had every seed: least squares of value = trial + seed, over the finite entries.

    Without gaps this subtracts each seed's mean over trials; the seeds' average is kept, so the unit's level stays.
    values: [n, seeds], every row with a finite entry. Returns means [n], counts of seeds [n], the residual variance of one
    value (None without degrees of freedom) and its degrees of freedom.

    Raises: ValueError when seeds and trials fall into groups that share nothing, whose levels cannot be told apart.
    """
    rows, seeds = np.nonzero(np.isfinite(values))
    n, width = values.shape
    design = np.zeros((len(rows), n + width))
    design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), n + seeds] = 1
    used = np.unique(seeds)
    design = design[:, np.concatenate([np.arange(n), n + used])]
    observed = values[rows, seeds]
    level = observed.mean()
    effects, _, rank, _ = np.linalg.lstsq(design, observed - level, rcond=None)
    if rank < n + len(used) - 1:
        raise ValueError("some trials share no seed with the others, not even through a third: give each point the same seeds")
    freedom = len(rows) - n - len(used) + 1
    variance = float(np.sum((observed - level - design @ effects) ** 2) / freedom) if freedom > 0 else None
    return level + effects[:n] + effects[n:].mean(), np.bincount(rows, minlength=n), variance, freedom


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
    model, at_bound, converged = _fit(x, (value - center) / scale, counts, lowest, seed)
    generator = np.random.default_rng(seed)
    kept = _chain(model, generator)
    parts = [_posterior(model, theta, where, draws // KEPT, generator) for theta in kept]
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


class _Repeated(WhiteKernel):
    """White noise of the means of unequally many seeds: ``noise_level`` times ``weights`` [n] on the trials' diagonal."""

    def __init__(self, noise_level: float, noise_level_bounds: tuple[float, float], weights: np.ndarray) -> None:
        super().__init__(noise_level, noise_level_bounds)
        self.weights = weights

    def __call__(self, X: np.ndarray, Y: np.ndarray | None = None, eval_gradient: bool = False) -> Any:
        noise = np.diag(self.noise_level * self.weights) if Y is None else np.zeros((len(X), len(Y)))
        return (noise, noise[..., None]) if eval_gradient else noise


def _fit(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray, lowest: float, seed: int
) -> tuple[GaussianProcessRegressor, tuple[str, ...], bool]:
    """The process at its likeliest hyperparameters, those at a bound, and whether the best search converged.

    counts: seeds behind each y, [n]. lowest: bound on the noise's variance of a trial with the most seeds.
    """
    spans = np.ptp(x, axis=0)
    noise = max(NOISE[0], lowest), max(NOISE[1], 4 * lowest)
    kernel = ConstantKernel(1.0, SIGNAL) * Matern(0.4 * spans, np.outer(spans, LENGTHS), nu=2.5)
    kernel += _Repeated(max(0.1, 2 * lowest), noise, counts.max() / counts)
    searches = []

    def search(objective: Callable, start: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, float]:
        found = optimize.minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B")
        searches.append((found.fun, found.success))
        return found.x, found.fun

    model = GaussianProcessRegressor(kernel, optimizer=search, n_restarts_optimizer=3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of values at a bound: those are named in the result
        model.fit(x, y)
    ends = np.abs(model.kernel_.theta[:, None] - model.kernel_.bounds).min(1) < 1e-3
    return model, tuple(np.array(HYPERPARAMETERS)[ends].tolist()), min(searches)[1]


def _chain(model: GaussianProcessRegressor, generator: np.random.Generator) -> np.ndarray:
    """KEPT sets of log hyperparameters, [kept, 4], from their posterior: a Metropolis walk from the likeliest."""
    low, high = model.kernel_.bounds.T
    theta, level, kept = model.kernel_.theta.copy(), model.log_marginal_likelihood_value_, []
    for step in range(CHAIN):
        proposal = theta + WALK * generator.standard_normal(len(theta))
        if ((low <= proposal) & (proposal <= high)).all():
            proposed = model.log_marginal_likelihood(proposal, clone_kernel=False)
            if np.log(generator.random()) < proposed - level:
                theta, level = proposal, proposed
        if (step + 1) % (CHAIN // KEPT) == 0:
            kept.append(theta)
    return np.array(kept)


def _posterior(
    model: GaussianProcessRegressor, theta: np.ndarray, where: np.ndarray, draws: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [m] and variance [m] of f at ``where`` [m, 2], and joint draws [draws, m], in standardised units."""
    kernel = model.kernel_.clone_with_theta(theta)
    latent = kernel.k1
    factor = linalg.cho_factor(kernel(model.X_train_) + model.alpha * np.eye(len(model.X_train_)), lower=True)
    cross = latent(where, model.X_train_)
    mean = cross @ linalg.cho_solve(factor, model.y_train_)
    half = linalg.solve_triangular(factor[0], cross.T, lower=True)
    covariance = latent(where) - half.T @ half
    root = _cholesky(covariance)
    return mean, np.maximum(np.diag(covariance), 0), mean + generator.standard_normal((draws, len(where))) @ root.T


def _cholesky(covariance: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor, with the least of a few jitters (relative to the largest variance) that makes it possible."""
    size = np.diag(covariance).max()
    for jitter in (1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5):
        try:
            return np.linalg.cholesky(covariance + jitter * size * np.eye(len(covariance)))
        except np.linalg.LinAlgError:
            continue
    raise np.linalg.LinAlgError("the posterior's covariance is not positive, even with jitter")


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


def draw_surface(ax: Axes, surface: Surface, *, value_name: str = "value", point_name: str = "paper") -> None:
    """Contours of the posterior mean, the trials, the optimum's 90 % region and the point; 0 left of a break in its axis.

    The lowest nine tenths of the square share the colours evenly; what is higher has the last.
    """
    a, b = surface.alpha_axis, surface.beta_axis
    low, high = surface.mean.min(), np.quantile(surface.mean, 0.9)
    levels = np.linspace(low, max(high, low + 1e-9 * (1 + abs(low))), 13)
    filled = ax.contourf(a.grid, b.grid, surface.mean.T, levels, cmap="viridis", extend="max")
    ax.figure.colorbar(filled, ax=ax, label=f"{value_name}, posterior mean", format="%.3g", ticks=levels[::3])
    for color, width in ((DARK, 3.4), (LIGHT, 1.8)) if not surface.region.all() else ():
        ax.contour(a.grid, b.grid, surface.mean.T, [surface.threshold], colors=color, linewidths=width)
    outline = [withStroke(linewidth=3.4, foreground=DARK)]
    ax.plot([], [], color=LIGHT, linewidth=1.8, label="90 % region", path_effects=outline)
    places = a.place(surface.alpha), b.place(surface.beta)
    ax.plot(*places, "o", color=DARK, mec=LIGHT, mew=0.7, markersize=5, label="trials", clip_on=False, zorder=3)
    if None not in (a.nearest(surface.point[0]), b.nearest(surface.point[1])):
        name = f"{point_name} ({surface.point[0]:g}, {surface.point[1]:g})"
        place = a.place(surface.point[0]), b.place(surface.point[1])
        ax.plot(*place, "*", color=LIGHT, mec=DARK, markersize=14, linestyle="", label=name, clip_on=False, zorder=4)
    ax.grid(False)
    _log_axis(ax.xaxis, ax.get_xaxis_transform(), a, slice(None))
    _log_axis(ax.yaxis, ax.get_yaxis_transform(), b, slice(None, None, -1))
    ax.set(xlabel="alpha", ylabel="beta", xlim=a.grid[[0, -1]], ylim=b.grid[[0, -1]])
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=7.5, frameon=False, handletextpad=0.3)


def _log_axis(side: XAxis | YAxis, transform: Transform, axis: Axis, order: slice) -> None:
    """Ticks at decades, small ones between, "0" at zero's place and two strokes where the axis is broken."""
    decades = np.arange(np.ceil(axis.low - 1e-9), np.floor(axis.high + 1e-9) + 1)
    zero = [axis.grid[0]] * axis.zero
    side.set_ticks([*zero, *decades], [*(["0"] * axis.zero), *(f"{10**decade:g}" for decade in decades)])
    small = (np.arange(np.floor(axis.low), axis.high + 1)[:, None] + np.log10(np.arange(2, 10))).ravel()
    side.set_ticks(small[(small >= axis.low - 1e-9) & (small <= axis.high + 1e-9)], minor=True)
    for start in (0.45, 0.55) if axis.zero else ():
        stroke = [axis.low - STEP * (start + np.array([0.05, -0.05])), np.array([0.018, -0.018])][order]
        side.axes.plot(*stroke, transform=transform, color="black", linewidth=1, clip_on=False, zorder=5)
