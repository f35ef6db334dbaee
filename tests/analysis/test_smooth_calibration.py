"""The smooth calibration error against sums over all images, and its verdicts by simulation."""

import numpy as np
import pytest

from analysis.stats import bootstrap, smooth_calibration
from analysis.stats.smooth_calibration import CALIBRATED, MISCALIBRATED, UNDECIDED, judge, smooth_error


def draw(seed, n, power):
    generator = np.random.default_rng(seed)
    confidence = 1 - 0.7 * generator.random(n) ** 2
    return confidence, generator.random(n) < confidence**power


def slow(confidence, correct, points=2000):
    """The definition: Gaussians at every image and its mirror images, on a fine grid, and the width by bisection."""
    t = (np.arange(points) + 0.5) / points

    def error(width):
        images = [sign * confidence + 2 * shift for sign in (1, -1) for shift in (-2, -1, 0, 1, 2)]
        kernel = sum(np.exp(-((t[:, None] - image) ** 2) / (2 * width**2)) for image in images)
        return np.abs(kernel @ (correct - confidence)).mean() / (width * (2 * np.pi) ** 0.5 * len(confidence))

    low, high = 1e-3, 1.0
    for _ in range(14):
        width = (low + high) / 2
        low, high = (width, high) if error(width) > width else (low, width)
    return low


@pytest.mark.parametrize(("n", "power"), [(60, 1.0), (150, 2.0), (150, 0.3)])
def test_against_the_definition(n, power):
    confidence, correct = draw(n, n, power)
    assert smooth_error(confidence, correct) == pytest.approx(slow(confidence, correct), abs=1e-4)


def test_at_the_ends():
    ones, half = np.ones(10), np.full(10, 0.5)
    assert smooth_error(ones, ones) == 0 and smooth_error(half, np.arange(10) < 5) == pytest.approx(0, abs=1e-5)
    for value in (0.0, 0.3, 1.0):  # all mass stays within [0, 1]: residuals of one sign lose nothing
        sure = np.full(10, value)
        assert smooth_error(sure, 1 - sure.round()) == pytest.approx(abs(1 - sure.round() - sure)[0], abs=1e-4)


def test_weights_are_repeated_images():
    parts = [draw(seed, 80, 1.5) for seed in range(3)]
    confidence, correct = (np.array(values) for values in zip(*parts, strict=True))
    counts = bootstrap.image_counts(80, 2)[0]
    got = smooth_calibration.image_smooth_errors(confidence, correct)(counts)
    repeated = [
        [smooth_error(np.repeat(c, row.astype(int)), np.repeat(y, row.astype(int))) for c, y in parts] for row in counts
    ]
    assert got == pytest.approx(np.array(repeated), abs=1e-5)


def test_chance_adds_at_most_its_own_error():
    """Of one sample: the error of gap and noise together is at most that of both added up."""
    generator = np.random.default_rng(0)
    for scale in (0.0, 0.05, 0.3):
        confidence = generator.uniform(0.3, 0.9, 400)
        gap, noise = scale * np.sin(9 * confidence), generator.choice((-0.4, 0.4), 400)
        both, alone, chance = (smooth_error(confidence, confidence + part) for part in (gap + noise, gap, noise))
        assert both <= alone + chance + 1e-4


def planted(generator, seeds, images, gap):
    """Confidences that are too high by ``gap`` at every image: a smooth calibration error of just that."""
    confidence = 1 - 0.5 * generator.random(images) ** 2 * generator.uniform(0.8, 1, (seeds, images))
    luck = generator.random(images) * 0.7 + generator.random((seeds, images)) * 0.3  # images are easy or hard for all seeds
    return confidence, np.argsort(np.argsort(luck, -1), -1) / images < confidence - gap * np.exp(
        0.05 * generator.standard_normal((seeds, 1))
    )


@pytest.mark.parametrize("seeds", [3, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("draws", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_verdicts_err_in_at_most_one_of_forty(monkeypatch, seeds, draws):
    """Just inside and just outside the limit; and they decide where the error is far from it."""
    monkeypatch.setattr(smooth_calibration, "CELLS", 128)
    monkeypatch.setattr(smooth_calibration, "SIGN_DRAWS", 30)
    generator = np.random.default_rng(seeds)

    def share(verdict, gap, images, repeats):
        found = [judge(*planted(generator, seeds, images, gap), draws=40).verdict for _ in range(repeats)]
        return np.mean([each == verdict for each in found])

    most = 0.025 + 2 * (0.025 * 0.975 / draws) ** 0.5
    for images in (500, 3000):
        assert share(MISCALIBRATED, 0.019, images, draws // 2) <= most
        assert share(CALIBRATED, 0.021, images, draws // 2) <= most
    assert share(CALIBRATED, 0.0, 10_000, 5) == 1 and share(MISCALIBRATED, 0.1, 3000, 5) == 1
    assert share(UNDECIDED, 0.0, 100, 5) == 1


def test_too_few_seeds_decide_nothing():
    confidence, correct = (np.array([values] * 2) for values in draw(0, 500, 3.0))
    assert judge(confidence, correct, draws=50).verdict == UNDECIDED
    alone = judge(confidence[:1], correct[:1])
    assert alone.interval is None and alone.verdict == UNDECIDED
