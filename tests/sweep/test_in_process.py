"""A plan in this process, without Ray: the same records; failures are recorded, an interrupted one goes on."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_trials import finish

from mldiv.records.study_files import find_trial, read_assignments, trial_folder
from mldiv.storage.cache import Store
from mldiv.sweep import in_process
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan
from mldiv.training import attempt as attempt_module
from mldiv.training.fit import fit, fitting
from mldiv.training.lanes.run import count_lanes

MLDIV = Path(in_process.__file__).parents[1]


def make_plan(folder, tiny, **changes):
    arms = [make_arm("plain", tiny, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", tiny.replace(**changes), {}, ("alpha",))]
    return Plan(arms, folder, samples=2, seeds=(1,))


def test_every_trial_is_recorded_as_trained_alone(tiny, tmp_path):
    plan, heard = make_plan(tmp_path / "study", tiny), []
    in_process.run(
        plan, tmp_path / "study", store=Store(tmp_path / "store"), progress=lambda trial, line: heard.append((trial, line))
    )
    assert plan.done
    assert {item.phase for item in plan.assignments} == {"search", "repeat"}
    ended = {(trial, line.get("status")) for trial, line in heard if line.get("ended")}
    assert ended == {(item.trial, "finished") for item in plan.assignments}
    for item in plan.assignments:
        assert find_trial(tmp_path / "study", item.trial).status == "finished", item
    config = plan.arms[1].chosen().replace(seed=1)
    alone = fit(config, trial_folder(tmp_path / "alone", config.id), store=Store(tmp_path / "other"))
    assert find_trial(tmp_path / "study", config.id).test == alone.test
    assert sum(find_trial(tmp_path / "study", item.trial).cost["epochs_shared"] for item in plan.assignments) > 0


def test_trials_stepped_together_are_recorded_with_how_many(tiny, tmp_path):
    """Of two arms on two seeds: the plan is the same, and branches wait for their first stage."""
    tiny = tiny.replace(initialization="scratch", ood="none", epochs=2, switch_epoch=1, train_size=64)
    arms = [make_arm("plain", tiny, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", tiny, {"kernel": "rbf"}, ())]
    plan = Plan(arms, tmp_path / "study", samples=0, seeds=(1, 2))
    in_process.run(plan, tmp_path / "study", store=Store(tmp_path / "store"), lanes=3)
    found = [find_trial(tmp_path / "study", item.trial) for item in plan.assignments]
    assert [(record.status, record.environment["lanes"]) for record in found] == [("finished", 3)] * 4
    assert sum(record.cost["epochs_shared"] for record in found) == 2
    assert [count_lanes(*given) for given in ((None, "cpu"), (None, "cuda"), (3, "cpu"))] == [1, 4, 3]


def test_what_has_ended_is_assigned_whatever_comes(tiny, tmp_path, monkeypatch):
    """A kill in the second trial: the first one's arm and seed are on disk, and the analysis finds its record."""

    def killed(config, *args, **options):
        if trained:
            raise KeyboardInterrupt
        trained.append(config.id)
        return fitting(config, *args, **options)

    trained: list[str] = []
    monkeypatch.setattr(attempt_module, "fitting", killed)
    with pytest.raises(KeyboardInterrupt):
        in_process.run(make_plan(tmp_path, tiny), tmp_path, store=Store(tmp_path / "store"))
    assigned = read_assignments(tmp_path)
    assert assigned[0].trial == trained[0] and find_trial(tmp_path, trained[0]).status == "finished"


def test_a_trial_that_fails_leaves_its_traceback_and_the_others_go_on(tiny, tmp_path, monkeypatch):
    def broken(config, *args, **options):
        if config.seed == 1 and config.alpha > 0:
            raise RuntimeError("a rank died")
        return fitting(config, *args, **options)

    monkeypatch.setattr(attempt_module, "fitting", broken)
    plan = make_plan(tmp_path, tiny)
    in_process.run(plan, tmp_path, store=Store(tmp_path / "store"))
    ends = {item.arm: find_trial(tmp_path, item.trial) for item in plan.assignments if item.phase == "repeat"}
    assert ends["plain"].status == "finished"
    assert ends["both"].status == "failed"
    assert "RuntimeError: a rank died" in ends["both"].reason
    assert "Traceback" in ends["both"].reason
    monkeypatch.undo()
    again = make_plan(tmp_path, tiny)
    in_process.run(again, tmp_path, store=Store(tmp_path / "store"))
    assert {find_trial(tmp_path, item.trial).status for item in again.assignments} == {"finished"}


