"""ASHA compares searched trials of one arm and seed, after the switch, at equal epochs; repeats it leaves alone."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from helpers import synthetic_records

from mldiv.cluster.early_stopping import AfterSwitch
from mldiv.config import TrialConfig
from mldiv.records.contents import TrialTask
from mldiv.settings.setting import Steps
from mldiv.storage.object_store import SyncedFolder
from mldiv.sweep.arm import make_arm

CONTINUE, STOP = "CONTINUE", "STOP"


def trial(number, bracket):
    task = TrialTask(trial=f"trial {number}", config={}, folder="", store=None, store_limit=0, bracket=bracket)
    return SimpleNamespace(trial_id=f"t{number}", config=asdict(task))


def play(scheduler, trials, epochs, nll):
    """Every trial reports every epoch, epoch by epoch; for each the epoch at which it was told to stop, or None."""
    stopped = {}
    for epoch in range(epochs):
        for number, trial in enumerate(trials):
            if trial.trial_id not in stopped:
                answer = scheduler.on_trial_result(None, trial, {"epoch": epoch, "nll": nll(number, epoch)})
                if answer == STOP:
                    stopped[trial.trial_id] = epoch
    return [stopped.get(trial.trial_id) for trial in trials]


def test_nobody_is_judged_before_the_switch():
    """Who is worst in stage one, and best after, must not be stopped for it."""
    trials = [trial(number, "rbf, seed 0") for number in range(4)]
    ends = play(AfterSwitch(first=20, epochs=30), trials, 30, lambda number, epoch: -number if epoch < 20 else number)
    assert ends[0] is None and min(end for end in ends if end is not None) >= 21
    assert sum(end is not None for end in ends) >= 2


def test_arms_seeds_and_repeats_are_not_compared():
    each = [trial(0, "rbf, seed 0"), trial(1, "cosine, seed 0"), trial(2, "rbf, seed 10001"), trial(3, None), trial(4, None)]
    assert play(AfterSwitch(4, 12), each, 12, lambda number, epoch: number) == [None] * 5


def test_a_whole_trial_is_never_stopped_at_its_last_epoch():
    for epochs, first in ((12, 10), (12, 11), (12, 12), (300, 250), (4, 2)):
        trials = [trial(number, "rbf, seed 0") for number in range(4)]
        ends = play(AfterSwitch(first, epochs), trials, epochs, lambda number, epoch: number)
        assert all(end is None or first <= end < epochs - 1 for end in ends)


def test_a_trial_that_goes_on_after_a_comparison_is_not_in_it():
    """It was interrupted: what it scores later would be held against others, which have not come as far."""
    scheduler, (ahead, behind) = AfterSwitch(first=0, epochs=40), [trial(number, "rbf, seed 0") for number in range(2)]
    assert scheduler.on_trial_result(None, ahead, {"epoch": 14, "nll": 1.0}) == CONTINUE
    assert scheduler.on_trial_result(None, behind, {"epoch": 9, "nll": 2.0}) == CONTINUE
    assert scheduler.on_trial_result(None, ahead, {"epoch": 19, "nll": 1.0}) == CONTINUE
    assert scheduler.on_trial_result(None, behind, {"epoch": 19, "nll": 2.0}) == STOP, "at equal epochs they are compared"


def test_trials_that_earlier_runs_ended_are_compared_too(tmp_path):
    """A study that goes on compares as one that was never interrupted."""
    for number, status in enumerate(("finished", "stopped", "running")):
        synthetic_records.write(tmp_path, f"trial {number}", 0.5 - number / 10, 0.9, 0, 0, status)
    scheduler = AfterSwitch(first=8, epochs=12)
    scheduler.take_recorded(dict.fromkeys(("trial 0", "trial 1", "trial 2", "trial 3"), "rbf, seed 0"), SyncedFolder(tmp_path))
    assert scheduler.compared == {"trial 0", "trial 1"}
    trials = [trial(number, "rbf, seed 0") for number in (3, 4)]
    assert play(scheduler, trials, 12, lambda number, _: 99.0 * number) == [None, 8]


@pytest.mark.parametrize(
    ("switch", "searched", "ranges", "first"),
    [
        (200, (), {}, 200),
        (200, ("switch_epoch",), {}, 250),
        (280, ("switch_epoch",), {}, 280),
        (200, ("switch_epoch",), {"switch_epoch": Steps(150, 270)}, 270),
    ],
)
def test_the_first_comparison_waits_for_the_latest_switch(switch, searched, ranges, first):
    base = TrialConfig(epochs=300, switch_epoch=switch)
    changes = {"plain": {"alpha": 0.0, "beta": 0.0}, "both": {}}
    arms = [make_arm(name, base, own, searched, ranges) for name, own in changes.items()]
    assert AfterSwitch.of(arms, base).first == first
    assert AfterSwitch.of(arms[:1], base).first == first, "a stage two that restarts is one without terms too"
