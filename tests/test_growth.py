import numpy as np
import pytest
from scipy import stats

from analysis import sizes
from analysis.growth import fit_power, on_paper, shares, upper


def test_a_known_power_is_found():
    size = np.array([10.0, 30, 100, 1000])
    found = fit_power(size, 3e-4 * size**1.5)
    assert (found.exponent, found.factor, found.r_squared) == (pytest.approx(1.5), pytest.approx(3e-4), pytest.approx(1))
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
    costs = {one.term: one for one in on_paper(2, weights=1000, tokens=5, width=8, fused=4)}
    assert costs["networks"].operations == 12 * 1000 * 10
    assert costs["feature KL"].operations == 2 * 3 * 2 * 4 * 4 + 2 * 20 * 4 + 12 * 2 * 8 * 4
    assert costs["posterior distance"].bytes == 8 * 4 * 1000
    part = shares(list(costs.values()))
    assert sum(first for first, _ in part.values()) == pytest.approx(1) == sum(second for _, second in part.values())
    large = shares(on_paper(1024))
    assert large["networks"][0] > 0.999 and large["posterior distance"][0] < 1e-4


def line(arch="resnet8", width=1.0, batch=64, factor=1.0):
    weights = int(1000 * width**2)
    seconds = {
        "stage_1": 1e-6 * weights * batch, "stage_2": 1.1e-6 * weights * batch, "param_distance": 1e-8 * weights,
        "kl_to_prior": 2e-8 * weights, "feature_kl": 1e-9 * batch**2, "logit_mutual": 1e-7 * batch,
    }  # fmt: skip
    return {"arch": arch, "width": width, "batch_size": batch, "weights": weights,
            "seconds": {name: factor * value for name, value in seconds.items()},
            "bytes": {"state": 1e6, "stage_1": 2e6, "stage_2": 3e6}}  # fmt: skip


LINES = [line(width=width) for width in (0.5, 1, 2, 4)] + [line(batch=batch) for batch in (128, 256, 512)] + [
    line(arch="vit", width=width, factor=50) for width in (0.5, 1, 2, 4)
]  # fmt: skip


def test_sizes_are_fitted_along_one_axis_only():
    assert [one["width"] for one in sizes.along(LINES, "weights")] == [0.5, 1, 2, 4]
    assert [one["batch_size"] for one in sizes.along(LINES, "batch_size")] == [64, 128, 256, 512]
    found = {(one.term, one.size): one.growth.exponent for one in sizes.fits(LINES)}
    assert found["param_distance", "weights"] == pytest.approx(1, abs=1e-3)
    assert found["feature_kl", "batch_size"] == pytest.approx(2)
    assert found["stage_1", "batch_size"] == pytest.approx(1)
    said = sizes.words(sizes.fits(LINES))
    assert "posterior distance grows as P^1.00" in said and "feature KL grows as B^2.00" in said
    assert len(list(sizes.rows(LINES))) == 11 and next(iter(sizes.rows(LINES)))[6] == "+10 %"
