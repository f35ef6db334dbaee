import random
from functools import partial

import optuna
import pytest
from helpers.fake_trials import ask, finish, score, train_all
from optuna.trial import TrialState

from mldiv.config import ConfigError, TrialConfig
from mldiv.method.kernels import KERNELS, kernel_parameters
from mldiv.sweep import plan as plan_module
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import COMMON_POINTS, Plan, journal
from mldiv.sweep.search_space import RANGES, suggest

SEARCHED = ("alpha", "beta", "temperature", "kernel", "switch_epoch")


BASE = TrialConfig(data="digits", epochs=12, switch_epoch=8)


def arms():
    changes = {"baseline": {"alpha": 0.0, "beta": 0.0}, "rbf": {"kernel": "rbf"}, "searched": {}}
    return [make_arm(name, BASE, change, SEARCHED) for name, change in changes.items()]


def make_plan(folder, **options):
    return Plan(arms(), folder, **({"samples": 4, "seeds": (1, 2), "batch": 2} | options))


def test_every_arm_is_searched_and_then_repeated(tmp_path):
    plan = make_plan(tmp_path)
    asked = train_all(plan, tmp_path)
    assert plan.done and plan.trials() == plan.answered == len(plan.assignments) == 3 * (4 + 2)
    assert sorted(config.id for config in asked) == sorted({item.trial for item in plan.assignments})
    assert {config.seed for config in asked} == {0, 1, 2}
    for arm in plan.arms:
        repeats = [item for item in plan.assignments if item.arm == arm.name and item.phase == "repeat"]
        assert [item.seed for item in repeats] == [1, 2]
        best = min((trial.value for trial in arm.study.trials), default=None)
        chosen = arm.chosen()
        assert score(chosen) == pytest.approx(best)


def test_what_has_no_effect_or_is_fixed_is_not_searched():
    baseline, rbf, searched = arms()
    assert baseline.searched == ("temperature", "switch_epoch"), "stage two restarts there too"
    assert make_arm("x", BASE, {"alpha": 0.0, "beta": 0.0, "stage_schedule": "continue"}, SEARCHED).searched == ("temperature",)
    assert rbf.searched == ("alpha", "beta", "temperature", "switch_epoch")
    assert searched.searched == SEARCHED


def test_the_defaults_come_first(tmp_path):
    plan = make_plan(tmp_path)
    first = {}
    for config in train_all(plan, tmp_path):
        first.setdefault((config.kernel, config.alpha > 0), config)
    assert (first["cosine", True].alpha, first["cosine", True].beta) == (BASE.alpha, BASE.beta)


def test_arms_are_searched_at_common_points(tmp_path):
    """Each arm sees its part of the same points, however few settings it searches; TPE goes on from there."""
    plan = make_plan(tmp_path, samples=COMMON_POINTS + 3, seeds=(1,))
    train_all(plan, tmp_path)
    baseline, rbf, searched = ([trial.params for trial in arm.study.trials] for arm in plan.arms)
    for a, b, c in zip(baseline[:COMMON_POINTS], rbf, searched, strict=False):
        assert a["temperature"] == b["temperature"] == c["temperature"] and b["alpha"] == c["alpha"]
    assert len({point["temperature"] for point in baseline}) == COMMON_POINTS + 3
    assert baseline[COMMON_POINTS:] != [{"temperature": point["temperature"]} for point in rbf[COMMON_POINTS:]]


def beyond_the_common_points(folder, name):
    """A plan in which what TPE suggests depends on what it was told."""
    return make_plan(folder / name, samples=COMMON_POINTS + 4)


def test_a_seed_repeats_the_suggestions_whatever_the_timing(tmp_path, monkeypatch):
    def suggestions(folder, order):
        plan = beyond_the_common_points(folder.parent, folder.name)
        train_all(plan, folder, order)
        return [(item.arm, item.phase, item.trial) for item in sorted(plan.assignments, key=lambda i: (i.arm, i.phase))]

    straight = suggestions(tmp_path / "a", None)
    for seed in range(5):
        assert sorted(suggestions(tmp_path / f"{seed}", random.Random(seed))) == sorted(straight), seed
    monkeypatch.setattr(plan_module, "SEARCH_SEED", 7)
    assert sorted(suggestions(tmp_path / "other", None)) != sorted(straight)


