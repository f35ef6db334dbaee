"""A term whose gradient vanished is named, by the numbers of its own lines, and no other."""

import json
import math

import numpy as np
import pytest
from helpers.synthetic_records import make

from analysis.build import build
from analysis.records import cautions
from analysis.records.load import load
from analysis.records.signatures import Signature
from mldiv.records.study_files import read_trial, trial_folder, write_trial


def write_gradients(folder, trial, shares, points=(0.5, 1.0)):
    """Each epoch's lines of the trial get points; shares: by term, a function of the epoch (the cross-entropy's is 2 + 4)."""
    path = trial_folder(folder, trial) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["gradients"] = [
            {"at": at, "nll": {"mean_1": 2.0, "mean_2": 4.0, "rho_1": 7.0, "fusion": 0.0}}
            | {
                term: {"mean_1": 6 * share(line["epoch"], at) - 0.01, "mean_2": 0.01, "rho_1": 9.0, "fusion": 9.0}
                for term, share in shares.items()
                if line["epoch"] >= 8 or term == "mutual"
            }
            for at in points
        ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture
def folder(tmp_path):
    """Two seeds of three arms: in a both terms act, in b the feature term only in the first half of its first epoch."""
    made = make(tmp_path, {"mutual learning": [0.5, 0.6], "a": [0.4, 0.5], "b": [0.4, 0.5]})
    constant = {"mutual": lambda epoch, at: 0.5}
    for seed in (0, 1):
        write_gradients(made, f"010{seed}", constant | dict.fromkeys(cautions.TERMS, lambda epoch, at: 0.2))
        fading = {
            "feature_diversity": lambda epoch, at: 0.3 if epoch + at == 8.5 else 0.004,
            "param_diversity": lambda epoch, at: 0.1,
        }
        write_gradients(made, f"020{seed}", constant | fading)
    return made


def test_shares_are_of_the_cross_entropys_gradient_in_all_means(folder):
    curve = load(folder).curve("0200")
    assert len(curve.points) == 24 and list(curve.points[-2:]) == [11.5, 12.0]
    assert curve.shares["feature_diversity"][16:18] == pytest.approx([0.3, 0.004])
    assert np.isnan(curve.shares["feature_diversity"][:16]).all() and curve.shares["mutual"] == pytest.approx(0.5)


def test_a_term_is_dead_in_an_epoch_that_it_is_never_seen_alive_in(folder):
    study = load(folder)
    assert cautions.dead_epochs(study.curve("0200"), "feature_diversity") == ([9, 10, 11], [8, 9, 10, 11])
    assert cautions.dead_epochs(study.curve("0100"), "feature_diversity") == ([], [8, 9, 10, 11])


def test_the_arm_is_named_in_the_answer_with_its_numbers(folder):
    (dead,) = cautions.dead_terms(load(folder))
    assert (dead.arm, dead.term, dead.epochs) == ("b", "feature_diversity", (6, 8))
    build(folder, formats=("html",))
    text = (folder / "answer.md").read_text()
    assert "**The feature term all but did not act** in 1 arm, which did not test what it says" in text
    assert "b: 6 of 8 measured epochs, median 0.40%" in text and "parameter term all but" not in text
    assert "Feature term (share, log scale) against epochs trained, 2 arms" in (folder / "report.html").read_text()


def test_a_weight_of_zero_is_no_dead_term(folder):
    study = load(folder)
    for (arm, _), record in study.records.items():
        record.config["beta"] = 0.0 if arm == "b" else 2.0
    assert cautions.dead_terms(study) == []


def test_a_term_that_lives_in_half_of_the_seeds_is_not_named(folder):
    write_gradients(folder, "0201", dict.fromkeys(cautions.TERMS, lambda epoch, at: 0.2))
    assert cautions.dead_terms(load(folder)) == []


def test_without_measurements_the_report_says_how_to_get_them(tmp_path):
    folder = make(tmp_path, {"mutual learning": [0.5], "a": [0.4]})
    build(folder, formats=("html",))
    assert "did not act" not in (folder / "answer.md").read_text()
    assert "set gradient_points" in (folder / "report.html").read_text()


def test_points_that_all_lie_before_the_switch_are_said_to_tell_nothing_of_the_diversity_terms(folder):
    """A training cut short, such as 6 of the demo's 12 epochs, may end before its first point of stage two."""
    build(folder, formats=("html",))
    assert "No point lies after the switch" not in (folder / "report.html").read_text()
    for trial in ("0100", "0101", "0200", "0201"):
        path = trial_folder(folder, trial) / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["gradients"] = line["gradients"][1:] if line["epoch"] == 7 else []
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    build(folder, formats=("html",))
    page = (folder / "report.html").read_text()
    assert "No point lies after the switch" in page and "Mutual learning (share, log scale)" in page


@pytest.mark.parametrize(("chosen", "said"), [
    ({"mutual learning": {"lr": 0.1}, "a": {"alpha": 1.0}, "b": {"lr": 0.05, "beta": 2.0}},
     "in 2 of 3 arms (all but mutual learning), of 2 settings tried in each: the baseline was tuned, the others are as they "
     "come."),
    ({"a": {"alpha": 1.0}, "b": {"alpha": 1.0}}, "in every arm, of 2 settings tried in each."),
    ({"mutual learning": {"lr": 0.05}, "a": {"alpha": 3.0}, "b": {"beta": 2.0}},
     "in 2 of 3 arms (all but a), of 2 settings tried in each."),
    ({"a": {"alpha": 3.0}, "b": {"alpha": 5.0}}, None),
    ({}, None),
])  # fmt: skip
def test_a_search_that_chose_the_defaults_is_named(tmp_path, chosen, said):
    """By default lr is 0.05, alpha 1 and beta 2."""
    arms = {"mutual learning": [0.5], "a": [0.4], "b": [0.3]}
    study = load(make(tmp_path, arms, chosen=chosen, searched={arm: ["lr"] for arm in arms}, predictions=False))
    assert cautions.searches(study) == ([f"**The search chose the defaults** {said}"] if said else [])


def test_an_arms_own_setting_is_its_default(tmp_path):
    arms = {"mutual learning": [0.5], "a": [0.4]}
    study = load(make(tmp_path, arms, changes={"a": {"alpha": 3.0}}, chosen={"a": {"alpha": 3.0}}, predictions=False))
    assert cautions.searches(study) == ["**The search chose the defaults** in every arm, of 2 settings tried in each."]


def test_ways_to_fail_are_counted_by_repeats_and_arms(tmp_path):
    study = load(make(tmp_path, {"mutual learning": [0.5, 0.6], "a": [0.4, 0.5], "b": [0.4, 0.5]}, predictions=False))
    found = [Signature("it died: nothing grew", "", "", arm) for arm in ("a", "a", "b", None)]
    assert cautions.cautions(study, found) == ["**It died** in 3 repeats (a 2 of 2, b 1 of 2): nothing grew."]
    assert cautions.cautions(study, found[3:]) == []


@pytest.mark.parametrize("entropy, nll, ratio, said", [
    (2.30, 2.31, 9.5, "; its sigmas are 9.5 times its means, as where the prior outweighs the data: try a "
     "smaller `--set kl_weight=...`."),
    (2.29, 2.29, 0.04, "; its sigmas are 0.04 times its means."),
    (2.29, 2.29, 0.0, "."),
    (0.3, 2.31, 9.5, None),
    (2.30, 2.0, 9.5, None),
])  # fmt: skip
@pytest.mark.parametrize("known", [None, 0.0, math.log(10)])
def test_a_peer_that_learned_nothing_is_named(tmp_path, known, entropy, nll, ratio, said):
    """Of 10 classes even chances have 2.303 nats; one that is wrong but sure, or unsure and right, learned something."""
    folder = make(tmp_path, {"mutual learning": [0.5, 0.6], "a": [0.4, 0.5]}, predictions=False)
    record = read_trial(trial_folder(folder, "0101"))
    record.data |= {"classes": 10} | ({} if known is None else {"label_entropy": known})
    record.test["peer_2"] |= {"entropy": entropy, "nll": nll}
    record.posterior["peer_2"]["sigma_over_mean"] = ratio
    write_trial(trial_folder(folder, "0101"), record)
    head = "**A network learned nothing** in some repeats (a 1 of 2): to it all images are about alike"
    assert cautions.silent(load(folder)) == ([head + said] if said else [])


def test_an_entropy_that_is_not_defined_is_no_high_one(tmp_path):
    folder = trial_folder(make(tmp_path, {"plain": [5.0]}, predictions=False), "0000")
    record = read_trial(folder)
    record.data["classes"], record.test["peer_1"]["entropy"] = 2, None
    write_trial(folder, record)
    assert not cautions.silent(load(tmp_path))


def test_one_that_knows_the_frequencies_alone_learned_nothing(tmp_path):
    """Of shares 0.7, 0.25 and 0.05, where even chances would have 1.1 nats and an accuracy of a third."""
    folder = make(tmp_path, {"mutual learning": [0.5, 0.6]}, predictions=False)
    record = read_trial(trial_folder(folder, "0001"))
    record.data |= {"classes": 3, "label_entropy": 0.746}
    record.test["peer_1"] |= {"entropy": 0.739, "nll": 0.744, "accuracy": 0.69}
    write_trial(trial_folder(folder, "0001"), record)
    assert cautions.silent(load(folder))[0].startswith("**A network learned nothing** in some repeats (mutual learning 1 of 2)")
