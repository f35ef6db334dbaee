"""Each of the method's ways to fail is recognised from epochs that show it, and from nothing else."""

import json

import numpy as np
import pytest
from helpers.synthetic_records import make

from analysis.records import signatures
from analysis.records.load import Curve, load
from analysis.records.signatures import DIED, DISSIMILAR_FEATURES, NO_EFFECT, RAN_APART, of_curve, taken_up
from mldiv.records import checked_files, study_files
from mldiv.records.study_files import trial_folder

CALM = {
    "nll": 0.5, "peer_1_nll": 0.5, "peer_2_nll": 0.5, "accuracy": 0.7, "peer_1_accuracy": 0.68, "peer_2_accuracy": 0.68,
    "w2_per_weight": 0.01, "cosine": 0.0, "feature_kl": 0.02, "disagreement": 0.2, "own_feature_kl": 0.02,
}  # fmt: skip


def curve(**last):
    """12 epochs, the switch after 8; ``last``: values after the last epoch."""
    values = {name: np.full(12, value) for name, value in CALM.items()}
    for name, value in last.items():
        values[name][-1] = value
    return Curve(np.arange(12), np.where(np.arange(12) >= 8, 2, 1), values)


PLAIN = Curve(np.arange(12), np.ones(12, int), curve().values)


@pytest.mark.parametrize("plain", [PLAIN, None])
@pytest.mark.parametrize(
    ("last", "alpha", "beta", "kinds"),
    [
        ({"w2_per_weight": 0.05, "accuracy": 0.5}, 10.0, 0.0, [RAN_APART]),
        ({"w2_per_weight": 0.05, "nll": 0.7}, 10.0, 0.0, [RAN_APART]),
        ({"w2_per_weight": 0.05}, 10.0, 0.0, []),  # apart, but none the worse
        ({"w2_per_weight": 0.011, "accuracy": 0.5}, 10.0, 0.0, []),  # worse, but not apart
        ({"feature_kl": 2.0, "peer_1_accuracy": 0.16, "peer_2_accuracy": 0.6}, 0.0, 20.0, [DISSIMILAR_FEATURES]),
        ({"feature_kl": 2.0}, 0.0, 20.0, []),
        ({"feature_kl": 2.0, "w2_per_weight": 0.5, "nll": 2.0}, 10.0, 20.0, [RAN_APART, DISSIMILAR_FEATURES]),
        ({"feature_kl": 2.0, "w2_per_weight": 0.5, "nll": 2.0}, 0.0, 20.0, [DISSIMILAR_FEATURES]),
    ],
)
def test_the_weights_that_are_too_high_are_named(last, alpha, beta, kinds, plain):
    assert [kind for kind, _ in of_curve(curve(**last), plain, alpha, beta)] == kinds


@pytest.mark.parametrize(
    ("term", "blocks", "beta", "start", "taken"),
    [
        (0.61, 0.02, 2.0, 0.05, True),
        (0.151, 0.0249, 2.0, 0.05, True),
        (0.149, 0.02, 2.0, 0.05, False),  # the term's distance hardly grew
        (0.61, 0.0251, 2.0, 0.05, False),  # the networks followed
        (0.61, 0.02, 0.0, 0.05, False),
        (0.61, 0.02, 2.0, None, False),
        (np.nan, 0.02, 2.0, 0.05, False),
    ],
)
def test_a_fusion_that_takes_up_the_push_is_named(term, blocks, beta, start, taken):
    found = taken_up(curve(own_feature_kl=term, feature_kl=blocks), start, beta)
    assert (found is not None) == taken
    if taken:
        assert found.startswith(f"the term's feature KL from 0.05 at the switch to {term:.2g}, the last blocks' from 0.02 to ")


def test_weights_too_low_leave_nothing_but_mutual_learning():
    same = of_curve(curve(w2_per_weight=0.01005, feature_kl=0.0205, disagreement=0.205), PLAIN, 0.01, 0.02)
    assert [kind for kind, _ in same] == [NO_EFFECT]
    for changed in ({"w2_per_weight": 0.0103}, {"feature_kl": 0.0215}, {"disagreement": 0.22}):
        assert of_curve(curve(**changed), PLAIN, 1.0, 2.0) == []
    assert of_curve(curve(), None, 0.01, 0.02) == []  # without the baseline nobody knows
    assert (
        of_curve(curve(), PLAIN, 0.0, 0.0) == [] != of_curve(curve(), PLAIN, 0.0, 0.02)
    )  # an arm without them, at half the rate


def test_diversity_from_the_first_epoch_is_compared_with_the_baseline_only():
    at_once = Curve(np.arange(12), np.full(12, 2), curve(w2_per_weight=0.05, nll=1.0).values)
    assert of_curve(at_once, None, 1.0, 0.0) == []
    assert [kind for kind, _ in of_curve(at_once, PLAIN, 1.0, 0.0)] == [RAN_APART]


def test_a_studys_trials_are_named_with_their_numbers(tmp_path):
    folder = make(tmp_path, {"mutual learning": [0.5, 0.6], "rbf": [0.5, 0.9]})
    for index in range(2):  # the baseline has no second stage
        path = trial_folder(folder, f"00{index:02d}") / "metrics.jsonl"
        lines = [line | {"stage": 1} for line in checked_files.read_lines(path)]
        checked_files.write_atomically(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    path = trial_folder(folder, "0101") / "metrics.jsonl"
    lines = list(checked_files.read_lines(path))
    lines[-1]["diversity"]["feature_kl"] = 3.0
    checked_files.write_atomically(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    record = study_files.read_trial(trial_folder(folder, "0100"))
    record.notes = ["feature term died: feature KL fell from 0.01 at the switch to 1e-06"]
    study_files.write_trial(trial_folder(folder, "0100"), record)
    found = signatures.signatures(load(folder))
    assert [(signature.kind, signature.where) for signature in found] == [
        (DIED, "rbf, seed 1"), (NO_EFFECT, "rbf, seed 1"), (DISSIMILAR_FEATURES, "rbf, seed 2"),
    ]  # fmt: skip
    for index in range(2):
        path = trial_folder(folder, f"00{index:02d}") / "metrics.jsonl"
        lines = [line | {"stage": 1 + (line["epoch"] > 0)} for line in checked_files.read_lines(path)]
        checked_files.write_atomically(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    kinds = [signature.kind for signature in signatures.signatures(load(folder))]
    assert NO_EFFECT not in kinds, "a baseline with a term is no plain mutual learning"
    sentences = signatures.words(found)
    assert "**Beta too high" in sentences[2] and "rbf, seed 2 (feature KL 3 against 0.021" in sentences[2]
    assert "fell from 0.01 at the switch to 1e-06" in sentences[0]
