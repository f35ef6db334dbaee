from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from analysis.report.searches import draw_surface
from analysis.stats import surface as module
from analysis.stats.gaussian_process import remove_seeds
from analysis.stats.surface import LEAST_TRIALS, Axis, fit_surface, flat_p

RANGES = {"alpha_range": (0.01, 10.0), "beta_range": (0.02, 20.0)}
LOW = np.log10([0.01, 0.02])
HIGH = np.log10([10.0, 20.0])
ZERO = LOW - 0.5


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of two processes that wait for each other make small matrices ten times slower."""
    with threadpool_limits(1):
        yield


def bowl(a, b):
    """Interior optimum near alpha = 1.3, beta = 2, its axes tilted; a and b in decades."""
    return (a - 0.1) ** 2 + 0.6 * (b - 0.3) ** 2 + 0.7 * (a - 0.1) * (b - 0.3)


def slope(a, b):
    """Optimum at alpha = 0, beta = 2."""
    return 0.5 * (a - ZERO[0]) + 0.5 * (b - 0.3) ** 2


def flat(a, b):
    return 0 * a * b


def trials(function, n, noise, seed):
    """Settings [n], [n], one in ten of them 0, and noisy values."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(LOW, HIGH, (n, 2))
    zero = generator.random((n, 2)) < 0.1
    zero[0] = True
    settings = np.where(zero, 0, 10**x)
    return *settings.T, function(*np.where(zero, ZERO, x).T) + noise * generator.standard_normal(n)


def gaussian_process(surface, where):
    """Posterior mean [m] and covariance [m, m] of the latent function at ``where`` [m, 2], by the textbook's formula."""
    x = np.stack([surface.alpha_axis.place(surface.alpha), surface.beta_axis.place(surface.beta)], 1)
    y = surface.value - surface.value.mean()
    means, covariances = [], []
    for signal, first, second, noise in surface.hyperparameters:

        def kernel(a, b, scales=(first, second), signal=signal):
            r = np.sqrt(5) * cdist(a / np.array(scales), b / np.array(scales))
            return signal**2 * (1 + r + r**2 / 3) * np.exp(-r)

        root = np.linalg.cholesky(kernel(x, x) + noise**2 * np.eye(len(x)))
        half = np.linalg.solve(root, kernel(x, where))
        means.append(surface.value.mean() + half.T @ np.linalg.solve(root, y))
        covariances.append(kernel(where, where) - half.T @ half)
    means = np.array(means)
    return means.mean(0), np.mean(covariances, 0) + np.cov(means.T, bias=True)


#: Surfaces in a simulation, and in how many something with a chance of 90 % must happen: fewer come with less than 1 %.
FEW, ALL = (9, 6), (30, 23)


@pytest.mark.parametrize(
    ("count", "least", "function", "noise"),
    [
        (*FEW, bowl, 0.8),
        pytest.param(*ALL, bowl, 0.8, marks=pytest.mark.slow),
        pytest.param(*ALL, slope, 0.4, marks=pytest.mark.slow),
    ],
)
def test_the_region_holds_the_true_optimum(function, noise, count, least):
    """In at least ``least`` draws, were the chance 90 %. The intervals likewise."""
    assert stats.binom.cdf(least - 1, count, 0.9) < 0.01
    held, alpha, beta = [], [], []
    for seed in range(count):
        surface = fit_surface(*trials(function, (15, 25, 40)[seed % 3], noise, seed), **RANGES, points=16, draws=1000)
        truth = function(surface.alpha_axis.grid[:, None], surface.beta_axis.grid)
        i, j = np.unravel_index(truth.argmin(), truth.shape)
        held.append(surface.region[i, j])
        alpha.append(surface.alpha_interval[0] <= surface.alpha_axis.values[i] <= surface.alpha_interval[1])
        beta.append(surface.beta_interval[0] <= surface.beta_axis.values[j] <= surface.beta_interval[1])
    assert sum(held) >= least, held
    assert sum(alpha) >= least, alpha
    assert sum(beta) >= least, beta


def test_a_clear_bowl_is_located():
    surface = fit_surface(*trials(bowl, 40, 0.1, 0), **RANGES)
    assert surface.located
    assert surface.inside
    assert surface.share < 0.1
    assert surface.alpha_interval[0] <= 10**0.1 <= surface.alpha_interval[1]
    assert abs(np.log10(surface.best[0]) - 0.1) < 0.4
    assert abs(np.log10(surface.best[1]) - 0.3) < 0.4
    assert 0.05 < np.median(surface.hyperparameters[:, 3]) < 0.2


