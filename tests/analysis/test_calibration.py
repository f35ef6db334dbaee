"""Calibration errors, what calibrated models score, and intervals, against loops, exact distributions and simulation."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torchmetrics.functional.classification import binary_calibration_error

from analysis.records.columns import _debiased
from analysis.stats import bootstrap, calibration


def draw(seed=0, n=500, power=1.5):
    """Confidences and whether each is correct, with probability confidence**power."""
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.3, 1, n)
    return confidence, generator.random(n) < confidence**power


def members(confidence, correct):
    """The predictions of each filled bin (k/15, (k+1)/15], by a plain loop."""
    for k in range(15):
        bin_ = [(c, float(y)) for c, y in zip(confidence, correct, strict=True) if k / 15 < c <= (k + 1) / 15]
        if bin_:
            yield bin_


def test_ece_against_torchmetrics_and_a_loop():
    confidence, correct = draw()
    got = calibration.reliability(confidence, correct)
    expected = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct).long(), n_bins=15)
    assert got.ece == pytest.approx(expected.item(), abs=1e-6)
    bins = list(members(confidence, correct))
    assert got.ece == pytest.approx(sum(abs(sum(y - c for c, y in bin_)) for bin_ in bins) / 500)
    filled = got.count > 0
    assert got.count[filled].tolist() == [len(bin_) for bin_ in bins] and np.isnan(got.accuracy[~filled]).all()
    assert got.accuracy[filled] == pytest.approx([np.mean([y for _, y in bin_]) for bin_ in bins])


def test_the_null_is_what_calibrated_models_score():
    """Against models drawn one by one and scored by the ordinary ECE."""
    confidence, draws = draw()[0], np.random.default_rng(3)
    scored = [calibration.reliability(confidence, draws.random(500) < confidence).ece for _ in range(2000)]
    null = calibration.null_distributions([confidence])[0]
    assert null.mean == pytest.approx(np.mean(scored), abs=4 * np.std(scored) * (2 / 2000) ** 0.5)
    assert (null.low, null.high) == pytest.approx(np.quantile(scored, [0.025, 0.975]), rel=0.04)
    assert calibration.null_ece(confidence) == pytest.approx(null.mean, rel=0.05) and null.mean > 0.5 / 500**0.5
    assert calibration.null_distributions([confidence])[0] == null


def test_the_null_and_the_band_of_one_bin_are_binomial():
    confidence = np.full(40, 0.8)
    count, chance = np.arange(41), stats.binom(40, 0.8).pmf(np.arange(41))
    assert calibration.null_distributions([confidence], 20_000)[0].mean == pytest.approx(
        chance @ abs(count - 32) / 40, rel=0.02
    )
    band = calibration.consistency_band(confidence, draws=20_000)
    assert band.shape == (2, 15) and np.isnan(np.delete(band, 11, axis=1)).all()
    assert band[:, 11] == pytest.approx(stats.binom(40, 0.8).ppf([0.025, 0.975]) / 40)


def test_chunks_do_not_change_the_null(monkeypatch):
    confidence = draw()[0]
    whole = calibration.null_distributions([confidence], 300)[0]
    monkeypatch.setattr(calibration, "CHUNK_CELLS", 500 * 7)
    assert calibration.null_distributions([confidence], 300)[0] == whole


def test_the_band_holds_95_percent_of_calibrated_bins_and_not_of_others():
    """1,100 bins of calibrated models have a standard error of 0.7 %; of the others a tenth as many are far below."""
    shares = {}
    for power, models in ((1.0, 100), (1.5, 10)):
        inside = []
        for seed in range(models):
            confidence, correct = draw(seed, 3000, power)
            low, high = calibration.consistency_band(confidence, draws=400)
            accuracy = calibration.reliability(confidence, correct).accuracy
            filled = ~np.isnan(accuracy)
            inside += list((low[filled] <= accuracy[filled]) & (accuracy[filled] <= high[filled]))
        shares[power] = np.mean(inside)
    assert 0.94 < shares[1.0] < 0.97
    assert shares[1.5] < 0.5


def test_debiased_error_against_a_loop():
    confidence, correct = draw(n=60)
    confidence = np.append(confidence, 0.01)  # alone in its bin: counts as 0
    correct = np.append(correct, True)
    expected = 0.0
    for bin_ in members(confidence, correct):
        n, accuracy = len(bin_), np.mean([y for _, y in bin_])
        if n > 1:
            expected += n / 61 * ((accuracy - np.mean([c for c, _ in bin_])) ** 2 - accuracy * (1 - accuracy) / (n - 1))
    assert calibration.debiased_calibration_error(confidence, correct) == pytest.approx(expected)
    below = np.full(10, 0.5), np.arange(10) < 5
    assert calibration.debiased_calibration_error(*below) == pytest.approx(-0.25 / 9)
    assert _debiased(*below) == pytest.approx(-((0.25 / 9) ** 0.5))


@pytest.mark.parametrize("power", [1.0, 1.5, 0.6])
def test_debiased_error_averages_the_true_one(power):
    """True: the mean gap of each bin by numerical integration over uniform confidences in (0.3, 1)."""
    edges = [max(k / 15, 0.3) for k in range(4, 16)]
    truth = 0.0
    for low, high in pairwise(edges):
        gap = integrate.quad(lambda c: c**power - c, low, high)[0] / (high - low)
        truth += (high - low) / 0.7 * gap**2
    samples = [draw(seed, 1000, power) for seed in range(600)]
    squares = [calibration.debiased_calibration_error(*sample) for sample in samples]
    error = np.std(squares) / 600**0.5
    assert np.mean(squares) == pytest.approx(truth, abs=3.5 * error)
    assert power == 1 or truth > 30 * error
    plain = [calibration.reliability(*sample) for sample in samples]
    biased = [np.nansum(bins.count / 1000 * (bins.accuracy - bins.confidence) ** 2) for bins in plain]
    assert np.mean(biased) > truth + 10 * error


def model(generator, seeds, images, sharpness, spread):
    """Confidence and correct [seeds, images]: images easy or hard for all seeds; correct with sigmoid(sharpness * logit)."""
    logit = abs(1.5 + 1.2 * generator.standard_normal(images) + 0.6 * generator.standard_normal((seeds, images)))
    chance = 1 / (1 + np.exp(-logit * sharpness * np.exp(spread * generator.standard_normal((seeds, 1)))))
    luck = 0.7**0.5 * generator.standard_normal(images) + 0.3**0.5 * generator.standard_normal((seeds, images))
    return 1 / (1 + np.exp(-logit)), luck < stats.norm.ppf(chance)


def mean_ece(confidence, correct):
    return np.mean([calibration.reliability(c, y).ece for c, y in zip(confidence, correct, strict=True)])


def test_ece_per_seed_under_weights_is_the_ece_of_repeated_images():
    generator = np.random.default_rng(0)
    confidence, correct = model(generator, 3, 80, 0.7, 0.1)
    counts = np.stack([np.bincount(generator.integers(80, size=80), minlength=80) for _ in range(2)])
    got = calibration.image_eces(confidence, correct)(counts.astype(float))
    expected = [
        [calibration.reliability(np.repeat(c, row), np.repeat(y, row)).ece for c, y in zip(confidence, correct, strict=True)]
        for row in counts
    ]
    assert got == pytest.approx(np.array(expected))


def difference(arm, other, draws=bootstrap.DRAWS):
    """ECE of an arm less another's, with its interval as `effects` makes it."""
    first, second = calibration.image_eces(*arm), calibration.image_eces(*other)
    return bootstrap.two_way_statistic(lambda weights: first(weights) - second(weights), *np.shape(arm[0]), draws=draws)


