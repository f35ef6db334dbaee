"""Sweeps on groups of processes, each a real TorchTrainer: on two nodes, killed, failing, coming and going with nodes."""

import contextlib
import itertools
import json
import math
import os
import signal
from pathlib import Path

import pytest
import ray
from helpers import chaos, clusters
from helpers.clusters import busy, set_nodes
from helpers.plugins import forget_all
from helpers.sweeps import assert_as_trained_alone, broker, make_plan, placed
from ray.tune.schedulers import FIFOScheduler

from mldiv.cli.execute import elsewhere
from mldiv.cluster import process_group, tuner, worker_groups
from mldiv.cluster.nodes import Resources
from mldiv.plugins import loading
from mldiv.records import checked_files
from mldiv.records.study_files import find_trial, trial_folder
from mldiv.storage.object_store import Remote, working_copy
from mldiv.storage.remote_cache import open_store
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin" / "cauchy.py"

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("nothing_left")]


def test_what_dies_and_what_fails(small, tmp_path, cluster):
    """A worker and two idle clients are killed, a trial fails for its settings; the others end as trained alone on a disk.

    All of it on an object store, where each end must be pushed and pulled; on a disk: `test_deaths` and test_sweep.py.

    Of a client that dies between two trials Tune makes the next trial's error, and restarts nothing.
    """
    config, hit, ends = small.replace(epochs=16, switch_epoch=10), [], []
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

    place, store = f"{cluster.bucket}/study", open_store(f"{cluster.bucket}/trunks")
    with working_copy(place, fetch=False) as copy:
        plan = make_plan(copy.local, config, seeds=(1,), samples=1, more=[bad])
        tuner.run(plan, copy, resources=Resources(), groups=1, progress=progress, store=store)
        assert plan.done
        failed = {item.trial for item in plan.assignments if item.arm == "bad"}
        assert dict(ends) == {item.trial: "failed" if item.trial in failed else "finished" for item in plan.assignments}
        assert len(ends) == len(dict(ends))  # nobody saw that a trial was brought twice
    trial = f"trials/{bad.config.replace(seed=1).id}"
    text = Remote(f"{place}/{trial}").read("trial.json")
    assert all(part in json.loads(text)["reason"] for part in ("DataError", "Traceback", "nowhere"))
    with working_copy(place) as copy:  # as the next run finds it
        first = find_trial(copy.local, hit[0])
        assert first.attempts == 2
        lines = checked_files.read_lines(trial_folder(copy.local, first.id) / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == list(range(16))
        for changes in ({"alpha": 0.0, "beta": 0.0}, {}):
            assert_as_trained_alone(copy.local, config.replace(seed=1, **changes), tmp_path)


@pytest.fixture
def plugged():
    """A function that makes a longer trial of the example plug-in's kernel, network and data."""
    loading.load([loading.find(str(EXAMPLE))])
    own = {"data": "stripes", "arch": "two_layers", "kernel": "cauchy", "kernel_tail": 2.0}
    yield lambda config: config.replace(epochs=16, switch_epoch=10, **own)
    forget_all()


def test_steps_are_timed_beside_in_a_process_of_their_own(cluster):
    """In a thread of the driver, whose variables Ray sets meanwhile, a study now and then ended in a segmentation fault."""
    assert elsewhere(os.getpid) not in (os.getpid(), None)


@pytest.mark.slow
def test_a_rank_that_dies(cluster, small, plugged, tmp_path, monkeypatch):
    """One of two, on two nodes, for every node has one processor, and not the one that tells the broker: what the other hears
    of it is no failure of the trial, which goes on. Before that the two fail to meet, and what they held is given back.

    Kernel, network and data are a plug-in's, which every process loads, those that come for the dead too.
    """
    monkeypatch.setattr(worker_groups, "ProcessGroup", late_for_once(tmp_path / "late"))
    plan = Plan([make_arm("both", plugged(small), {}, ())], tmp_path, samples=0, seeds=(1,))
    killed, seen = [], set()

    def progress(trial, result):
        seen.update(node for name, node in placed() if "Worker" in name)
        if not killed and result.get("epoch", 0) >= 3:
            told = {pid for pids in ray.get(broker().state.remote())["pids"].values() for pid in pids}
            workers = {pid for pid, title in clusters.processes(cluster).items() if title.startswith("ray::RayTrainWorker")}
            killed.extend(workers - told)
            os.kill(killed[0], signal.SIGKILL)

    tuner.run(plan, tmp_path, resources=Resources(workers=2), groups=1, progress=progress)
    (record,) = (find_trial(tmp_path, item.trial) for item in plan.assignments)
    assert (record.status, record.attempts, len(killed)) == ("finished", 2, 1), record.reason
    assert len(seen) >= 2
    assert record.environment["world_size"] == 2
    assert record.environment["plugins"] == loading.hashes()
    assert record.config["kernel_own"] == "tail=2.0"
    assert math.isfinite(record.test["pair"]["nll"])
    assert (tmp_path / "late").exists()


def late_for_once(mark):
    """A process group the first of whose starts fails as when a worker dies meanwhile. Classes made here travel by value."""

    class Late(process_group._Backend):
        def on_start(self, worker_group, backend_config):
            if not mark.exists():
                mark.touch()
                raise ray.exceptions.RayActorError
            super().on_start(worker_group, backend_config)

    class LateGroup(process_group.ProcessGroup):
        backend_cls = Late

    return LateGroup


@pytest.mark.slow
def test_groups_come_with_nodes_and_go_with_the_work(small, tmp_path, cluster, monkeypatch):
    """One group on one processor; a second one when a node joins; one again when only the long trial is left, which is then
    stopped. The cluster is asked for both as long as there is work for them, and for nothing in the end.

    Nothing is started that nobody needs: an import of torch is 2 s of processor, an actor of Ray Train as many.
    """
    set_nodes(cluster, 0)
    asked, request = [], worker_groups.request_resources
    monkeypatch.setattr(worker_groups, "request_resources", lambda bundles: asked.append(bundles) or request(bundles=bundles))
    short = small.replace(epochs=20, switch_epoch=10)
    arms = [make_arm(f"short {alpha}", short, {"alpha": float(alpha)}, ()) for alpha in range(1, 7)]
    arms.append(make_arm("long", small.replace(epochs=5000, switch_epoch=5000), {}, ()))
    plan = Plan(arms, tmp_path, samples=0, seeds=(1,))
    free: list[float] = []
    seen: set[tuple[str, bool]] = set()

    def progress(trial, result):
        if len(free) % 25 == 0:
            seen.update((title, has_torch(process)) for process, title in busy(clusters.processes(cluster)).items())
        if not free:
            set_nodes(cluster, 1)
        free.append(ray.available_resources().get("CPU", 0.0))

    class StopTheLast(FIFOScheduler):
        def on_trial_result(self, controller, trial, result):
            alone = min(free, default=1) < 0.3 and free[-1] > 0.8 and plan.trials() - plan.answered == 1
            return self.STOP if alone else self.CONTINUE

    tuner.run(plan, tmp_path, resources=Resources(), groups=2, progress=progress, scheduler=StopTheLast())
    ends = {item.arm: find_trial(tmp_path, item.trial).status for item in plan.assignments}
    assert ends.pop("long") == "stopped"
    assert set(ends.values()) == {"finished"}
    titles = " ".join(title for title, _ in seen)
    assert {title.split(".")[0] for title, torch in seen if torch} == {"ray::RayTrainWorker"}
    assert "DatasetManager" not in titles
    assert "PlacementGroupCleaner" not in titles
    processor = {"CPU": 0.9}
    assert [wanted for wanted, _ in itertools.groupby(asked)] == [[processor] * 2, [processor], []]


def has_torch(process):
    with contextlib.suppress(OSError):  # it has ended
        return "libtorch" in Path(f"/proc/{process}/maps").read_text()
    return False


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The folder of the sweep without deaths."""
    folder = tmp_path_factory.mktemp("quiet")
    chaos.undisturbed(chaos.CONFIG, folder)
    return folder


@pytest.mark.slow
def test_deaths(cluster, tmp_path, quiet):
    """A worker, a trial's actor, a node and a warned node die; benchmarks/faults.py goes through 20 seeds."""
    set_nodes(cluster, 3)
    taken = chaos.sweep(cluster, chaos.CONFIG, tmp_path / "study", seed=1, deaths=4)
    assert len(taken) == 4
    assert chaos.assert_equal(tmp_path / "study", quiet) >= 1