@pytest.mark.parametrize("done", [0, 5, 25, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 9, 23, 26, 40))])
def test_started_again_it_goes_on_where_it_was(tmp_path, done):
    """Among the common points and among those that TPE suggests."""
    make = partial(beyond_the_common_points, tmp_path)
    whole = train_all(make("whole"), tmp_path / "whole")
    train_all(make("cut"), tmp_path / "cut", limit=done)
    trained = {path.name for path in (tmp_path / "cut" / "trials").glob("*")} if done else set()
    again = make("cut")
    rest = train_all(again, tmp_path / "cut")
    assert again.done
    assert {config.id for config in rest} | trained == {config.id for config in whole}
    assert not {config.id for config in rest} & trained
    assert make("cut").ask() is None


def test_ends_are_told_to_optuna_as_what_they_are(tmp_path):
    plan = Plan([arms()[2]], tmp_path, samples=4, seeds=(1,), batch=4)
    opened = ask(plan)
    assert len(opened) == 4 and plan.ask() is None and not plan.done
    for config, status in zip(opened, ("finished", "stopped", "diverged", None), strict=True):
        plan.tell(config.id, finish(tmp_path, config, status) if status else None)
    states = [trial.state for trial in plan.arms[0].study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert plan.ask().config.seed == 1


def test_an_arm_without_a_finished_search_has_no_repeats(tmp_path):
    plan = Plan([arms()[2]], tmp_path, samples=2, seeds=(1,), batch=2)
    assert plan.trials() == 3
    for config in ask(plan):
        plan.tell(config.id, finish(tmp_path, config, "diverged"))
    assert plan.ask() is None
    assert plan.done
    assert plan.trials() == plan.answered == 2, "no worker group is kept for what never comes"
    assert plan.chosen() == {}


def test_without_samples_the_defaults_are_repeated(tmp_path):
    plan = make_plan(tmp_path, samples=0)
    asked = train_all(plan, tmp_path)
    assert len(asked) == 6 and all(item.phase == "repeat" for item in plan.assignments)


def test_two_arms_that_ask_for_the_same_trial_train_it_once(tmp_path):
    base = TrialConfig(data="digits", epochs=12, switch_epoch=8)
    same = [make_arm(name, base, {}, ()) for name in ("one", "two")]
    plan = Plan(same, tmp_path, samples=0, seeds=(1,))
    assert len(train_all(plan, tmp_path)) == 1
    assert plan.done and len(plan.assignments) == 2


def test_the_journal_holds_a_named_study_per_arm(tmp_path):
    storage = journal(tmp_path / "optuna.journal")
    train_all(make_plan(tmp_path, storage=storage), tmp_path)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    assert sorted(names) == sorted(f"{tmp_path.name}: {arm.name}" for arm in arms())
    study = optuna.load_study(study_name=f"{tmp_path.name}: searched", storage=storage)
    assert all(trial.user_attrs["trials"] for trial in study.trials) and len(study.trials) == 4


def test_a_lock_that_a_killed_study_left_holds_up_no_other(tmp_path, monkeypatch):
    """Optuna would wait 30 s for it."""
    lock, seen = tmp_path / "optuna.journal.lock", []
    lock.symlink_to(tmp_path / "optuna.journal")
    monkeypatch.setattr(plan_module, "JournalStorage", lambda backend: seen.append(lock.is_symlink()))
    journal(tmp_path / "optuna.journal")
    assert seen == [False]


@pytest.mark.parametrize("name", RANGES)
def test_ranges_hold_the_default_and_give_valid_settings(name):
    own = name.removeprefix("kernel_")
    kernel = next((kernel for kernel in KERNELS if own in kernel_parameters(kernel)), "cosine")
    config = TrialConfig(epochs=30, switch_epoch=20, kernel=kernel)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        assert suggest(trial, config, (name,)).id
    assert trial.distributions[name]._contains(trial.distributions[name].to_internal_repr(getattr(config, name)))
    if name == "kernel":
        assert set(trial.distributions[name].choices) == set(KERNELS)


def test_unknown_changes_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'kernel'"):
        make_arm("x", TrialConfig(), {"kernl": "rbf"}, SEARCHED)
