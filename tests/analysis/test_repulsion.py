"""What the page of two networks that do not teach each other says beside its tables comes out of its records."""

import pytest
from helpers.published import RESULTS, load, page, short

from analysis.comparison.effects import after_scaling, contrasts, differences, of_columns
from analysis.records.repeats import gather
from analysis.stats.statistics import holm

SMALL, LARGE, ENDED = "both terms, 0.05", "both terms, 0.2", "no prior in stage two"


@pytest.fixture
def study():
    return load(RESULTS / "repulsion" / "cifar100")


def test_what_both_terms_give_without_teaching(study):
    """The first family of two, and what single peers lose."""
    text, repeats, arms = page("repulsion"), gather(study), [SMALL, LARGE]
    nll, points = differences(repeats, study.baseline, arms, ["nll", "accuracy"]).values()
    (of_small, of_large), (right_small, right_large) = (holm([of[arm].p for arm in arms]) for of in (nll, points))
    said = [f"{short(nll[SMALL], 3)} of NLL (p < 0.0001 after Holm over two) and {short(points[SMALL], 2)} points"]
    said += [f"{short(points[SMALL], 2)} points (p {right_small:.1g}), against"]
    said += [f"cost {short(nll[LARGE], 3)} (p {of_large:.1g}) and {short(points[LARGE], 2)} points (p {right_large:.1g})"]
    lost = differences(gather(study, "peers"), study.baseline, [SMALL], ["nll"])["nll"][SMALL]
    said += [f"Single peers lose, {lost.mean:.3f} of NLL"]
    assert of_small < 1e-4 and [sentence for sentence in said if sentence not in text] == []


def test_what_the_end_of_the_prior_leaves_to_them(study):
    """The second family of two."""
    text, repeats = page("repulsion"), gather(study)
    adds, does, _ = contrasts(repeats, study.header.contrasts, ["nll"])["nll"].values()
    of_adds, of_does = holm([adds.p, does.p])
    (scaled,) = after_scaling(repeats, ENDED, [f"{SMALL}, {ENDED}"])["nll"].values()
    found = differences(repeats, study.baseline, [ENDED, "mutual learning"], ["nll"])["nll"]
    said = [f"its end in stage two gains {short(found[ENDED], 3)} without a term"]
    said += [f"cost {short(adds, 3)} (p {of_adds:.2g} after Holm over two; after temperature scaling {scaled.text(3)})"]
    said += [f"to their gain is {short(does, 3)} (p < 0.0001)", f"costs the pair {short(found['mutual learning'], 3)}"]
    assert of_does < 1e-4 and [sentence for sentence in said if sentence not in text] == []


def test_plain_pairs_have_the_settings_and_seeds_of_another_study_trained_elsewhere():
    here, there = (load(RESULTS / name) for name in ("repulsion/cifar100", "stage_two_prior/weight_cifar100"))
    plain = [study.finished("mutual learning") for study in (here, there)]
    assert [trial.id for trial in plain[0].values()] == [trial.id for trial in plain[1].values()]
    own, other = (sum(trial.test["pair"]["nll"] for trial in of.values()) / len(of) for of in plain)
    assert f"{own:.3f} here, {other:.3f} there" in page("repulsion")


def test_what_both_terms_give_without_teaching_on_cifar10():
    """Both families, and corrupted images."""
    text, study, arms = page("repulsion"), load(RESULTS / "repulsion" / "cifar10"), [SMALL, LARGE]
    repeats = gather(study)
    nll, points = differences(repeats, study.baseline, arms, ["nll", "accuracy"]).values()
    (of_small, of_large), (right_small, right_large) = (holm([of[arm].p for arm in arms]) for of in (nll, points))
    adds, does, _ = contrasts(repeats, study.header.contrasts, ["nll"])["nll"].values()
    of_adds, of_does = holm([adds.p, does.p])
    shift = of_columns(repeats, study.baseline, [SMALL, ENDED], ["shift_accuracy"])["shift_accuracy"]
    said = [
        f"at 0.05 {nll[SMALL].text(3)} of NLL and {points[SMALL].text(2)} points (p {of_small:.2f} and {right_small:.2f} after"
    ]
    said += [f"a cost of {short(nll[LARGE], 3)} and {short(points[LARGE], 2)} points (p < 0.0001 and p {right_large:.1g})"]
    said += [f"the terms cost {short(adds, 3)} (p {of_adds:.1g} after Holm over two)", f"{short(does, 3)} (p {of_does:.1g})"]
    said += [f"add {shift[SMALL].text(2)} points, the prior's end {shift[ENDED].text(2)} (described)"]
    assert of_large < 1e-4 and [sentence for sentence in said if sentence not in text] == []