def test_the_papers_point_moves_nothing_but_what_is_said_of_it(monkeypatch):
    found = []
    for point in ((1.0, 2.0), (0.02, 0.05), (1000.0, 2.0)):
        monkeypatch.setattr(module, "PAPER", point)
        found.append(fit_surface(*trials(bowl, 15, 0.1, 0), **RANGES, points=12))
    near, far, outside = found
    assert (near.inside, far.inside, outside.inside) == (True, False, False)
    assert far.gain.low > 1
    assert far.region.tolist() == near.region.tolist()


def test_a_slope_is_located_at_zero(monkeypatch):
    surface = fit_surface(*trials(slope, 40, 0.1, 1), **RANGES, points=16)
    assert surface.located
    assert surface.best[0] == surface.alpha_interval[0] == 0
    assert not surface.inside
    assert surface.gain.low > 0.5
    assert surface.alpha_interval[1] < 0.05
    monkeypatch.setattr(module, "PAPER", (0.0, 2.0))
    assert fit_surface(*trials(slope, 40, 0.1, 1), **RANGES, points=16).inside


@pytest.mark.parametrize(("count", "least"), [FEW, pytest.param(*ALL, marks=pytest.mark.slow)])
def test_a_flat_surface_is_not_located(count, least):
    """With 5 % each, more than are allowed would come with less than 2 %. Half of the regions cover most of the square."""
    found = [
        fit_surface(*trials(flat, (15, 25, 40)[seed % 3], 1.0, seed), **RANGES, points=16, draws=1000) for seed in range(count)
    ]
    located = [seed for seed, surface in enumerate(found) if surface.located]
    assert len(located) <= stats.binom.ppf(0.98, count, 0.05), located
    assert np.median([surface.share for surface in found]) > 0.6
    # 90 % each for the difference between two points of a flat surface, which is 0
    assert sum(surface.gain.low <= 0 <= surface.gain.high for surface in found) >= least


def test_an_optimum_is_located_where_the_surface_is_not_flat_and_the_region_small():
    surface = fit_surface(*trials(bowl, 10, 0.1, 2), **RANGES, points=6)
    cases = {(0.01, 0.2): True, (0.06, 0.2): False, (0.01, 0.6): False, (0.06, 0.6): False}
    for (p, share), located in cases.items():
        assert replace(surface, p_flat=p, share=share).located == located


def test_p_of_flat_surfaces_is_uniform_and_small_otherwise():
    generator = np.random.default_rng(0)
    x = generator.uniform(LOW, HIGH, (20, 2))
    p = np.array([flat_p(x, generator.standard_normal(20)) for _ in range(400)])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert flat_p(x, slope(*x.T) + 0.3 * generator.standard_normal(20)) < 0.01
    assert flat_p(x, np.ones(20)) == 1


def test_equal_values_are_a_flat_surface():
    alpha, beta, value = trials(flat, 10, 0.0, 0)
    surface = fit_surface(alpha, beta, value + 0.7, **RANGES, points=16)
    assert not surface.located and np.allclose(surface.mean, 0.7)


def test_mean_and_spread_against_the_textbook(monkeypatch):
    monkeypatch.setattr(module, "PAPER", (0.3, 0.7))
    surface = fit_surface(*trials(bowl, 25, 0.5, 3), **RANGES, points=17, draws=8000)
    grid = np.stack(np.meshgrid(surface.alpha_axis.grid, surface.beta_axis.grid, indexing="ij"), -1).reshape(-1, 2)
    mean, covariance = gaussian_process(surface, np.vstack([grid, np.log10([[0.3, 0.7]])]))
    assert surface.mean.ravel() == pytest.approx(mean[:-1], abs=1e-6)
    best = mean[:-1].argmin()
    assert surface.best == pytest.approx(tuple(10 ** grid[best]))
    spread = np.sqrt(covariance[-1, -1] + covariance[best, best] - 2 * covariance[-1, best])
    assert surface.gain.mean == pytest.approx(mean[-1] - mean[best], abs=5 * spread / 8000**0.5)
    assert (surface.gain.high - surface.gain.low) / (2 * stats.norm.ppf(0.95)) == pytest.approx(spread, rel=0.08)


