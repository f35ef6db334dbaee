"""What a sweep leaves in a cluster with a dashboard, beside a second Ray on the machine: nothing, there and here.

A Ray alone, without a dashboard, is looked at after every test of test_sweep.py and test_worker_groups.py.
"""

import contextlib
import socket
from pathlib import Path

import pytest
import ray
from helpers import clusters
from helpers.processes import until
from ray.cluster_utils import Cluster

from mldiv.cluster import tuner
from mldiv.cluster.nodes import Resources
from mldiv.records import find_trial
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan

pytestmark = [pytest.mark.ray, pytest.mark.slow]

#: Titles of processes that Ray keeps for itself, one of each in a node, and of workers without work.
OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor")


@contextlib.contextmanager
def alone(cpus):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = {"num_cpus": cpus, "include_dashboard": True, "dashboard_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def joined(cluster):
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def groups():
    """The states of all placement groups that there ever were."""
    return [group["state"] for group in ray.util.placement_group_table().values()]


def busy(cluster):
    """The processes that do something for a driver: title -> id."""
    found = clusters.processes(cluster).items()
    return {title: process for process, title in found if title.startswith("ray::") and not title.startswith(OWN)}


def has_torch(process):
    with contextlib.suppress(OSError):  # it has ended
        return "libtorch" in Path(f"/proc/{process}/maps").read_text()
    return False


def test_nothing_is_left(small, shared_cluster, tmp_path):
    """And nothing is started that nobody needs: an import of torch is 2 s of processor, an actor of Ray Train as many."""
    arms = [make_arm("plain", small, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", small, {}, ("alpha",))]
    plan, seen = Plan(arms, tmp_path, samples=1, seeds=(1,)), set()
    other, cpus = shared_cluster, 1 + len(shared_cluster.worker_nodes)
    with alone(1) as cluster:

        def progress(trial, result):
            seen.update((title, has_torch(process)) for title, process in busy(cluster).items())

        with joined(cluster):
            tuner.run(plan, tmp_path, resources=Resources(), progress=progress)
            assert {find_trial(tmp_path, item.trial).status for item in plan.assignments} == {"finished"}
            assert set(groups()) == {"REMOVED"}
            until(lambda: not busy(cluster))
            until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"] == 1)
        titles = " ".join(title for title, _ in seen)
        assert "RayTrainWorker" in titles  # or the count above could not see one
        assert {title.split(".")[0] for title, torch in seen if torch} == {"ray::RayTrainWorker"}
        assert "DatasetManager" not in titles
        assert "PlacementGroupCleaner" not in titles
        until(lambda: not busy(cluster))
        assert not busy(other)
        with joined(other):
            assert set(groups()) <= {"REMOVED"}  # of the tests before
            assert ray.available_resources()["CPU"] == cpus
