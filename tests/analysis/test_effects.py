"""Differences and contrasts: paired by seed, over seeds and images, with the right arms and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.synthetic_records import make, write
from scipy import stats

from analysis.build import analyse
from analysis.comparison import effects
from analysis.records.load import load
from analysis.records.repeats import gather
from analysis.stats import calibration
from mldiv.records import study_files
from mldiv.records.study_files import trial_folder

CELLS = {"plain": [0.50, 0.60, 0.55], "+a": [0.45, 0.56, 0.50], "+b": [0.49, 0.58, 0.55], "both": [0.40, 0.50, 0.42]}
FACTORIAL = {
    "main effect of a": {"+a": 0.5, "both": 0.5, "plain": -0.5, "+b": -0.5},
    "interaction": {"both": 1.0, "plain": 1.0, "+a": -1.0, "+b": -1.0},
}


def found(folder):
    return gather(load(folder))


def test_differences_by_hand(tmp_path):
    found_effects = effects.differences(found(make(tmp_path, CELLS)), "plain", list(CELLS))
    assert set(found_effects["nll"]) == {"+a", "+b", "both"}
    expected = np.array(CELLS["both"]) - CELLS["plain"]
    both = found_effects["nll"]["both"]
    assert (both.mean, both.n) == (pytest.approx(expected.mean()), 3)
    assert both.adjusted >= both.p > 0 and (both.p < 0.05) == (both.interval[1] < 0)
    assert both.images == 200 and both.interval[0] < both.mean < both.interval[1]


def test_the_factorial_against_least_squares(tmp_path):
    """Main effect and interaction as a regression on factors with a dummy for each seed gives them."""
    by_name = effects.contrasts(found(make(tmp_path, CELLS)), FACTORIAL)["nll"]
    rows, values = [], []
    for (a, b), arm in {(0, 0): "plain", (1, 0): "+a", (0, 1): "+b", (1, 1): "both"}.items():
        for seed, value in enumerate(CELLS[arm]):
            rows.append([a - 0.5, b - 0.5, (a - 0.5) * (b - 0.5), *(float(seed == other) for other in range(3))])
            values.append(value)
    solution = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    assert by_name["main effect of a"].mean == pytest.approx(solution[0])
    assert by_name["interaction"].mean == pytest.approx(solution[2])


def test_without_predictions_the_interval_is_over_seeds_alone(tmp_path):
    effect = effects.differences(found(make(tmp_path, CELLS, predictions=False)), "plain", ["both"])["nll"]["both"]
    expected = stats.ttest_1samp(np.array(CELLS["both"]) - CELLS["plain"], 0).confidence_interval(0.95)
    assert effect.images is None and effect.interval == pytest.approx((expected.low, expected.high))


def test_the_answer_names_the_arms_whose_intervals_are_over_seeds_alone(tmp_path):
    """One of three has no predictions any more."""
    folder = make(tmp_path, CELLS)
    assert "over seeds alone." not in analyse(folder).answer()
    for index in range(3):
        (trial_folder(folder, f"02{index:02d}") / "predictions.parquet").unlink()
    text = analyse(folder).answer()
    assert "over test images together (200 images" in text
    assert "Where predictions are missing (+b), they hold over seeds alone." in text


def test_seeds_that_an_arm_lacks_or_trained_shorter_are_left_out(tmp_path):
    folder = make(tmp_path, CELLS)
    write(folder, "0301", 0.1, 0.9, 200, 1, status="diverged")
    short = study_files.read_trial(trial_folder(folder, "0102"))
    short.epochs = 5
    study_files.write_trial(trial_folder(folder, "0102"), short)
    by_arm = effects.differences(found(folder), "plain", list(CELLS))["nll"]
    assert (by_arm["both"].n, by_arm["+a"].n, by_arm["+b"].n) == (2, 2, 3)
    assert by_arm["both"].mean == pytest.approx(np.mean([0.40 - 0.50, 0.42 - 0.55]))
    assert effects.contrasts(found(folder), FACTORIAL)["nll"]["interaction"].n == 1


def test_arms_of_single_networks_are_judged_by_the_mean_of_both(tmp_path):
    folder = make(tmp_path, CELLS, members={"+a": "peers"})
    for index in range(3):
        path = trial_folder(folder, f"01{index:02d}")
        record = study_files.read_trial(path)
        record.test["peer_1"]["nll"], record.test["peer_2"]["nll"] = 1.0, 3.0
        study_files.write_trial(path, record)
    repeats = found(folder)
    assert len(repeats["+a"][1].predictions) == 2 and len(repeats["+b"][1].predictions) == 1
    effect = effects.differences(repeats, "plain", ["+a"])["nll"]["+a"]
    assert effect.mean == pytest.approx(2 - np.mean(CELLS["plain"]))


def test_the_ece_of_a_difference_is_that_of_the_predictions(tmp_path):
    repeats = found(make(tmp_path, CELLS))
    effect = effects.differences(repeats, "plain", ["both"])["ece"]["both"]
    assert effect.mean == 0 and effect.images == 200  # records and predictions alike
    assert effect.interval == pytest.approx((0, 0))


def test_a_seed_of_more_networks_than_another_is_the_mean_of_its_own(tmp_path):
    """As in folders to which predictions of a method trained elsewhere were added when that was not refused."""
    repeats = found(make(tmp_path, CELLS, members={"+a": "peers"}))
    first, second, third = (repeats["+a"][seed].predictions for seed in (1, 2, 3))
    eces = effects.mean_eces([[first[0], third[0]], second[:1], third])[0]
    expected = [calibration.reliability(member.confidence, member.correct).ece for member in (first[0], second[0], third[0])]
    assert eces == pytest.approx([(expected[0] + expected[2]) / 2, *expected[1:]])
    repeats["+a"][2] = replace(repeats["+a"][2], predictions=second[:1])
    assert effects.differences(repeats, "plain", ["+a"])["ece"]["+a"].images == 200


def test_by_whom_a_pair_gains_what_its_peers_lose(tmp_path):
    """The pair's NLL falls by 0.1 in each seed, that of peer 1 rises by 0.1, of peer 2, the stronger on validation, by 0.3."""
    folder = make(tmp_path, {"plain": [0.5, 0.6, 0.55], "apart": [0.4, 0.5, 0.45]}, predictions=False)
    for place, (first, second) in enumerate(((0.0, 0.0), (0.1, 0.3))):
        for index in range(3):
            path = trial_folder(folder, f"{place:02d}{index:02d}")
            record = study_files.read_trial(path)
            level = [0.5, 0.6, 0.55][index]
            record.test["peer_1"]["nll"], record.test["peer_2"]["nll"] = level + first, level + second
            record.validation["peer_1"]["nll"], record.validation["peer_2"]["nll"] = 0.9, 0.8
            study_files.write_trial(path, record)
    made = analyse(folder)
    found = {whose: of["nll"]["apart"].mean for whose, of in made.singles.items()}
    expected = {
        "mean of single peers": 0.2,
        "peer 1": 0.1,
        "peer 2": 0.3,
        "the stronger": 0.3,
        "after temperature scaling": -0.1,
    }
    assert found == pytest.approx(expected) and made.differences["nll"]["apart"].mean == pytest.approx(-0.1)
    text = made.answer()
    assert "**By the mean NLL of its single peers**, apart is worse (+0.2000 [+0.2000, +0.2000]) and not better." in text
    assert "| apart    | better, -0.1000 [-0.1000, -0.1000] | worse, +0.2000" in text


