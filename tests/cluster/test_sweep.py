"""The whole path on a Ray cluster: plan, search, broker, clients and Tune, with worker groups that are threads of this process.

With groups of processes: test_worker_groups.py.
"""

import contextlib
import dataclasses
import threading

import pytest
import ray
from helpers.processes import until
from helpers.sweeps import assert_as_trained_alone, broker, make_plan, placed
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError

from mldiv.cluster import tuner, worker_groups
from mldiv.cluster.early_stopping import AfterSwitch
from mldiv.cluster.nodes import Resources, nodes
from mldiv.config import ConfigError, from_dict
from mldiv.records import checked_files, study_files
from mldiv.records.study_files import find_trial, trial_folder
from mldiv.storage.cache import Store
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan
from mldiv.training.fit import fit
from mldiv.training.lanes import run as lanes_run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("nothing_left", "threads")]


def without_data(config):
    return make_arm("without data", dataclasses.replace(config, data="cifar10", data_root="/proc/nowhere"), {}, ())


def of(plan, *arms):
    return [item for item in plan.assignments if item.arm in arms]


@pytest.fixture(scope="module")
def searched(small, cluster, threads, tmp_path_factory):
    """A sweep of three arms, one searched, one without its data, trained by one group: folder, plan, and what was reported."""
    folder, seen = tmp_path_factory.mktemp("searched"), []
    plan = make_plan(folder, small, seeds=(1, 2), samples=2, more=[without_data(small)])
    tuner.run(plan, folder, resources=Resources(), groups=1, progress=lambda trial, result: seen.append((trial, result)))
    return folder, plan, seen


def test_every_trial_is_trained_and_reported(searched):
    folder, plan, seen = searched
    assert plan.done
    assert plan.answered == plan.trials() == 8
    assert {find_trial(folder, item.trial).status for item in of(plan, "plain", "both")} == {"finished"}
    assert {trial for trial, result in seen if result.get("ended")} == {item.trial for item in plan.assignments}
    assert study_files.read_assignments(folder) == plan.assignments


def test_trials_share_first_stages_and_pretraining(searched):
    folder, plan, _ = searched
    found = [find_trial(folder, item.trial) for item in of(plan, "plain", "both")]
    assert all(sum(record.cost[name] for name in ("epochs_trained", "epochs_shared")) == 4 for record in found)
    assert sum(record.cost["epochs_shared"] for record in found) >= 2 * 2  # both arms begin at the defaults, and so on
    assert sum(record.cost["pretraining_epochs_trained"] for record in found) == 3  # one for each of three seeds
    assert not list((folder / "store" / "references").glob("*"))


def test_trials_are_as_trained_alone(searched, small, tmp_path):
    """Also the last of each arm, trained by a group that had trained others, and failed, before."""
    folder, plan, _ = searched
    for changes in ({"alpha": 0.0, "beta": 0.0}, plan.chosen()["both"]):
        assert_as_trained_alone(folder, small.replace(seed=2, **changes), tmp_path)


def test_a_trial_that_fails_says_why(searched):
    folder, plan, _ = searched
    failed = [find_trial(folder, item.trial) for item in of(plan, "without data")]
    assert [record.status for record in failed] == ["failed"] * 2
    for part in ("DataError", "Traceback", "nowhere"):
        assert part in failed[0].reason


def test_the_same_plan_again_trains_what_failed(searched, small):
    folder, _, _ = searched
    again = make_plan(folder, small, seeds=(1, 2), samples=2)
    assert again.ask() is None
    assert again.done
    again = make_plan(folder, small, seeds=(1, 2), samples=2, more=[without_data(small)])
    assert again.ask().config.data == "cifar10"


def test_a_group_that_cannot_be_is_refused(cluster):
    with pytest.raises(ConfigError, match="lower --workers"):
        Resources(workers=64).groups(nodes(), 3)


def test_the_broker_is_lost(small, tmp_path):
    """The study ends with the reason; started again, it ends as it should."""
    config, lost = small.replace(epochs=16, switch_epoch=10), []

    def progress(trial, result):
        if not lost and result.get("epoch", 0) >= 3:
            lost.append(trial)
            ray.kill(broker())

    with pytest.raises(RuntimeError, match="process between trials and worker groups, has died"):
        tuner.run(make_plan(tmp_path / "study", config), tmp_path / "study", resources=Resources(), groups=1, progress=progress)
    assert find_trial(tmp_path / "study", lost[0]).status == "running"
    assert len(list(checked_files.read_lines(trial_folder(tmp_path / "study", lost[0]) / "metrics.jsonl"))) >= 4
    again = make_plan(tmp_path / "study", config)
    tuner.run(again, tmp_path / "study", resources=Resources(), groups=1)
    assert {find_trial(tmp_path / "study", item.trial).status for item in again.assignments} == {"finished"}
    assert_as_trained_alone(tmp_path / "study", config.replace(seed=1), tmp_path)


