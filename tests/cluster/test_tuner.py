"""A plan as Tune's search: what it hands out, and what becomes of trials that Tune ends in an error."""

import pytest
from helpers.fake_trials import finish
from ray.tune.search import Searcher

from mldiv.cluster import tuner
from mldiv.cluster.trial_client import EMPTY
from mldiv.cluster.tuner import RETURNS, PlanSearch
from mldiv.config import from_dict
from mldiv.storage.cache import Store
from mldiv.storage.object_store import SyncedFolder
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan


@pytest.fixture
def search(tiny, tmp_path):
    plan = Plan([make_arm("one", tiny, {}, ())], tmp_path, samples=0, seeds=(1, 2))
    return PlanSearch(plan, SyncedFolder(tmp_path), Store(tmp_path / "store"), most_open=lambda: 2)


def test_a_trial_that_lost_its_client_is_brought_again(search):
    first, second = search.suggest("a"), search.suggest("b")
    search.on_trial_complete("a", error=True)
    assert search.plan.answered == 0 and search.suggest("c") == first
    for trial, task in (("b", second), ("c", first)):
        finish(search.plan.folder, from_dict(task["config"]))
        search.on_trial_complete(trial)
    assert search.plan.answered == 2 and search.suggest("d") == Searcher.FINISHED


def test_one_that_goes_on_losing_clients_ends(search):
    """And the others go on."""
    search.suggest("other")
    for number in range(RETURNS + 1):
        assert not search.plan.answered
        assert search.suggest(f"{number}")["trial"] == search.plan.assignments[1].trial
        search.on_trial_complete(f"{number}", error=True)
    assert search.plan.answered == 1 and search.suggest("more") is None and not search.again


def test_an_error_after_the_final_record_is_none(search):
    """The client died while it told the end."""
    task = search.suggest("a")
    finish(search.plan.folder, from_dict(task["config"]))
    search.on_trial_complete("a", error=True)
    assert search.plan.answered == 1 and search.suggest("b")["trial"] != task["trial"]


def test_a_trial_that_reaches_its_end_before_it_hears_that_it_is_stopped(tiny, tmp_path, monkeypatch):
    """Optuna is told what its record says, as it is by a later run."""
    monkeypatch.setattr(tuner, "LOOK_SECONDS", 0.0)
    arm, training = make_arm("one", tiny, {}, ("lr",)), set()
    plan = Plan([arm], tmp_path, samples=4, seeds=(1,))
    search = PlanSearch(plan, SyncedFolder(tmp_path), Store(tmp_path / "store"), lambda: 2, training.__contains__)
    for number in range(5):
        task = search.suggest(f"{number}")
        config = from_dict(task["config"])
        if number == 1:
            finish(tmp_path, config, "running")
            training.add(task["trial"])
            search.on_trial_complete(f"{number}", EMPTY | {"epoch": 2, "nll": 1.0})
            assert search.suggest("too early") is None
            training.clear()
        finish(tmp_path, config)
        search.on_trial_complete(f"{number}", EMPTY | {"status": "finished"})
    assert plan.done
    again = make_arm("one", tiny, {}, ("lr",))
    assert Plan([again], tmp_path, samples=4, seeds=(1,)).catch_up()
    assert [(trial.state, trial.params) for trial in arm.study.trials] == [
        (trial.state, trial.params) for trial in again.study.trials
    ]


def test_a_trial_that_fails_after_it_was_stopped_has_failed(tiny, tmp_path, monkeypatch):
    """The next run trains it again: its error is said, and Optuna hears of no early stop."""
    monkeypatch.setattr(tuner, "LOOK_SECONDS", 0.0)
    arm, training = make_arm("one", tiny, {}, ("lr",)), set()
    plan = Plan([arm], tmp_path, samples=1, seeds=(1,))
    search = PlanSearch(plan, SyncedFolder(tmp_path), Store(tmp_path / "store"), lambda: 2, training.__contains__)
    task = search.suggest("0")
    training.add(task["trial"])
    search.on_trial_complete("0", EMPTY | {"epoch": 2, "nll": 1.0})
    finish(tmp_path, from_dict(task["config"]), "failed")
    training.clear()
    search.suggest("1")
    assert task["trial"] in plan.failures
    assert [trial.state.name for trial in arm.study.trials] == ["FAIL"]


@pytest.mark.parametrize("written", [False, True])
def test_why_a_trial_failed_is_known_even_where_it_could_not_be_written(search, written):
    task = search.suggest("a")
    if written:
        finish(search.plan.folder, from_dict(task["config"]), "running")
    search.on_trial_complete("a", EMPTY | {"status": "failed", "reason": "OSError: [Errno 28] No space left on device"})
    assert search.plan.answered == 1
    assert search.plan.failures == {task["trial"]: "OSError: [Errno 28] No space left on device"}