def test_the_answer_says_what_other_scores_tell(tmp_path):
    """NLL tells neither arm; accuracy falls by 10 points under one of them, and ECE is as it was."""
    cells = {"plain": [0.5, 0.6, 0.55, 0.5], "apart": [0.6, 0.5, 0.55, 0.5], "same": [0.6, 0.5, 0.55, 0.5]}
    folder = make(tmp_path, cells, predictions=False)
    for index, lost in enumerate((0.09, 0.1, 0.11, 0.1)):
        path = trial_folder(folder, f"01{index:02d}")
        record = study_files.read_trial(path)
        record.test["pair"]["accuracy"] -= lost
        study_files.write_trial(path, record)
    text = analyse(folder).answer()
    said = "- **By accuracy** in percentage points, worse: apart (-10.00 [-11.30, -8.70]). After Holm's correction over 2 "
    assert f"{said}comparisons all of that stays.\n- **By ECE** no arm is known to be better or worse.\n" in text, text


def test_what_a_temperature_gives_is_told_from_what_training_gave(tmp_path):
    """The pair gains 0.1 in NLL; scaled, the same seeds go up and down; a study without temperatures says nothing of them."""
    folder = make(tmp_path, {"plain": [0.5, 0.6, 0.55, 0.5], "apart": [0.4, 0.5, 0.45, 0.4]})
    assert "fitted on validation images, leaves the verdicts by NLL as they are." in analyse(folder).answer()
    scaled = [[0.48, 0.59, 0.54, 0.49], [0.46, 0.60, 0.53, 0.50]]
    for place, of_arm in enumerate(scaled):
        for index, value in enumerate(of_arm):
            path = trial_folder(folder, f"{place:02d}{index:02d}")
            record = study_files.read_trial(path)
            record.test_scaled["pair"]["nll"] = value
            study_files.write_trial(path, record)
    made = analyse(folder)
    effect = made.singles["after temperature scaling"]["nll"]["apart"]
    expected = stats.ttest_rel(scaled[1], scaled[0])
    assert effect.mean == pytest.approx(np.mean(scaled[1]) - np.mean(scaled[0])) and effect.p == pytest.approx(expected.pvalue)
    assert effect.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert f"**By NLL after temperature scaling**, apart is undecided ({effect.text(4)}) and not better." in made.answer()
    for path in folder.glob("trials/*"):
        record = study_files.read_trial(path)
        record.test_scaled.clear()
        study_files.write_trial(path, record)
    assert "emperature" not in analyse(folder).answer()


