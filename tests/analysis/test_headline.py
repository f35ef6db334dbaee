"""The answer's sentence: one for each way in which verdicts fall out, and true of the numbers, whatever they are."""

import pytest
from helpers.synthetic_records import make
from hypothesis import given
from hypothesis import strategies as st

from analysis.answer.document import _plan, written_p
from analysis.answer.headline import by_verdict, headline, names, side
from analysis.build import analyse
from analysis.stats.statistics import BETTER, EQUIVALENT, UNDECIDED, WORSE, Difference, difference

MARGIN, FEW = 0.005, {"n": 3, "error": 0.01, "df": 2.0}


def effects(means, n=5, error=0.0005, df=4.0):
    return {name: Difference(mean, n, error, df) for name, mean in means.items()}


SIX = dict(zip(("cosine", "rbf", "cubic", "laplacian", "linear", "sine"), (0.02, 0.03, 0.04, 0.05, 0.06, 0.07), strict=True))
CASES = {
    "one better": (effects({"a": -0.02}), "a lowered the test NLL against the baseline (plain): -0.0200 [-0.0214, -0.0186]"),
    "one worse": (effects({"a": 0.02}), "a raised the test NLL against the baseline (plain): +0.0200 [+0.0186, +0.0214]"),
    "one equivalent": (
        effects({"rbf": 0.0004}),
        "rbf made no difference that matters to the test NLL against the baseline (plain): +0.0004 [-0.0010, +0.0018]",
    ),
    "both better": (
        effects({"a": -0.02, "b": -0.03}),
        "Both lowered the test NLL against the baseline (plain), most for b: -0.0300 [-0.0314, -0.0286]",
    ),
    "all worse": (
        effects(SIX),
        "Nothing lowered the test NLL against the baseline (plain): all six raised it, least for cosine: +0.0200 [+0.0186, "
        "+0.0214], most for sine: +0.0700 [+0.0686, +0.0714]",
    ),
    "all equivalent": (
        effects({"a": 0.0001, "b": -0.0002, "c": 0.0}),
        "Nothing made a difference that matters to the test NLL against the baseline (plain): all three lie within 0.005 of it",
    ),
    "all of few seeds higher": (
        effects({"a": 0.008, "b": 0.016}, **FEW),
        "Nothing lowered the test NLL: both means are higher than that of the baseline (plain), least for a: +0.0080 [-0.0350, "
        "+0.0510]; three seeds cannot prove it, about 12 to 39 could",
    ),
    "all of few seeds lower": (
        effects({"a": -0.008, "b": -0.016}, **FEW),
        "Both means of the test NLL are lower than that of the baseline (plain), most for b: -0.0160 [-0.0590, +0.0270]; three "
        "seeds cannot prove it, about 12 to 39 could",
    ),
    "some lower, some higher": (
        effects({"a": -0.009, "b": 0.016, "c": 0.02}, **FEW),
        "Three seeds cannot tell whether anything lowered the test NLL against the baseline (plain): one of three means is "
        "lower, most for a: -0.0090 [-0.0520, +0.0340]; about 8 to 31 could",
    ),
    "one of few seeds": (
        effects({"rbf": 0.004}, **FEW),
        "The mean test NLL of rbf is higher than that of the baseline (plain): +0.0040 [-0.0390, +0.0470]; three seeds cannot "
        "decide it, about 121 could",
    ),
    "one seed": (
        {"rbf": difference([0.1])},
        "The mean test NLL of rbf is higher than that of the baseline (plain): +0.1000 (one seed, no interval); one seed "
        "cannot prove it",
    ),
    "better, worse and undecided": (
        effects({"a": -0.02, "b": 0.03}) | effects({"c": 0.0}, **FEW),
        "a lowered the test NLL against the baseline (plain): -0.0200 [-0.0214, -0.0186]; b raised it: +0.0300 [+0.0286, "
        "+0.0314]; c is undecided",
    ),
    "worse and equivalent": (
        effects({"a": 0.02, "b": 0.0004, "terms, late": 0.0003}),
        "Nothing lowered the test NLL against the baseline (plain): a raised it: +0.0200 [+0.0186, +0.0214]; “terms, late” and "
        "b made no difference that matters to it",
    ),
    "worse, and lower without proof": (
        effects({"a": 0.02}) | effects({"b": -0.02}, **FEW),
        "Nothing is known to have lowered the test NLL against the baseline (plain) by enough to matter: a raised it: +0.0200 "
        "[+0.0186, +0.0214]; b is undecided",
    ),
    "many": (
        effects({f"k{place}": -0.02 if place < 5 else 0.03 for place in range(12)}),
        "Five of twelve lowered the test NLL against the baseline (plain), most for k0: -0.0200 [-0.0214, -0.0186]; seven of "
        "twelve raised it, most for k11: +0.0300 [+0.0286, +0.0314]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_sentence(case):
    found, said = CASES[case]
    assert headline(found, "plain", MARGIN) == said


def test_a_study_that_adds_seeds_plans_none():
    assert headline(effects({"rbf": 0.004}, **FEW), "plain", MARGIN, planned=True).endswith("three seeds cannot decide it")


ANY = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d, e", "f"]),
    st.builds(Difference, st.floats(-0.1, 0.1), st.integers(1, 9), st.sampled_from([None, 1e-4, 0.003, 0.03]), st.just(4.0)),
    min_size=1,
)


@given(ANY)
def test_the_sentence_never_claims_more_than_the_verdicts(found):
    """Of whatever numbers: "lowered" of a better arm alone, "nothing lowered" only where none is and no mean is lower."""
    text, verdicts = headline(found, "plain", MARGIN), by_verdict(found, MARGIN)
    if BETTER in verdicts:
        assert " lowered the test NLL against the baseline (plain)" in text and not text.startswith("Nothing")
    if text.startswith("Nothing lowered"):
        assert BETTER not in verdicts and all(side(effect) >= 0 for effect in found.values())
    if "cannot prove" in text or "cannot decide" in text or "cannot tell" in text:
        assert set(verdicts) == {UNDECIDED}
    assert ("raised" in text) == (WORSE in verdicts) and "-0.0000" not in text
    assert ("made no difference that matters" in text or "Nothing made" in text) == (EQUIVALENT in verdicts)


def test_names_with_commas_stand_in_quotes():
    assert names(["after 1/3", "after 2/3, without the terms"]) == "after 1/3 and “after 2/3, without the terms”"


PLANTED = [0.50, 0.60, 0.55, 0.52, 0.58]


@pytest.mark.parametrize(("shift", "said"), [
    (0.02, "Nothing lowered the test NLL against the baseline (plain): both raised it"),
    (-0.02, "Both lowered the test NLL against the baseline (plain)"),
    (0.0, "Nothing made a difference that matters"),
])  # fmt: skip
def test_planted_studies(tmp_path, shift, said):
    """From the records: two arms off the baseline by the shift, the same in every seed within 0.0002."""
    near = [0.0002, -0.0001, 0.0, 0.0001, -0.0002]
    nll = {"plain": PLANTED} | {
        arm: [base + shift + sign * off for base, off in zip(PLANTED, near, strict=True)] for arm, sign in (("a", 1), ("b", -1))
    }
    assert f"**{said}" in analyse(make(tmp_path, nll, predictions=False)).answer()


@pytest.mark.parametrize(
    ("p", "said"),
    [(1.0, "1"), (0.05, "0.05"), (0.00012, "0.00012"), (0.0001, "0.0001"), (2.2e-15, "< 0.0001"), (0.0, "< 0.0001"),
     (0.0504, "0.0504"), (0.0496, "0.0496"), (0.050003, "0.050003"), (0.0551, "0.055")],
)  # fmt: skip
def test_a_small_p_is_not_written_out(p, said):
    assert written_p(p) == said


def test_where_no_number_of_seeds_would_decide_no_chance_is_given_of_nothing():
    said = _plan({"a": Difference(0.005, 3, 0.02, 2.0, images_error=0.02)}, 0.005)
    assert said.startswith(
        "Not even 1,000 seeds would decide with a chance of 80%, were the true differences those found here: a"
    )
    assert said.endswith("the images are few.") and "a plan" not in said
    assert "a plan, not a promise" in _plan({"a": Difference(0.03, 3, 0.02, 2.0)}, 0.005)
