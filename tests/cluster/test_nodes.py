"""Several Ray nodes: groups that lie on two, more trials than processors, and deaths of workers, trial actors and nodes."""

import pytest
import ray
from helpers import chaos

from mldiv import tune
from mldiv.plan import Plan, make_arm
from mldiv.records import find_trial
from mldiv.train import Resources

pytestmark = pytest.mark.ray


SHORT = chaos.CONFIG.replace(epochs=2, switch_epoch=1)


@pytest.fixture(scope="module")
def cluster():
    with chaos.nodes(4) as cluster:
        yield cluster


def placed():
    """Living actors by class, with the node that each is on."""
    return [(one["ActorClassName"], one["Address"]["NodeID"]) for one in ray._private.state.actors().values()
            if one["State"] == "ALIVE"]  # fmt: skip


def test_a_trial_on_two_nodes(cluster, tmp_path):
    """Every node has one processor: a group of two workers lies on two."""
    one, seen = Plan([make_arm("both", SHORT, {}, ())], tmp_path, samples=0, seeds=(1, 2)), set()

    def progress(trial, result):
        seen.update(node for name, node in placed() if "Worker" in name)

    tune.run(one, tmp_path, resources=Resources(workers=2), groups=1, progress=progress)
    found = [find_trial(tmp_path, item.trial) for item in one.assignments]
    assert [record.status for record in found] == ["finished"] * 2 and len(seen) >= 2
    assert all(record.environment["world_size"] == 2 for record in found)


def test_32_trials_on_four_processors(cluster, tmp_path):
    """Clients, groups and the phase of shared first stages come through; the broker is where the driver is."""
    arms = [make_arm(str(alpha), SHORT, {"alpha": float(alpha)}, ()) for alpha in range(8)]
    one, brokers, groups = Plan(arms, tmp_path, samples=0, seeds=(1, 2, 3, 4)), set(), set()

    def progress(trial, result):
        now = placed()
        brokers.update(node for name, node in now if name == "Broker")
        groups.add(sum("Worker" in name for name, _ in now))

    tune.run(one, tmp_path, resources=Resources(), progress=progress)
    assert one.done and {find_trial(tmp_path, item.trial).status for item in one.assignments} == {"finished"}
    assert len({item.trial for item in one.assignments}) == 32 and max(groups) == 4
    assert brokers == {ray.get_runtime_context().get_node_id()}


@pytest.mark.parametrize("seed", [1, 2])
def test_deaths(cluster, tmp_path, seed):
    """A worker, a trial's actor, a node and a warned node die; benchmarks/faults.py goes through 20 seeds."""
    chaos.undisturbed(chaos.CONFIG, tmp_path / "undisturbed")
    taken = chaos.sweep(cluster, chaos.CONFIG, tmp_path / "study", seed, deaths=4)
    assert len(taken) == 4
    assert chaos.assert_equal(tmp_path / "study", tmp_path / "undisturbed") >= 1