def test_what_becomes_of_arms_on_corrupted_and_other_images_is_told_with_its_p(tmp_path):
    """Against paired t-tests by hand, corrected by Holm; accuracy is in points, and what no record holds is left out."""
    levels = {"plain": [1.5, 1.6, 1.55, 1.4], "apart": [1.4, 1.48, 1.46, 1.33], "same": [1.6, 1.5, 1.55, 1.4]}
    weights = {"same less apart": {"same": 1.0, "apart": -1.0}}
    folder = make(tmp_path, {arm: [0.5, 0.6, 0.55, 0.5] for arm in levels}, predictions=False, contrasts=weights)
    assert set(analyse(folder).elsewhere) == {"ood_entropy", "ood_mi"} and "corrupted" not in analyse(folder).answer()
    for place, values in enumerate(levels.values()):
        for index, value in enumerate(values):
            path = trial_folder(folder, f"{place:02d}{index:02d}")
            record = study_files.read_trial(path)
            record.shift["pair"] = {f"nll_{level}": value + level - 3 for level in range(1, 6)}
            record.shift["pair"] |= {f"accuracy_{level}": value / 10 for level in range(1, 6)}
            study_files.write_trial(path, record)
    tests = [stats.ttest_rel(levels[arm], levels["plain"]) for arm in ("apart", "same")]
    made = analyse(folder)
    assert not effects.of_columns(gather(load(folder), "peer_1"), "plain", list(levels), ["isotonic_nll"])  # in no record
    assert set(made.elsewhere) == {"shift_nll", "shift_accuracy", "ood_entropy", "ood_mi"}
    apart, same = (made.elsewhere["shift_nll"][arm] for arm in ("apart", "same"))
    assert apart.interval == pytest.approx(tuple(tests[0].confidence_interval(0.95))) and apart.images is None
    assert (apart.adjusted, same.adjusted) == pytest.approx((2 * tests[0].pvalue, tests[1].pvalue))
    assert made.elsewhere["shift_accuracy"]["apart"].mean == pytest.approx(10 * apart.mean)
    assert f"**By NLL on corrupted images**, apart is better ({apart.text(4)}) and not equivalent; " in made.answer()
    (row,) = [line for line in made.answer().splitlines() if line.startswith("| apart") and ", p 0" in line]
    assert f"{apart.text(4)}, p {apart.adjusted:.2g} |" in row
    between = made.elsewhere_contrasts["shift_nll"]["same less apart"]
    expected = stats.ttest_rel(levels["same"], levels["apart"])
    assert (between.p, between.adjusted) == pytest.approx((expected.pvalue, expected.pvalue))
    assert between.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    (row,) = [line for line in made.answer().split("p after Holm over the contrasts")[1].splitlines() if "same less" in line]
    assert f"{between.text(4)}, p {between.adjusted:.2g} |" in row
