"""A study that adds seeds as needed: which look decides, at which level, and how often it errs over all of them."""

import numpy as np
import pytest
from helpers.synthetic_records import make

from analysis.build import analyse, build, undecided
from analysis.stats import bootstrap
from analysis.stats.statistics import BETTER, EQUIVALENT, LEVEL, UNDECIDED, VERDICTS, WORSE, Difference
from mldiv.records import study_files
from mldiv.records.checked_files import Damaged
from mldiv.records.contents import StudyRecord
from mldiv.records.study_files import read_study

LOOKS = (3, 5, 8, 12)
SHARED = LEVEL / len(LOOKS)
#: Shares of the margin by which the mean of 12 seeds varies: with seeds, with the images that they share, with the rest.
PARTS = {"seeds": (0.3, 0.01, 0.01), "images": (0.03, 0.3, 0.03), "both": (0.2, 0.2, 0.1), "wide": (0.6, 0.05, 0.05)}


def ends(true, parts, draws, level=SHARED, images=50):
    """How often a sequence of looks ends as each verdict, and its mean number of seeds."""
    generator, (over_seeds, over_images, rest) = np.random.default_rng(0), parts
    found, used = dict.fromkeys(VERDICTS, 0), 0
    for _ in range(draws):
        values = true + over_seeds * LOOKS[-1] ** 0.5 * generator.standard_normal((LOOKS[-1], 1))
        values = values + over_images * images**0.5 * generator.standard_normal(images)
        values = values + rest * (LOOKS[-1] * images) ** 0.5 * generator.standard_normal((LOOKS[-1], images))
        for seeds in LOOKS:
            look = bootstrap.two_way(values[:seeds])
            effect = Difference(look.estimate, seeds, look.standard_error, look.df, look.images_error, images, level=level)
            if (verdict := effect.verdict(1.0, more=False)) != UNDECIDED:
                break
        found[verdict] += 1
        used += seeds
    return {verdict: count / draws for verdict, count in found.items()}, used / draws


@pytest.mark.parametrize("draws", [400, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("parts", PARTS)
def test_over_all_looks_a_verdict_errs_as_rarely_as_stated(parts, draws):
    """Each at most 2.5 % a side and three standard errors, whatever the true difference is."""
    most = 0.025 + 3 * (0.025 * 0.975 / draws) ** 0.5
    none, _ = ends(0.0, PARTS[parts], draws)
    at_margin, _ = ends(1.0, PARTS[parts], draws)
    large, seeds = ends(3.0, PARTS[parts], draws)
    assert max(none[BETTER], none[WORSE]) <= most and none[BETTER] + none[WORSE] <= 2 * most
    assert max(at_margin[EQUIVALENT], at_margin[BETTER]) <= most
    assert large[WORSE] > 0.9 and seeds < 8 and large[BETTER] + large[EQUIVALENT] < 0.003
    assert ends(0.95, PARTS[parts], draws)[0][BETTER] <= most


@pytest.mark.slow
def test_looks_at_the_whole_level_would_err_more_often():
    found, _ = ends(0.0, PARTS["wide"], 5000, level=LEVEL)
    assert found[BETTER] + found[WORSE] > 0.1


@pytest.fixture
def sequential(tmp_path):
    """A study of the first looks: "early" is decided by three seeds and contradicted later, "late" needs five."""
    steady = 0.0001 * np.array([0, 1, -1, 0, 1])
    nll = {
        "plain": [0.5] * 5,
        "early": [0.4, 0.4001, 0.3999, 0.9, 0.9],
        "late": [0.48, 0.44, 0.46, 0.455, 0.45],
        "never": [0.45, 0.55, 0.5, 0.4, 0.6],
        "same": list(0.5 + steady),
    }
    return make(tmp_path, nll, predictions=False, looks=[3, 5, 8, 12], level=SHARED)


def test_the_first_look_that_decides_is_the_answer(sequential):
    found = analyse(sequential).differences["nll"]
    verdicts = {arm: (effect.verdict(0.005, more=False), effect.n) for arm, effect in found.items()}
    assert verdicts == {
        "early": (BETTER, 3), "late": (BETTER, 5), "never": (UNDECIDED, 5), "same": (EQUIVALENT, 3)
    }  # fmt: skip
    assert found["early"].mean == pytest.approx(-0.1) and {effect.level for effect in found.values()} == {SHARED}
    assert undecided(sequential) == ["never"]
    for effect in found.values():
        assert (effect.p < LEVEL) == (effect.interval[0] > 0 or effect.interval[1] < 0)
    header = read_study(sequential)
    study_files.write_study(sequential, StudyRecord(**vars(header) | {"chosen": None}))  # the second look is not over
    assert undecided(sequential) == ["late", "never"] and analyse(sequential).differences["nll"]["never"].n == 3


def test_p_is_that_of_all_looks_together(sequential):
    effect = analyse(sequential).differences["nll"]["late"]
    once = Difference(effect.mean, effect.n, effect.error, effect.df)
    assert effect.p == pytest.approx(4 * once.p) and once.interval[1] < effect.interval[1]


def test_the_answer_says_how_seeds_were_added(sequential):
    build(sequential, formats=("md", "html"))
    text = (sequential / "answer.md").read_text()
    assert "**Seeds were added as needed**: after looks at 3 and 5 seeds, of 3, 5, 8 and 12 planned before training." in text
    assert "Each look has 98.75 % intervals" in text and "p is multiplied by 4" in text
    assert "The same command goes on to 8 seeds." in text and "mean [98.75 % interval]" in text
    assert "mean [95 % interval]" not in text and "--seeds 5`" not in text
    page = (sequential / "report.html").read_text()
    assert "98.75 % interval" in page and "mean difference</th><th>95 %" not in page


@pytest.mark.parametrize("wrong", [{"level": 0.05}, {"looks": [5, 3, 8, 12]}, {"looks": [3, 4, 8, 12]}, {"looks": [5]}])
def test_looks_that_cannot_be_are_refused(sequential, wrong):
    header = read_study(sequential)
    study_files.write_study(sequential, StudyRecord(**vars(header) | wrong))
    with pytest.raises(Damaged, match="looks = "):
        analyse(sequential)
