"""Trials side by side, stepped together: the records of each as if it were alone, to the last digits."""

import time

import pytest
import torch
from helpers.first_stages import Killed, differing, results, train

from mldiv.records import checked_files
from mldiv.storage.cache import Store
from mldiv.training.fit import fitting
from mldiv.training.lanes import epoch, run
from mldiv.training.worker_cache import Workspace


def together(configs, folder, lanes=4, report=lambda line: False, publish=()):
    """Train them in lanes; their records by their places in the list."""
    workspace, waiting, ended = Workspace(lanes=lanes), iter(enumerate(configs)), {}

    def ask():
        place, config = next(waiting, (None, None))
        if config is None:
            return None
        store = Store(folder / "store")
        return place, fitting(config, folder / config.id, store=store, workspace=workspace, report=report, publish=publish)

    run.train_lanes(ask, ended.__setitem__, lanes)
    return [ended[place] for place in range(len(configs))]


@pytest.fixture
def small(tiny):
    return tiny.replace(initialization="scratch", ood="none", keep_predictions="none", lr=0.02)


@pytest.fixture
def groups(monkeypatch):
    """How many were trained together, epoch by epoch."""
    seen, real = [], epoch.train_epochs
    monkeypatch.setattr(run, "train_epochs", lambda epochs: seen.append(len(epochs)) or real(epochs))
    return seen


def numbers(value):
    """All numbers in nested dictionaries, in their order, but times."""
    if isinstance(value, dict):
        return [number for name, item in value.items() if name != "seconds" for number in numbers(item)]
    return [value] if isinstance(value, float) else []


def test_each_leaves_the_records_of_the_trial_alone(small, tmp_path, groups):
    """One breaks in its first epoch, and leaves; the next takes its place, an epoch behind the others."""
    broken = small.replace(seed=3, clip_norm=0.0)
    object.__setattr__(broken, "lr", 1e30)  # no study may set it so
    configs = [
        small,
        small.replace(seed=1, kernel="rbf", temperature=2.0, stage_two_kl_scale=0.0),
        broken,
        small.replace(alpha=0.0, beta=0.0, seed=2),
    ]
    began = time.perf_counter()
    found = together(configs, tmp_path / "lanes", lanes=3)
    assert sum(record.seconds for record in found) < time.perf_counter() - began
    assert [record.status for record in found] == ["finished", "finished", "diverged", "finished"]
    assert groups == [3, 3, 3, 3, 1]
    for config, record in zip(configs, found, strict=True):
        alone = train(config, tmp_path / "alone")
        assert record.environment.pop("lanes") == 3 and record.environment == alone.environment
        assert (record.reason, record.epochs, record.cost) == (alone.reason, alone.epochs, alone.cost)
        assert numbers(record.test) == pytest.approx(numbers(alone.test), rel=1e-3, abs=1e-4)
        lines = [list(checked_files.read_lines(tmp_path / place / config.id / "metrics.jsonl")) for place in ("lanes", "alone")]
        assert len(lines[0]) == len(lines[1]) == record.epochs
        for line, other in zip(*lines, strict=True):
            assert line.keys() == other.keys() and (line["epoch"], line["stage"]) == (other["epoch"], other["stage"])
            assert numbers(line) == pytest.approx(numbers(other), rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_what_was_interrupted_goes_on(small, tmp_path):
    """Killed after one lane's second epoch: each goes on from its own last one, to the same end."""
    configs = [small.replace(seed=seed) for seed in (0, 1)]

    def kill(line):
        if line["epoch"] == 1:
            raise Killed

    with pytest.raises(Killed):
        together(configs, tmp_path / "killed", report=kill)
    checkpoints = [torch.load(path, weights_only=True) for path in (tmp_path / "killed").glob("*/checkpoint.pt")]
    assert sorted(kept["epoch"] for kept in checkpoints) == [1, 2]
    assert [record.attempts for record in together(configs, tmp_path / "killed")] == [2, 2]
    together(configs, tmp_path / "whole")
    again = results(tmp_path / "killed" / configs[1].id)
    assert numbers(again["test"]) == pytest.approx(numbers(results(tmp_path / "whole" / configs[1].id)["test"]), rel=1e-3)


@pytest.mark.slow
def test_branches_of_a_seed_start_from_a_stage_one_made_in_lanes(small, tmp_path, groups):
    """And from none that was made alone, whose last digits are others; each stopped when it is told to."""
    leads = [small.replace(seed=seed) for seed in (0, 1)]
    train(leads[0], tmp_path, report=lambda line: line["epoch"] == 1)
    assert [record.cost["epochs_shared"] for record in together(leads, tmp_path / "a", publish=(2,))] == [0, 0]
    (tmp_path / "store").rename(tmp_path / "a" / "of one alone")
    branches = [leads[0].replace(alpha=0.5), leads[0].replace(kernel="rbf")]
    del groups[:]
    found = together(branches, tmp_path / "a", report=lambda line: line["epoch"] == 2)
    assert [(record.status, record.epochs, record.cost["epochs_shared"]) for record in found] == [("stopped", 3, 2)] * 2
    assert groups == [2]
    lines = [list(checked_files.read_lines(tmp_path / "a" / config.id / "metrics.jsonl")) for config in branches]
    assert differing(*({**line[1], "seconds": 0} for line in lines)) == [] and differing(lines[0][2], lines[1][2])


def test_what_goes_wrong_in_a_step_of_several_is_each_trials_end(small, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(epoch.LaneStep, "step", broken)
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        together([small, small.replace(seed=1)], tmp_path)
    assert caught.value.__notes__ == ["in a step of 2 trials at once (--lanes)"]


def test_one_that_has_ended_already_leaves_those_beside_it(small, tmp_path):
    once = {"epochs": 1, "switch_epoch": 1}
    configs = [small.replace(**once), small.replace(**once, seed=1)]
    together(configs[1:], tmp_path)
    assert [record.status for record in together(configs, tmp_path)] == ["finished", "finished"]


def test_trials_of_other_shapes_are_trained_in_turn(small, tmp_path, groups):
    once = {"epochs": 1, "switch_epoch": 1}
    configs = [small.replace(**once), small.replace(**once, width=0.5), small.replace(**once, peers=1)]
    assert {record.status for record in together(configs, tmp_path)} == {"finished"}
    assert groups == [1, 1, 1]
