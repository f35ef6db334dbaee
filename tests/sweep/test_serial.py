"""A plan in this process, without Ray: the same records; failures are recorded, a deadline ends it early."""

import subprocess
import sys

import pytest

from mldiv import serial
from mldiv.fit import fit
from mldiv.plan import Plan, make_arm
from mldiv.records import find_trial, trial_folder
from mldiv.store import Store


def plan(folder, tiny, **changes):
    arms = [make_arm("plain", tiny, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", tiny.replace(**changes), {}, ("alpha",))]
    return Plan(arms, folder, samples=2, seeds=(1,))


def test_every_trial_is_recorded_as_trained_alone(tiny, tmp_path):
    one, heard = plan(tmp_path / "study", tiny), []
    serial.run(
        one, tmp_path / "study", store=Store(tmp_path / "store"), progress=lambda trial, line: heard.append((trial, line))
    )
    assert one.done and {item.phase for item in one.assignments} == {"search", "repeat"}
    for item in one.assignments:
        record = find_trial(tmp_path / "study", item.trial)
        assert record.status == "finished" and (item.trial, "finished") in [
            (trial, line.get("status")) for trial, line in heard
        ]
    config = one.arms[1].chosen().replace(seed=1)
    alone = fit(config, trial_folder(tmp_path / "alone", config.id), store=Store(tmp_path / "other"))
    assert find_trial(tmp_path / "study", config.id).test == alone.test
    assert sum(find_trial(tmp_path / "study", item.trial).cost["epochs_shared"] for item in one.assignments) > 0


def test_a_trial_that_fails_leaves_its_traceback_and_the_others_go_on(tiny, tmp_path, monkeypatch):
    def broken(config, *args, **options):
        if config.seed == 1 and config.alpha > 0:
            raise RuntimeError("a rank died")
        return fit(config, *args, **options)

    monkeypatch.setattr(serial, "fit", broken)
    one = plan(tmp_path, tiny)
    serial.run(one, tmp_path, store=Store(tmp_path / "store"))
    ends = {item.arm: find_trial(tmp_path, item.trial) for item in one.assignments if item.phase == "repeat"}
    assert ends["plain"].status == "finished" and ends["both"].status == "failed"
    assert "RuntimeError: a rank died" in ends["both"].reason and "Traceback" in ends["both"].reason
    monkeypatch.undo()
    again = plan(tmp_path, tiny)
    serial.run(again, tmp_path, store=Store(tmp_path / "store"))
    assert {find_trial(tmp_path, item.trial).status for item in again.assignments} == {"finished"}


@pytest.mark.parametrize("trials", [0, 2])
def test_a_deadline_ends_it_and_the_same_call_goes_on(tiny, tmp_path, trials):
    left = iter([False] * trials + [True])
    one = plan(tmp_path, tiny)
    serial.run(one, tmp_path, store=Store(tmp_path / "store"), deadline=lambda: next(left))
    assert len(list((tmp_path / "trials").glob("*/trial.json"))) == trials
    again = plan(tmp_path, tiny)
    serial.run(again, tmp_path, store=Store(tmp_path / "store"))
    assert again.done and again.recorded >= trials


def test_no_ray_is_imported():
    code = "import sys, mldiv.serial, mldiv.scaling; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
