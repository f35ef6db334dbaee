"""What a dry run estimates, from made-up times of the steps. With real ones: cli/test_study.py."""

import pytest

from mldiv.method.pair import MutualPair
from mldiv.training import step_cost
from mldiv.training.step_cost import Cost, Work


def test_an_epochs_seconds_from_its_steps(tiny, monkeypatch):
    """160 images in batches of 32 are 5 steps; at the end 60 test and 60 validation images with 3 samples, timed: 60 with 2."""
    timed = iter([0.1, 0.3, 8.0])  # a step of either stage, an evaluation
    monkeypatch.setattr(step_cost, "_median_seconds", lambda run, device, repeats=3: next(timed))
    cost = step_cost.measure(tiny)
    assert cost.stage_1 == pytest.approx(5 * 0.1 + 8)
    assert cost.stage_2 == pytest.approx(5 * 0.3 + 8)
    assert cost.pretraining == pytest.approx(5 * 0.1 / 2)
    assert cost.test == pytest.approx(8 * (60 + 60) * 3 / (60 * 2))


def test_a_plans_seconds_from_its_epochs():
    work = Work(trials=2, first_stage=30, second_stage=400, shared=7, pretraining=5000)
    assert Cost(stage_1=1.0, stage_2=0.1, pretraining=0.01, test=100.0).seconds(work) == 30 + 40 + 50 + 200


def test_the_second_stage_is_timed_with_its_terms(tiny, monkeypatch):
    """What is timed first leaves the fusion alone, what is timed second does not."""
    ran = []
    forward = MutualPair.forward

    def watched(pair, images, labels, noise, diverse):
        ran.append((len(images), diverse))
        return forward(pair, images, labels, noise, diverse)

    monkeypatch.setattr(MutualPair, "forward", watched)
    assert min(vars(step_cost.measure(tiny)).values()) > 0
    assert ran == [(32, False)] * 4 + [(32, True)] * 4
