"""Better, equivalent, worse, undecided: by hand, against scipy's tests, and how often each is wrong, by simulation."""

import numpy as np
import pytest
from scipy import stats

from analysis.comparison import effects
from analysis.records.load import load
from analysis.records.repeats import gather
from analysis.stats import bootstrap
from analysis.stats.statistics import BETTER, EQUIVALENT, LEVEL, UNDECIDED, VERDICTS, WORSE, Difference, difference

MARGIN = 1.0


@pytest.mark.parametrize(("values", "lower", "higher"), [
    ([-3.0, -3.1, -2.9], BETTER, WORSE),
    ([3.0, 3.1, 2.9], WORSE, BETTER),
    ([0.1, -0.1, 0.05], EQUIVALENT, EQUIVALENT),
    ([0.5, 0.51, 0.5], EQUIVALENT, EQUIVALENT),  # told from 0, and too small to matter
    ([2.0, 2.0, 2.0], WORSE, BETTER),
    ([0.0, 0.0, 0.0], EQUIVALENT, EQUIVALENT),
    ([-3.0, 3.0, 0.2], UNDECIDED, UNDECIDED),
    ([-3.0, -3.1], UNDECIDED, UNDECIDED),
    ([-3.0], UNDECIDED, UNDECIDED),
])  # fmt: skip
def test_by_hand(values, lower, higher):
    found = difference(values)
    assert (found.verdict(MARGIN, more=False), found.verdict(MARGIN, more=True)) == (lower, higher)


def test_against_scipy():
    """The t test, its interval, and two one-sided tests against the margins at half of LEVEL."""
    generator = np.random.default_rng(0)
    for number in range(300):
        values = generator.normal(generator.uniform(-2, 2), generator.uniform(0.1, 2), 3 + number % 10)
        found, test = difference(values), stats.ttest_1samp(values, 0)
        ends = test.confidence_interval(1 - LEVEL)
        assert found.interval == pytest.approx((ends.low, ends.high)) and found.p == pytest.approx(test.pvalue)
        assert (found.p < LEVEL) == (found.interval[0] > 0 or found.interval[1] < 0)
        assert found.chance_above == pytest.approx(stats.ttest_1samp(values, 0, alternative="less").pvalue)
        sides = [
            stats.ttest_1samp(values, end, alternative=way).pvalue for end, way in ((-MARGIN, "greater"), (MARGIN, "less"))
        ]
        verdict = found.verdict(MARGIN, more=True)
        assert (verdict == EQUIVALENT) == (max(sides) < LEVEL / 2)
        assert (verdict in (BETTER, WORSE)) == (found.p < LEVEL and verdict != EQUIVALENT)


def drawn(true, seeds, parts, draws, images=50, seed=0):
    """Differences whose spread over seeds, images and the rest is ``parts`` of the margin, about a true one."""
    generator, (over_seeds, over_images, rest) = np.random.default_rng(seed), parts
    for _ in range(draws):
        values = true + over_seeds * seeds**0.5 * generator.standard_normal((seeds, 1))
        values = values + over_images * images**0.5 * generator.standard_normal(images)
        values = values + rest * (seeds * images) ** 0.5 * generator.standard_normal((seeds, images))
        found = bootstrap.two_way(values)
        yield Difference(found.estimate, seeds, found.standard_error, found.df, found.images_error, images)


PARTS = {"seeds": (0.3, 0.03, 0.03), "images": (0.03, 0.3, 0.03), "both": (0.3, 0.3, 0.15), "wide": (1.0, 0.5, 0.5)}


@pytest.mark.parametrize("seeds", [3, *(pytest.param(seeds, marks=pytest.mark.slow) for seeds in (4, 5, 8, 12))])
@pytest.mark.parametrize("parts", PARTS)
def test_wrong_verdicts_are_as_rare_as_stated(parts, seeds):
    """Each at most 2.5 % of 2,000 and three standard errors (1 %): better or worse of arms that are not, equivalent of arms
    that differ by just what matters; of those in the middle between the two nothing is wrong but their opposite."""
    rates = {}
    for true in (0.0, 0.5 * MARGIN, MARGIN):
        verdicts = [found.verdict(MARGIN, more=False) for found in drawn(true, seeds, PARTS[parts], 2000)]
        rates[true] = {verdict: verdicts.count(verdict) / len(verdicts) for verdict in VERDICTS}
    assert max(rates[0.0][BETTER], rates[0.0][WORSE]) <= 0.035
    assert max(rates[MARGIN][EQUIVALENT], rates[MARGIN][BETTER]) <= 0.035
    assert rates[0.5 * MARGIN][BETTER] <= 0.035