@pytest.mark.parametrize("trials", [0, 2])
def test_interrupted_after_some_trials_the_same_call_goes_on(tiny, tmp_path, monkeypatch, trials):
    """With a trainer that records at once."""
    trained, left = [], iter([True] * trials + [False])

    def recorded(config, folder, **options):
        yield from ()  # no epoch is asked for
        if not next(left):
            raise KeyboardInterrupt
        trained.append(config.id)
        return finish(folder.parents[1], config)

    monkeypatch.setattr(attempt_module, "fitting", recorded)
    plan = make_plan(tmp_path, tiny)
    with pytest.raises(KeyboardInterrupt):
        in_process.run(plan, tmp_path, store=Store(tmp_path / "store"))
    left = iter(lambda: True, None)
    assert len(trained) == len(list((tmp_path / "trials").glob("*/trial.json"))) == trials
    again = make_plan(tmp_path, tiny)
    in_process.run(again, tmp_path, store=Store(tmp_path / "store"))
    assert again.done
    assert again.recorded == trials
    assert sorted(trained) == sorted(item.trial for item in again.assignments)


def test_what_trials_may_still_start_from_is_referenced(tiny, tmp_path, monkeypatch):
    """So that another study's entries go first where a store is full, as in a study on Ray."""
    store, referenced = Store(tmp_path / "store"), []

    def recorded(config, folder, **options):
        yield from ()
        referenced.append([name.pattern for name in store.referenced()])
        return finish(folder.parents[1], config)

    monkeypatch.setattr(attempt_module, "fitting", recorded)
    plan = make_plan(tmp_path, tiny)
    in_process.run(plan, tmp_path, store=store)
    assert plan.done and all(referenced)


def file_of(name):
    return MLDIV.joinpath(*name.split(".")).with_suffix(".py")


def imported(name):
    """The modules that a module of mldiv imports, anywhere in it, and what it takes from them."""
    for node in ast.walk(ast.parse(file_of(name).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


@pytest.mark.parametrize("start", ["sweep.in_process", "training.step_cost"])
def test_nothing_that_it_imports_imports_ray(start):
    found, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        found.add(name)
        names = set(imported(name))
        assert not any(module.split(".")[0] == "ray" for module in names), f"mldiv.{name}"
        ours = {module.removeprefix("mldiv.") for module in names if module.startswith("mldiv.")}
        waiting += [module for module in ours - found if file_of(module).exists()]
    assert {"method.pair", "method.losses", "evaluation.metrics"} <= found


@pytest.mark.slow
def test_what_takes_seconds_is_not_imported_before_it_is_used():
    """Ray never is; scikit-learn, with which scipy.stats comes, and torchvision are needed by some data and at scoring."""
    code = """
import sys, mldiv.cli.run, mldiv.sweep.in_process, mldiv.training.step_cost
found = {"ray", "sklearn", "scipy.stats", "scipy.optimize", "torchvision"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_sharing_every_trial_trains_its_own_first_stage(tiny, tmp_path):
    """And leaves neither a store of its own nor anything in the study's."""
    arms = [make_arm("plain", tiny, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", tiny, {}, ())]
    plan, store = Plan(arms, tmp_path / "study", samples=0, seeds=(1,), share=False), Store(tmp_path / "store")
    in_process.run(plan, tmp_path / "study", store=store)
    assert plan.done
    assert store.entries() == {}
    for item in plan.assignments:
        cost = find_trial(tmp_path / "study", item.trial).cost
        assert (cost["epochs_trained"], cost["epochs_shared"], cost["pretraining_epochs_trained"]) == (4, 0, 1), item
        assert not (trial_folder(tmp_path / "study", item.trial) / "store").exists()
