"""Several data sets summed up: against plain loops and SciPy, and through the command's own function."""

import itertools

import numpy as np
import pytest
from helpers.synthetic_records import SETTINGS, make
from scipy import stats

from analysis.join import join
from analysis.stats.aggregate import aggregate, improvement, interquartile_mean, probability_of_improvement

BASELINE = [0.50, 0.60, 0.55, 0.52, 0.58, 0.61, 0.49, 0.57]


@pytest.mark.parametrize("count", [3, 4, 8, 11])
def test_the_middle_half(count):
    values = np.random.default_rng(count).normal(size=count)
    cut = count // 4
    assert interquartile_mean(values) == pytest.approx(np.mean(sorted(values)[cut : count - cut]))


def test_improvement_is_the_mean_of_mann_whitneys():
    draws = np.random.default_rng(0)
    better, worse = ([draws.integers(0, 9, size).astype(float) for size in (5, 8)] for _ in range(2))
    shares = [stats.mannwhitneyu(a, b).statistic / len(a) / len(b) for a, b in zip(better, worse, strict=True)]
    assert probability_of_improvement(better, worse) == pytest.approx(np.mean(shares))


def test_the_interval_is_that_of_all_ways_to_draw_seeds():
    """Two data sets of three seeds: all 27 x 27 draws, each as likely as another."""
    differences = [np.array([0.1, 0.5, 0.9]), np.array([-0.3, 0.2, 1.4])]
    ways = list(itertools.product(range(3), repeat=3))
    every = [np.concatenate([differences[0][list(a)], differences[1][list(b)]]) for a in ways for b in ways]
    middle = [np.mean(sorted(values)[1:5]) for values in every]
    found, (low, high) = aggregate(differences)
    assert found == pytest.approx(np.mean([0.1, 0.2, 0.5, 0.9]))
    assert [low, high] == pytest.approx(np.quantile(middle, (0.025, 0.975)), abs=0.03)


def test_intervals_hold_the_truth(monkeypatch):
    """Of 300 draws of three data sets with 8 seeds; the middle half's mean of a symmetric mixture is its median, 0.3."""
    monkeypatch.setattr("analysis.stats.aggregate.DRAWS", 400)
    draws = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        values = [0.3 + spread * draws.normal(size=8) for spread in (0.1, 0.2, 0.3)]
        low, high = aggregate(values)[1]
        held += low <= 0.3 <= high
    assert 0.87 < held / 300 < 0.99


def test_a_gain_and_none(tmp_path):
    """In units of 0.005: b gains 4 on both data sets, c is in one alone."""
    first = {"a": BASELINE, "b": [value - 0.02 for value in BASELINE], "c": BASELINE}
    second = {"a": BASELINE, "b": [value - 0.02 for value in BASELINE]}
    make(tmp_path / "a", first, images=30)
    make(tmp_path / "b", second, images=30, settings=SETTINGS | {"arch": "resnet20", "data": "cifar10"})
    join([tmp_path / "a", tmp_path / "b"], tmp_path / "out", ["md"])
    (row,) = [line for line in (tmp_path / "out" / "answer.md").read_text().splitlines() if line.startswith("| b ")]
    assert "| 2 " in row and "| 16 " in row and "+4.00 [+4.00, +4.00]" in row
    chance = stats.mannwhitneyu([-value for value in second["b"]], [-value for value in BASELINE]).statistic / 64
    assert f"{100 * chance:.0f} % [" in row


def test_the_interval_of_improvement_holds_its_estimate():
    draws = np.random.default_rng(2)
    runs = [draws.normal(size=8) for _ in range(4)]
    found, (low, high) = improvement([runs[0] + 0.5, runs[1]], runs[2:])
    assert 0 <= low < found < high <= 1