def test_the_optimum_against_draws_of_another_make():
    """Shares of the optimum per row of the grid, against draws by the eigenvectors of the textbook's covariance."""
    surface = fit_surface(*trials(bowl, 25, 0.5, 4), **RANGES, points=12, draws=8000)
    grid = np.stack(np.meshgrid(surface.alpha_axis.grid, surface.beta_axis.grid, indexing="ij"), -1).reshape(-1, 2)
    generator, counts = np.random.default_rng(5), np.zeros(144)
    for row in range(len(surface.hyperparameters)):
        single = replace(surface, hyperparameters=surface.hyperparameters[row : row + 1])
        mean, covariance = gaussian_process(single, grid)
        values, vectors = np.linalg.eigh(covariance)
        draws = mean + generator.standard_normal((500, 144)) @ (vectors * np.sqrt(np.maximum(values, 0))).T
        counts += np.bincount(draws.argmin(1), minlength=144)
    expected = counts.reshape(12, 12) / counts.sum()
    assert surface.optimum.sum() == pytest.approx(1)
    assert surface.optimum.sum(1) == pytest.approx(expected.sum(1), abs=0.04)
    assert surface.optimum.sum(0) == pytest.approx(expected.sum(0), abs=0.04)


def test_the_region_is_the_smallest_level_set_with_nine_tenths():
    surface = fit_surface(*trials(slope, 20, 0.5, 6), **RANGES, points=24)
    assert (surface.region == (surface.mean <= surface.threshold)).all() and surface.share == surface.region.mean()
    assert surface.optimum[surface.region].sum() >= 0.9 > surface.optimum[surface.mean < surface.threshold].sum()
    marginal = np.cumsum(surface.optimum.sum(1))
    assert surface.alpha_interval[0] == surface.alpha_axis.values[np.searchsorted(marginal, 0.05)]
    assert abs(np.searchsorted(surface.alpha_axis.values, surface.alpha_interval[1]) - np.searchsorted(marginal, 0.95)) <= 1


