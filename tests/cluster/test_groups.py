"""The number of worker groups follows the cluster and the work, on a cluster of two nodes that this module starts itself."""

import itertools

import pytest
import ray
from ray.cluster_utils import Cluster

from mldiv import train, tune
from mldiv.conduct import connect
from mldiv.plan import Plan, make_arm
from mldiv.records import find_trial
from mldiv.train import Resources

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster():
    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    connect(one.address)
    yield one
    ray.shutdown()
    one.shutdown()


def test_groups_come_with_nodes_and_go_with_the_work(tiny, tmp_path, cluster, monkeypatch):
    """One group on one processor; a second one when a node joins; one again when only the long trial is left, which is then
    stopped. The cluster is asked for both as long as there is work for them, and for nothing in the end."""
    asked, request = [], train.request_resources
    monkeypatch.setattr(train, "request_resources", lambda bundles: asked.append(bundles) or request(bundles=bundles))
    short = tiny.replace(epochs=20, switch_epoch=10)
    arms = [make_arm(f"short {alpha}", short, {"alpha": float(alpha)}, ()) for alpha in range(1, 7)]
    arms.append(make_arm("long", tiny.replace(epochs=5000, switch_epoch=5000), {}, ()))
    plan = Plan(arms, tmp_path, samples=0, seeds=(1,))
    free: list[float] = []

    def progress(trial, result):
        if not free:
            cluster.add_node(num_cpus=1, include_dashboard=False)
        free.append(ray.available_resources().get("CPU", 0.0))

    def stop(trial, result):
        return min(free, default=1) < 0.3 and free[-1] > 0.8 and plan.trials() - plan.answered == 1

    tune.run(plan, tmp_path, resources=Resources(), groups=2, progress=progress, stop=stop)
    ends = {item.arm: find_trial(tmp_path, item.trial).status for item in plan.assignments}
    assert ends.pop("long") == "stopped" and set(ends.values()) == {"finished"}
    one = {"CPU": 0.9}
    assert [wanted for wanted, _ in itertools.groupby(asked)] == [[one] * 2, [one], []]
