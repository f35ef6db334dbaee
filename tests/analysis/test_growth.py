import numpy as np
import pytest
from helpers.synthetic_records import SCALING
from scipy import optimize, stats

from analysis.report import sizes
from analysis.stats.growth import fit_power, fit_power_with_overhead, on_paper, upper


def test_a_known_power_is_found():
    size = np.array([10.0, 30, 100, 1000])
    found = fit_power(size, 3e-4 * size**1.5)
    assert (found.exponent, found.factor) == (pytest.approx(1.5), pytest.approx(3e-4))
    assert found.at(200) == pytest.approx(3e-4 * 200**1.5) and found.n == 4
    assert fit_power(size[:2], size[:2]).interval is None


def test_the_interval_covers_the_truth_and_agrees_with_polyfit():
    generator = np.random.default_rng(0)
    size, covered = np.geomspace(1e4, 1e7, 6), 0
    for _ in range(2000):
        value = 2e-9 * size**1.0 * np.exp(0.1 * generator.standard_normal(6))
        found = fit_power(size, value)
        covered += found.interval[0] <= 1.0 <= found.interval[1]
    assert 0.93 < covered / 2000 < 0.97
    slope, intercept = np.polyfit(np.log(size), np.log(value), 1)
    assert (found.exponent, np.log(found.factor)) == (pytest.approx(slope), pytest.approx(intercept))
    reference = stats.linregress(np.log(size), np.log(value))
    assert found.interval[1] - found.exponent == pytest.approx(stats.t.ppf(0.975, 4) * reference.stderr)


def test_overhead_and_growth_are_told_apart():
    size = np.geomspace(16, 4096, 9)
    found = fit_power_with_overhead(size, 2e-4 + 3e-9 * size**2)
    assert (found.exponent, found.factor) == (pytest.approx(2, rel=1e-4), pytest.approx(3e-9, rel=1e-3))
    assert found.overhead == pytest.approx(2e-4, rel=1e-4)
    assert found.at(100.0) == pytest.approx(2e-4 + 3e-5, rel=1e-4)
    none = fit_power_with_overhead(size, 3e-9 * size**2)
    assert none.exponent == pytest.approx(2, rel=1e-3) and none.overhead < 1e-3 * 3e-9 * 16**2 * 100
    with pytest.raises(ValueError, match="four different"):
        fit_power_with_overhead(size[:3], size[:3])


def test_overhead_against_curve_fit():
    """Where noise puts the fitted overhead above the smallest value, too."""
    generator, size = np.random.default_rng(3), np.geomspace(16, 4096, 7)
    value = (2e-4 + 3e-9 * size**2) * np.exp(0.05 * generator.standard_normal(7))
    found = fit_power_with_overhead(size, value)
    best, covariance = optimize.curve_fit(
        lambda s, o, c, e: np.log(np.exp(o) + np.exp(c) * (s / 4096) ** e), size, np.log(value), p0=(-8.5, -3, 2)
    )
    assert found.exponent == pytest.approx(best[2], rel=1e-4) and found.overhead == pytest.approx(np.exp(best[0]), rel=1e-4)
    assert found.overhead > value.min()
    half = stats.t.ppf(0.975, 4) * covariance[2, 2] ** 0.5
    assert found.interval == pytest.approx((best[2] - half, best[2] + half), rel=1e-3)


def test_the_interval_with_overhead_covers_the_truth():
    """In 95 % of draws: of 150, fewer than 135 would come with less than 1 %, 150 likewise with less than 1 %."""
    generator, size, covered = np.random.default_rng(1), np.geomspace(16, 4096, 12), 0
    for _ in range(150):
        found = fit_power_with_overhead(size, (2e-4 + 3e-9 * size**2) * np.exp(0.05 * generator.standard_normal(12)))
        covered += found.interval is not None and found.interval[0] <= 2 <= found.interval[1]
    assert stats.binom.cdf(134, 150, 0.95) < 0.01 and 135 <= covered < 150


def test_a_constant_cost_counts_less_in_the_upper_half():
    size = np.array([32.0, 64, 128, 256, 512, 1024])
    value = 1e-3 + 1e-8 * size**2
    whole, larger = fit_power(size, value).exponent, fit_power(*upper(size, value)).exponent
    assert whole < larger < 2
    assert upper(size[::-1], value[::-1])[0].tolist() == [256, 512, 1024]
    assert upper(size[:3], value[:3])[0].tolist() == [32, 64, 128]


@pytest.mark.parametrize("value", [[1.0, 0.0], [1.0, -1.0]])
def test_what_no_power_law_has_is_refused(value):
    with pytest.raises(ValueError, match="positive"):
        fit_power(np.array([1.0, 2.0]), np.array(value))
    with pytest.raises(ValueError, match="two different"):
        fit_power(np.array([2.0, 2.0]), np.array([1.0, 2.0]))


def test_costs_on_paper_by_hand():
    """ViT-Huge: 632 million weights, 257 tokens, width 1,280, 32 layers; fused to 64."""
    costs = dict(on_paper(2).iterrows())
    assert costs["networks"].operations == 12 * 632e6 * (2 * 257)
    assert costs["feature KL"].operations == 2 * 3 * 2 * 4 * 64 + 2 * 20 * 4 + 12 * 2 * 1280 * 64
    # 6 bytes of weights and gradients; per token, layer and unit of width 34 bytes written and read; 64 bytes of vectors
    assert costs["networks"].bytes == 2 * 6 * 632e6 + 2 * 68 * 32 * (2 * 257) * 1280
    assert (costs["posterior distance"].operations, costs["posterior distance"].bytes) == (16 * 632e6, 64 * 632e6)
    assert (costs["weight draws"].bytes, costs["KL to the prior"].bytes) == (96 * 632e6, 64 * 632e6)
    large = on_paper(1024)
    operations, moved = large.operations / large.operations.sum(), large.bytes / large.bytes.sum()
    assert operations["networks"] > 0.999 and operations["posterior distance"] < 1e-4
    # 16 operations per weight against 12 per weight and token, 64 bytes per weight against 1.47e12 bytes of activations
    assert operations["posterior distance"] == pytest.approx(16 / (12 * 257 * 1024), rel=1e-3)
    assert moved["networks"] > 0.9 and moved["posterior distance"] == pytest.approx(0.025, abs=0.002)


def test_sizes_are_fitted_along_one_axis_only():
    assert [line["width"] for line in sizes.along(SCALING, "weights")] == [0.5, 1, 2, 4]
    assert [line["batch_size"] for line in sizes.along(SCALING, "batch_size")] == [64, 128, 256, 512, 1024]
    found = {(fitted.term, fitted.size): fitted.growth.exponent for fitted in sizes.fits(SCALING)}
    assert found["param_distance", "weights"] == pytest.approx(1, abs=1e-3)
    assert found["feature_kl", "batch_size"] == pytest.approx(2, abs=1e-3)
    assert found["stage_1", "batch_size"] == pytest.approx(1, abs=1e-3)
    said = sizes.words(sizes.fits(SCALING))
    assert "posterior distance grows as P^1.00" in said
    assert "feature KL grows as B^2.00" in said
    rows = list(sizes.rows(SCALING))
    assert len(rows) == 12
    assert rows[0][6] == "+10 %"