def ece_interval(arm, draws=bootstrap.DRAWS):
    """Mean ECE over seeds with its interval, as `expected` makes it."""
    found = bootstrap.two_way_statistic(calibration.image_eces(*arm), *np.shape(arm[0]), draws=draws)
    return found and calibration.log_scale(found)


def test_ece_intervals_by_their_parts():
    generator = np.random.default_rng(1)
    arm, other = model(generator, 4, 300, 0.3, 0.1), model(generator, 4, 300, 0.9, 0.1)
    found = ece_interval(arm)
    assert found.estimate == pytest.approx(mean_ece(*arm)) and found.low < found.estimate < found.high
    half = stats.t.ppf(0.975, found.df) * found.standard_error / found.estimate
    assert (found.low, found.high) == pytest.approx(found.estimate * np.exp([-half, half]))
    assert ece_interval(arm) == found != ece_interval(arm, draws=999)
    gain = difference(arm, other)
    assert gain.estimate == pytest.approx(mean_ece(*arm) - mean_ece(*other)) and gain.low > 0
    nothing = difference(arm, arm)
    assert nothing.low == nothing.high == 0
    single = tuple(values[:1] for values in arm)
    assert ece_interval(single) is None and difference(single, single) is None
    sure = np.full((2, 50), 1.0)
    assert ece_interval((sure, sure)).high == 0 and ece_interval((sure, sure * [[1], [0]])).high == 1


#: Sharpness, spread and number of seeds; two of the nine in the default run.
ALWAYS = ((0.8, 0.05, 3), (0.5, 0.1, 5))
CASES = [
    pytest.param(*kind, seeds, marks=() if (*kind, seeds) in ALWAYS else pytest.mark.slow)
    for kind in ((1.0, 0.05), (0.8, 0.05), (0.5, 0.1))
    for seeds in (3, 5, 8)
]


@pytest.mark.parametrize(("sharpness", "spread", "seeds"), CASES)
def test_ece_interval_covers_the_expected_ece(sharpness, spread, seeds):
    """A calibrated model and two overconfident ones, 300 images; 800 draws have a standard error of 0.8 %.

    Never narrower than the images' alone, intervals hold more than 95 %, up to all of them for the calibrated model.
    """
    generator = np.random.default_rng(2)
    truth = np.mean([mean_ece(*model(generator, 3, 300, sharpness, spread)) for _ in range(1200)])
    found = [ece_interval(model(generator, seeds, 300, sharpness, spread), draws=60) for _ in range(800)]
    held = np.mean([interval.low <= truth <= interval.high for interval in found])
    assert 0.93 < held <= (0.995 if sharpness < 1 else 1)


@pytest.mark.parametrize("seeds", [3, *(pytest.param(seeds, marks=pytest.mark.slow) for seeds in (5, 8))])
def test_ece_difference_covers_the_expected_difference(seeds):
    generator = np.random.default_rng(3)
    arms = lambda seeds: (model(generator, seeds, 300, 0.6, 0.05), model(generator, seeds, 300, 0.8, 0.05))  # noqa: E731
    truth = np.mean([np.subtract(*(mean_ece(*arm) for arm in arms(3))) for _ in range(1200)])
    found = [difference(*arms(seeds), draws=60) for _ in range(800)]
    assert 0.93 < np.mean([interval.low <= truth <= interval.high for interval in found]) < 0.98