@pytest.mark.parametrize(("true", "verdict"), [(2.5, WORSE), (-2.5, BETTER), (0.0, EQUIVALENT)])
def test_right_verdicts_are_found(true, verdict):
    """At eight seeds, of differences that vary by a fifth of what matters: nine in ten and more."""
    found = [effect.verdict(MARGIN, more=False) for effect in drawn(true, 8, (0.14, 0.14, 0.07), 300)]
    assert found.count(verdict) >= 270


@pytest.mark.parametrize(("true", "parts"), [(1.2, (0.5, 0.05, 0.05)), (0.0, (0.6, 0.1, 0.1)), (2.0, (1.0, 0.3, 0.3))])
def test_planned_seeds_decide_with_the_stated_chance(true, parts):
    """The plan is made of five seeds whose mean and spread are the true ones."""
    error, images = np.hypot(*parts[:2]), parts[1]
    n = Difference(true, 5, error, 4.0, images, 50).seeds_to_decide(MARGIN)
    assert 5 < n < 40
    scaled = (parts[0] * (5 / n) ** 0.5, parts[1], parts[2] * (5 / n) ** 0.5)
    told = np.mean([effect.verdict(MARGIN, more=False) != UNDECIDED for effect in drawn(true, n, scaled, 1000)])
    assert told == pytest.approx(0.8, abs=0.08)


def test_what_cannot_be_planned():
    assert difference([0.1]).seeds_to_decide(MARGIN) is None
    assert Difference(MARGIN, 5, 0.5, 4.0, 0.5, 50).seeds_to_decide(MARGIN) is None, "more seeds do not help: few images"
    assert difference([2.0, 2.0]).seeds_to_decide(MARGIN) == 3


@pytest.mark.parametrize("draws", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_planted_arms_through_the_records(tmp_path, planted, draws):
    """By the analysis of a study's folder: NLL raised and lowered by twice what matters, by nothing, and by half of it."""
    shifts = {"up": 0.012, "down": -0.012, "same": 0.0, "half": 0.0045}
    found = planted(tmp_path, shifts, draws)
    assert found["up"].count(WORSE) >= 0.9 * draws
    assert found["down"].count(BETTER) >= 0.9 * draws
    assert found["same"].count(EQUIVALENT) >= 0.8 * draws and not {BETTER, WORSE} & set(found["same"][:10])
    assert found["half"].count(EQUIVALENT) + found["half"].count(BETTER) <= 0.1 * draws + 1


@pytest.fixture
def planted(planted_study):
    """A function that draws arms' test NLL around a baseline's and returns each arm's verdicts."""

    def draw(folder, shifts, draws):
        study = load(planted_study(folder, shifts))
        repeats, found = gather(study), {arm: [] for arm in shifts}
        generator = np.random.default_rng(draws)
        for _ in range(draws):
            base = 0.5 + 0.05 * generator.standard_normal(8)
            for arm, shift in {study.baseline: 0.0, **shifts}.items():
                for repeat, value in zip(repeats[arm].values(), base, strict=True):
                    noise = 0.003 * generator.standard_normal() if arm in shifts else 0.0
                    repeat.record.test["pair"]["nll"] = value + shift + noise
            of_arms = effects.differences(repeats, study.baseline, study.arms)["nll"]
            for arm in shifts:
                found[arm].append(of_arms[arm].verdict(study.header.margins["nll"], more=False))
        return found

    return draw


@pytest.fixture
def planted_study():
    from helpers.synthetic_records import make

    def study(folder, shifts):
        nll = {"plain": [0.5] * 8, **{arm: [0.5] * 8 for arm in shifts}}
        return make(folder, nll, predictions=False)

    return study