@pytest.mark.parametrize("gaps", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_level_of_a_seed_changes_nothing(gaps):
    alpha, beta, value = trials(bowl, 20, 0.3, 7)
    generator = np.random.default_rng(8)
    values = value[:, None] + 0.2 * generator.standard_normal((20, 3))
    if gaps:
        values[generator.random((20, 3)) < 0.2] = np.nan
    before = fit_surface(alpha, beta, values, **RANGES, points=16)
    after = fit_surface(alpha, beta, values + np.array([5.0, -2.0, -3.0]), **RANGES, points=16)
    assert after.value == pytest.approx(before.value) and after.mean == pytest.approx(before.mean, abs=1e-3)
    assert after.region.tolist() == before.region.tolist() and after.p_flat == before.p_flat


def test_seeds_are_taken_out_as_by_hand():
    generator = np.random.default_rng(9)
    values = generator.standard_normal((7, 4)) + np.array([0, 10, -3, 2])
    means, counts, variance, freedom = remove_seeds(values)
    assert means == pytest.approx(values.mean(1)) and counts.tolist() == [4] * 7 and freedom == 18
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    assert variance == pytest.approx((rest**2).sum() / 18)


def test_gaps_do_not_favour_a_trial():
    """A trial that missed the hard seed is not better for it."""
    truth, level = np.arange(6.0), np.array([0.0, 1.0, 8.0])
    values = truth[:, None] + level
    values[5, 2] = values[0, 0] = np.nan
    means, counts, variance, freedom = remove_seeds(values)
    assert means == pytest.approx(truth + 3) and counts.tolist() == [2, 3, 3, 3, 3, 2]
    assert variance == pytest.approx(0, abs=1e-20) and freedom == 8
    assert remove_seeds(truth[:, None])[2:] == (None, 0)
    apart = np.full((6, 2), np.nan)
    apart[:3, 0] = apart[3:, 1] = 1
    with pytest.raises(ValueError, match="share no seed"):
        remove_seeds(apart)


def test_repeats_bound_the_noise():
    """Means on a smooth surface by chance, while the repeats say how noisy each is."""
    alpha, beta, value = trials(bowl, 15, 0.0, 10)
    rest = np.random.default_rng(11).standard_normal((15, 4))
    rest -= rest.mean(1, keepdims=True) + rest.mean(0) - rest.mean()
    means, _, variance, freedom = remove_seeds(value[:, None] + rest)
    assert means == pytest.approx(value) and variance == pytest.approx((rest**2).sum() / 42)
    lowest = np.sqrt(variance / 4 * freedom / stats.chi2.ppf(0.995, freedom))
    surface = fit_surface(alpha, beta, value[:, None] + rest, **RANGES, points=16)
    assert surface.hyperparameters[:, 3].min() >= 0.999 * lowest
    unbound = fit_surface(alpha, beta, value, **RANGES, points=16)
    assert np.median(unbound.hyperparameters[:, 3]) < 0.2 * lowest


def test_few_repetitions_count_less():
    alpha, beta, value = trials(slope, 24, 0.1, 12)
    value[3] -= 3
    repeated = np.tile(value[:, None], 60)
    once = np.where((np.arange(24) == 3)[:, None] & (np.arange(60) > 0), np.nan, repeated)
    same, equal, few = (fit_surface(alpha, beta, values, **RANGES, points=16) for values in (value, repeated, once))
    i, j = few.alpha_axis.nearest(alpha[3]), few.beta_axis.nearest(beta[3])
    assert equal.mean == pytest.approx(same.mean) and few.mean[i, j] > same.mean[i, j] + 2


def test_a_setting_without_effect_has_a_long_scale_and_warns_nobody():
    surface = fit_surface(*trials(lambda a, b: b**2, 30, 0.05, 13), **RANGES, points=16)
    alpha_scale, beta_scale = np.median(surface.hyperparameters[:, 1:3], axis=0)
    assert alpha_scale > 3 * beta_scale


def test_trials_without_a_value_are_left_out():
    alpha, beta, value = trials(bowl, 20, 0.3, 14)
    values = np.stack([value, value + 1], 1)
    values[4] = np.nan
    values[5, 0] = np.inf
    surface = fit_surface(alpha, beta, values, **RANGES, points=16)
    assert len(surface.alpha) == len(surface.value) == 19 and np.isfinite(surface.mean).all()


def test_what_makes_no_surface_is_refused():
    alpha, beta, value = trials(bowl, LEAST_TRIALS, 0.3, 15)
    fit_surface(alpha, beta, value, **RANGES, points=5)
    with pytest.raises(ValueError, match="5 trials with a finite value"):
        fit_surface(alpha, beta, np.where(np.arange(LEAST_TRIALS) == 2, np.nan, value), **RANGES)
    for wrong in (np.ones(LEAST_TRIALS), -beta, np.full(LEAST_TRIALS, np.nan)):
        with pytest.raises(ValueError, match="beta must be"):
            fit_surface(alpha, wrong, value, **RANGES)


def test_zero_has_a_place_left_of_the_smallest_setting():
    axis = Axis(-2.0, 1.0, True, 36)
    assert axis.place(np.array([0, 0.01, 1])) == pytest.approx([-2.5, -2, 0])
    assert axis.values[0] == 0 and axis.values[1:] == pytest.approx(10 ** axis.grid[1:]) and axis.grid[0] == -2.5
    assert (axis.nearest(0), axis.nearest(0.01), axis.nearest(10), axis.nearest(100)) == (0, 5, 35, None)
    positive = Axis(-2.0, 1.0, False, 31)
    assert positive.values[[0, -1]] == pytest.approx([0.01, 10]) and positive.nearest(0) is None


def test_the_same_trials_give_the_same_surface():
    first, again = (fit_surface(*trials(bowl, 12, 0.5, 16), **RANGES, points=12) for _ in range(2))
    assert (first.optimum == again.optimum).all() and (first.hyperparameters == again.hyperparameters).all()


@pytest.mark.parametrize("function", [bowl, flat])
def test_the_drawing_shows_region_point_and_zero(function):
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    surface = fit_surface(*trials(function, 20, 0.3, 17), **RANGES, points=12)
    draw_surface(axes, surface, value_name="NLL")
    figure.draw_without_rendering()
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["0", "0.01", "0.1"]
    assert axes.get_xticks()[0] == pytest.approx(ZERO[0]) and axes.get_yticks()[0] == pytest.approx(ZERO[1])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["90 % region", "trials", "paper (1, 2)"]
    assert figure.axes[1].get_ylabel() == "NLL, posterior mean"
    star = next(line for line in axes.lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((0, np.log10(2)))
