"""The whole path on a Ray cluster of this module's own: groups, clients, early stops, deaths."""

import json
import os
import signal

import pytest
import ray
import torch
from helpers.object_store import serve

from mldiv import records, tune
from mldiv.cluster import nodes
from mldiv.conduct import connect
from mldiv.fit import fit
from mldiv.plan import Plan, make_arm
from mldiv.records import find_trial, trial_folder
from mldiv.remote import Remote, working_copy
from mldiv.remote_store import open_store
from mldiv.store import Store
from mldiv.train import Resources

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def bucket():
    """An object store that every process of the cluster finds."""
    with serve() as url:
        connect("local")
        yield url
        ray.shutdown()


@pytest.fixture(autouse=True)
def nothing_left():
    """Every sweep gives everything back: no placement group, no actor, all processors free."""
    yield
    table = ray.util.placement_group_table()
    assert not [group for group in table.values() if group["state"] != "REMOVED"]
    named = {one["name"] for one in ray.util.list_named_actors(all_namespaces=True)}
    assert named <= {"AutoscalingCoordinator"}  # Ray's own, one per cluster
    for _ in range(100):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return
        __import__("time").sleep(0.1)
    raise AssertionError(f"still taken: {ray.available_resources()} of {ray.cluster_resources()}")


def plan(folder, config, seeds=(1,), samples=0, more=()):
    arms = [make_arm("plain", config, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", config, {}, ("alpha", "beta"))]
    return Plan([*arms, *more], folder, samples=samples, seeds=seeds)


def state(folder, trial):
    return torch.load(trial_folder(folder, trial) / "checkpoint.pt", weights_only=True)["pair"]


def assert_as_trained_alone(folder, config, tmp_path):
    """Bit for bit what this process makes of the same configuration."""
    alone = fit(config, trial_folder(tmp_path / "alone", config.id), store=Store(tmp_path / "alone store"))
    got, expected = state(folder, config.id), state(tmp_path / "alone", config.id)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert find_trial(folder, config.id).test == alone.test


def broker():
    (actor,) = [one for one in ray.util.list_named_actors(all_namespaces=True) if one["name"].startswith("broker-")]
    return ray.get_actor(actor["name"], namespace=actor["namespace"])


def test_search_and_repeats_as_trained_alone(tiny, tmp_path):
    seen = []
    one = plan(tmp_path / "study", tiny, seeds=(1, 2), samples=2)
    tune.run(one, tmp_path / "study", resources=Resources(), progress=lambda trial, result: seen.append((trial, result)))
    assert one.done and one.answered == one.trials() == 6
    assert {find_trial(tmp_path / "study", item.trial).status for item in one.assignments} == {"finished"}
    assert {trial for trial, result in seen if result.get("ended")} == {item.trial for item in one.assignments}
    assert records.read_assignments(tmp_path / "study") == one.assignments
    found = [find_trial(tmp_path / "study", item.trial) for item in one.assignments]
    assert all(sum(record.cost[name] for name in ("epochs_trained", "epochs_shared")) == 4 for record in found)
    assert sum(record.cost["epochs_shared"] for record in found) >= 2 * 2  # both arms begin at the defaults, and so on
    assert sum(record.cost["pretraining_epochs_trained"] for record in found) == 3  # one for each of three seeds
    assert not list((tmp_path / "study" / "store" / "references").glob("*"))
    chosen = one.chosen()["both"]
    # the last trial of each arm was trained by a group that had trained others before
    for changes in ({"alpha": 0.0, "beta": 0.0}, chosen):
        assert_as_trained_alone(tmp_path / "study", tiny.replace(seed=2, **changes), tmp_path)
    again = plan(tmp_path / "study", tiny, seeds=(1, 2), samples=2)
    assert again.next() is None and again.done


def test_a_group_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="lower --workers"):
        Resources(workers=64).groups(nodes(), 3)


def test_the_broker_is_lost(tiny, tmp_path):
    """The study ends with the reason; started again, it ends as it should."""
    config, lost = tiny.replace(epochs=16, switch_epoch=10), []

    def progress(trial, result):
        if not lost and result.get("epoch", 0) >= 3:
            lost.append(trial)
            ray.kill(broker())

    with pytest.raises(RuntimeError, match="process between trials and worker groups, has died"):
        tune.run(plan(tmp_path / "study", config), tmp_path / "study", resources=Resources(), groups=1, progress=progress)
    assert find_trial(tmp_path / "study", lost[0]).status == "running"
    assert len(list(records.read_lines(trial_folder(tmp_path / "study", lost[0]) / "metrics.jsonl"))) >= 4
    again = plan(tmp_path / "study", config)
    tune.run(again, tmp_path / "study", resources=Resources(), groups=1)
    assert {find_trial(tmp_path / "study", item.trial).status for item in again.assignments} == {"finished"}
    assert_as_trained_alone(tmp_path / "study", config.replace(seed=1), tmp_path)


def test_no_group_can_start(tiny, tmp_path, monkeypatch):
    """The study ends with the reason, and no trial is told to have ended."""

    def fit(trainer):
        raise RuntimeError("nowhere to start")

    monkeypatch.setattr("mldiv.train.TorchTrainer.fit", fit)
    one = plan(tmp_path, tiny)
    with pytest.raises(RuntimeError, match="every worker group failed; the last one: nowhere to start"):
        tune.run(one, tmp_path, resources=Resources())
    assert one.answered == 0


def test_asha_stops_searched_trials_after_the_switch_and_no_repeat(tiny, tmp_path):
    """On real groups: nobody is judged in stage one; what was stopped is pruned and in no table; repeats are whole."""
    config = tiny.replace(epochs=14, switch_epoch=4)
    arm = make_arm("both", config, {}, ("lr",))
    one = Plan([arm], tmp_path, samples=8, seeds=(1, 2), batch=4)
    scheduler = tune.AfterSwitch.of([arm], config)
    tune.run(one, tmp_path, resources=Resources(), scheduler=scheduler)
    ends = {item.trial: (item.phase, find_trial(tmp_path, item.trial)) for item in one.assignments}
    stopped = [record for phase, record in ends.values() if record.status == "stopped"]
    assert stopped and all(4 < record.epochs < 14 for record in stopped)
    assert all(record.status == "finished" for phase, record in ends.values() if phase == "repeat")
    assert not any(record.test for record in stopped)
    states = [trial.state.name for trial in arm.study.trials]
    assert states.count("PRUNED") == len(stopped) and "COMPLETE" in states


@pytest.mark.parametrize("stored", [False, True], ids=["on a disk", "on an object store"])
def test_what_dies_and_what_fails(tiny, tmp_path, bucket, stored):
    """A worker and two idle clients are killed, a trial fails for its settings; the others end as trained alone on a disk.

    Of a client that dies between two trials Tune makes the next trial's error, and restarts nothing.
    """
    config, hit, ends = tiny.replace(epochs=16, switch_epoch=10), [], []
    bad = make_arm("bad", config.replace(data="cifar10", data_root=str(tmp_path / "nowhere")), {}, ())

    def progress(trial, result):
        if not hit and result.get("epoch", 0) >= 3:
            held = ray.get(broker().state.remote())
            group = next(group for group, held_trial in held["holding"].items() if held_trial == trial)
            hit.append(trial)
            os.kill(held["pids"][group][-1], signal.SIGKILL)
        if result.get("ended"):
            ends.append((trial, result["status"]))
            if len(ends) in (1, 2):
                os.kill(result["pid"], signal.SIGKILL)

    place = f"{bucket}/study" if stored else tmp_path / "study"
    store = open_store(f"{bucket}/trunks") if stored else None
    with working_copy(place, fetch=False) as copy:
        one = plan(copy.local, config, seeds=(1, 2), samples=1, more=[bad])
        tune.run(one, copy, resources=Resources(), progress=progress, store=store)
        assert one.done
        failed = {item.trial for item in one.assignments if item.arm == "bad"}
        assert dict(ends) == {item.trial: "failed" if item.trial in failed else "finished" for item in one.assignments}
        assert len(ends) == len(dict(ends))  # nobody saw that a trial was brought twice
    trial = f"trials/{bad.config.replace(seed=1).id}"
    text = Remote(f"{place}/{trial}").read("trial.json") if stored else (place / trial / "trial.json").read_text()
    assert all(part in json.loads(text)["reason"] for part in ("DataError", "Traceback", "nowhere"))
    with working_copy(place) as copy:  # as the next run finds it
        first = find_trial(copy.local, hit[0])
        assert first.attempts == 2
        lines = records.read_lines(trial_folder(copy.local, first.id) / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == list(range(16))
        for changes in ({"alpha": 0.0, "beta": 0.0}, {}):
            assert_as_trained_alone(copy.local, config.replace(seed=1, **changes), tmp_path)
