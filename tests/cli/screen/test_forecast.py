"""The time left: the plan's estimate, then more and more the pace; what was there already is no work."""

import itertools
from types import SimpleNamespace

import pytest

from mldiv.cli.screen import forecast
from mldiv.cli.screen.forecast import Forecast
from mldiv.training.step_cost import Cost, Work

COST = Cost(stage_1=1.0, stage_2=2.0, pretraining=0.5, test=4.0)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(forecast.time, "monotonic", lambda: now.seconds)
    return now


def made(groups=1, cost=COST, wait=0.0, **work):
    plan = SimpleNamespace(queue=SimpleNamespace(under_way={}))
    found = Forecast(plan, lambda begun: Work(**work))
    found.expect(cost, groups, wait)
    return found


def epoch(number, stage=1):
    return {"epoch": number - 1, "stage": stage}


def test_before_there_is_a_pace_it_is_the_plan_s_estimate(clock):
    found = made(groups=2, wait=30.0, trials=2, first_stage=10, second_stage=5)
    assert found.remaining() == 30 + (2 * 4 + 10 + 5 * 2) / 2
    clock.seconds = 20.0
    assert found.remaining() == 10 + 14
    clock.seconds = 50.0  # the groups are late
    assert found.remaining() == 14


def test_the_pace_takes_over_and_nothing_jumps(clock):
    """A worker half as fast as estimated: from 100 s to the 190 s that are true, in steps of less than 20 s."""
    found, seen = made(first_stage=100), []
    found.pause = 1000.0
    found.start()
    for number in range(1, 101):
        clock.seconds += 2.0
        found.update("a", epoch(number))
        seen.append(found.remaining())
    assert seen[0] == pytest.approx(99 * (10 + 2) / (10 + 1)) and seen[-1] == 0
    assert max(abs(after - before) for before, after in itertools.pairwise(seen)) < 20
    assert all(abs(left - 2 * (100 - number)) < 0.35 * 2 * (100 - number) + 1 for number, left in enumerate(seen[9:], 10))


def test_epochs_that_a_trial_found_are_no_work(clock):
    found = made(first_stage=0, second_stage=4, trials=1)
    found.update("a", epoch(7, stage=2))  # six of stage one came from the store
    assert found.share() == pytest.approx(2 / 12)
    for number in (8, 9, 10):
        found.update("a", epoch(number, stage=2))
    found.update("a", {"ended": True, "status": "finished", "epoch": 9})
    assert found.share() == 1 and found.remaining() == 0


def test_without_a_cost_nothing_is_said_before_the_first_epoch(clock):
    found = made(cost=None, first_stage=10)
    assert found.remaining() is None
    found.start()
    clock.seconds = 3.0
    found.update("a", epoch(1))
    assert found.remaining() == pytest.approx(9 * 3.0)


def test_what_is_left_is_counted_anew(clock, monkeypatch):
    """Since searches choose what follows them; given how far the trials under way are."""
    monkeypatch.setattr(forecast.threading, "Thread", lambda target, daemon: SimpleNamespace(start=target))
    begun, works = [], iter([Work(first_stage=10), Work(first_stage=50)])
    found = Forecast(SimpleNamespace(queue=SimpleNamespace(under_way={})), lambda at: begun.append(at) or next(works))
    found.expect(COST, 1)
    clock.seconds = 21.0
    found.update("a", epoch(3))
    assert begun == [{}, {"a": 3}] and found.share() == pytest.approx(1 / 51)