def test_no_group_can_start(small, tmp_path, monkeypatch):
    """The study ends with the reason, though all fail in the same instant, and no trial is told to have ended."""
    monkeypatch.setattr(worker_groups, "nodes", lambda: [{"CPU": 1.0}] * 3)
    together = threading.Barrier(3)

    def nowhere(settings):
        together.wait(30)
        raise RuntimeError("nowhere\nto start")

    monkeypatch.setattr(worker_groups, "worker_loop", nowhere)
    plan = make_plan(tmp_path, small, seeds=(1, 2))
    with pytest.raises(RuntimeError, match="every worker group failed; the last one: nowhere to start"):
        tuner.run(plan, tmp_path, resources=Resources())
    assert plan.answered == 0


def test_groups_that_find_no_place_in_a_busy_cluster_wait_on(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(worker_groups, "ADAPT_SECONDS", 0.1)
    loop, late = worker_groups.worker_loop, []

    def too_late_at_first(settings):
        if len(late) <= worker_groups.MOST_FAILURES:
            late.append(settings["group"])
            raise ControllerError(WorkerGroupStartupTimeoutError(1))
        loop(settings)

    monkeypatch.setattr(worker_groups, "worker_loop", too_late_at_first)
    plan = make_plan(tmp_path, small)
    tuner.run(plan, tmp_path, resources=Resources(), groups=1)
    assert len(late) == worker_groups.MOST_FAILURES + 1 and plan.done
    assert capsys.readouterr().err.count("has found no place in the cluster yet") == len(late)


def test_the_only_group_is_lost_and_another_comes(small, tmp_path, monkeypatch):
    loop, lost = worker_groups.worker_loop, []

    def lose_one(settings):
        if not lost:
            lost.append(settings["group"])
            raise RuntimeError("its controller was lost")
        loop(settings)

    monkeypatch.setattr(worker_groups, "worker_loop", lose_one)
    plan = make_plan(tmp_path, small)
    tuner.run(plan, tmp_path, resources=Resources(), groups=1)
    assert lost == ["group-0"]
    assert {find_trial(tmp_path, item.trial).status for item in plan.assignments} == {"finished"}


def test_a_group_that_still_waits_for_a_place_when_all_is_trained(small, tmp_path, monkeypatch, capsys):
    """A cluster that others use, which gives it none: it hears of no end, and the study has its own."""
    monkeypatch.setattr(worker_groups, "nodes", lambda: [{"CPU": 1.0}] * 2)
    monkeypatch.setattr(worker_groups, "END_SECONDS", 0.5)
    loop, place = worker_groups.worker_loop, threading.Event()
    monkeypatch.setattr(
        worker_groups, "worker_loop", lambda settings: loop(settings) if settings["group"] == "group-0" else place.wait(60)
    )
    plan = make_plan(tmp_path, small)
    try:
        tuner.run(plan, tmp_path, resources=Resources(), groups=2)
    finally:
        place.set()
    assert plan.done
    assert "a worker group did not end within" in capsys.readouterr().err


def test_asha_stops_searched_trials_after_the_switch_and_no_repeat(small, tmp_path):
    """Nobody is judged in stage one; what was stopped is pruned and in no table; repeats are whole."""
    config = small.replace(epochs=14, switch_epoch=2)
    arm = make_arm("both", config, {}, ("lr",))
    plan = Plan([arm], tmp_path, samples=6, seeds=(1,), batch=6)
    tuner.run(plan, tmp_path, resources=Resources(), groups=1, scheduler=AfterSwitch.of([arm], config))
    ends = {item.trial: (item.phase, find_trial(tmp_path, item.trial)) for item in plan.assignments}
    stopped = [record for phase, record in ends.values() if record.status == "stopped"]
    assert stopped
    assert all(2 < record.epochs < 14 for record in stopped)
    assert all(record.status == "finished" for phase, record in ends.values() if phase == "repeat")
    assert not any(record.test for record in stopped)
    told = [(trial.state.name, trial.value) for trial in arm.study.trials]
    states = [state for state, _ in told]
    assert states.count("PRUNED") == len(stopped)
    assert "COMPLETE" in states
    again = make_arm("both", config, {}, ("lr",))
    assert Plan([again], tmp_path, samples=6, seeds=(1,), batch=6).catch_up()
    assert [(trial.state.name, trial.value) for trial in again.study.trials] == told


def test_groups_follow_the_nodes_and_the_work(small, tmp_path, monkeypatch):
    """One group on one processor, a second one when a second processor comes, none when the work is over; the cluster is asked
    for as many as there is work for. With real nodes: test_worker_groups.py."""
    present, most, asked = [{"CPU": 1.0}], [], []
    monkeypatch.setattr(worker_groups, "nodes", lambda: list(present))
    monkeypatch.setattr(worker_groups, "request_resources", lambda bundles: asked.append(len(bundles)))
    monkeypatch.setattr(worker_groups, "ADAPT_SECONDS", 0.2)
    start, made = tuner.Groups, []
    monkeypatch.setattr(tuner, "Groups", lambda *given, **more: made.append(start(*given, **more)) or made[0])
    arms = [make_arm(str(alpha), small, {"alpha": float(alpha)}, ()) for alpha in range(1, 6)]
    plan = Plan(arms, tmp_path, samples=0, seeds=(1,))

    def progress(trial, result):
        if made:
            most.append(made[0].count)
        if len(most) == 5:
            present.append({"CPU": 1.0})

    tuner.run(plan, tmp_path, resources=Resources(), groups=2, progress=progress)
    assert plan.answered == 5
    assert set(most[:5]) == {1}
    assert max(most) == 2
    assert made[0].count == 0
    assert max(asked) == 2
    assert asked[-1] == 0


@pytest.mark.slow
def test_8_trials_on_four_groups(small, tmp_path, monkeypatch):
    """Clients, groups and the phase of shared first stages come through; the broker is where the driver is."""
    monkeypatch.setattr(worker_groups, "nodes", lambda: [{"CPU": 1.0}] * 4)
    config = small.replace(epochs=2, switch_epoch=1)
    arms = [make_arm(str(alpha), config, {"alpha": float(alpha)}, ()) for alpha in range(4)]
    plan, brokers, groups = Plan(arms, tmp_path, samples=0, seeds=(1, 2)), set(), set()

    def progress(trial, result):
        brokers.update(node for name, node in placed() if name == "Broker")
        groups.update(ray.get(broker().state.remote())["pids"])

    tuner.run(plan, tmp_path, resources=Resources(), progress=progress)
    assert plan.done
    assert {find_trial(tmp_path, item.trial).status for item in plan.assignments} == {"finished"}
    assert len({item.trial for item in plan.assignments}) == 8
    assert len(groups) == 4
    assert brokers == {ray.get_runtime_context().get_node_id()}


def test_a_worker_that_cannot_begin_says_why_at_once(small, tmp_path, monkeypatch):
    """Where trying again cannot help: the study ends with the reason, of the first group, at its first try."""
    began = []

    def broken(device, lanes):
        began.append(device)
        raise ImportError("no module named 'plug_in'")

    monkeypatch.setattr(worker_groups, "Workspace", broken)
    plan = make_plan(tmp_path, small)
    with pytest.raises(RuntimeError, match=r"^ImportError: no module named 'plug_in'$"):
        tuner.run(plan, tmp_path, resources=Resources(), groups=1)
    assert len(began) == 1
    assert plan.answered == 0


def test_trials_in_lanes_are_as_trained_alone(small, tmp_path, monkeypatch):
    """Up to rounding, which small steps do not blow up. A group that starts anew trains what it held alone, then in lanes."""
    small = small.replace(lr=0.02)
    held, alone, together = [], [], []
    lanes, train, step = worker_groups.train_lanes, worker_groups._train, lanes_run.train_epochs

    def dies_once(ask, end, most):
        while len(held) < most:  # until Tune has brought them
            held.extend(trial for (_, trial), _ in filter(None, [ask()]))
            if len(held) == most:
                raise ray.exceptions.WorkerCrashedError
        if not together:
            until(lambda: len(ray.get(broker().state.remote())["waiting"]) >= most)
        lanes(ask, end, most)

    def run_twice(groups, settings):
        with contextlib.suppress(ray.exceptions.WorkerCrashedError):
            worker_groups.worker_loop(settings)
        worker_groups.worker_loop(settings)

    monkeypatch.setattr(worker_groups, "train_lanes", dies_once)
    monkeypatch.setattr(worker_groups, "_train", lambda *given: alone.append(given[2].trial) or train(*given))
    monkeypatch.setattr(lanes_run, "train_epochs", lambda asked: together.append(len(asked)) or step(asked))
    monkeypatch.setattr(worker_groups.Groups, "_run_trainer", run_twice)
    arms = [make_arm("plain", small, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", small, {}, ())]
    plan = Plan(arms, tmp_path, samples=0, seeds=(1, 2), share=False)  # so that all begin alike
    tuner.run(plan, tmp_path, resources=Resources(), groups=1, lanes=2)
    assert len(held) == 2
    assert sorted(alone) == sorted(held)
    assert max(together) == 2
    assert {find_trial(tmp_path, item.trial).status for item in plan.assignments} == {"finished"}
    last = next(item.trial for item in plan.assignments if item.trial not in held)
    found = find_trial(tmp_path, last)
    expected = fit(from_dict(found.config), trial_folder(tmp_path / "alone", last), store=Store(tmp_path / "alone store"))
    assert found.test["pair"]["nll"] == pytest.approx(expected.test["pair"]["nll"], rel=1e-3)
    lines = [
        checked_files.read_lines(trial_folder(folder, last) / "metrics.jsonl") for folder in (tmp_path, tmp_path / "alone")
    ]
    losses, alone_losses = ([line["train"]["total"] for line in of] for of in lines)
    assert losses == pytest.approx(alone_losses, rel=1e-5)
