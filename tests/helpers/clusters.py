"""The run's one Ray cluster, its nodes, and what a sweep on it must leave behind: nothing."""

import contextlib
from collections.abc import Iterator

import ray
from ray.cluster_utils import Cluster

from helpers import object_store
from helpers.processes import running, until
from mldiv.cluster.nodes import connect


@contextlib.contextmanager
def start() -> Iterator[Cluster]:
    """A head and a node of one processor each, and an object store that all processes find: ``bucket``."""
    with object_store.serve() as bucket:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            set_nodes(cluster, 1)
            cluster.bucket = bucket
            yield cluster
        finally:
            cluster.shutdown()


@contextlib.contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """This process is the cluster's driver meanwhile."""
    connect(cluster.address)
    try:
        yield
    finally:
        ray.shutdown()


def set_nodes(cluster: Cluster, count: int) -> None:
    """So many nodes of one processor each beside the head."""
    while len(cluster.worker_nodes) < count:
        cluster.add_node(num_cpus=1, include_dashboard=False)
    while len(cluster.worker_nodes) > count:
        cluster.remove_node(max(cluster.worker_nodes, key=lambda node: node.node_id), allow_graceful=True)
    cluster.wait_for_nodes()


def processes(cluster: Cluster) -> dict[int, str]:
    """What the raylets of this cluster have started, for others on the machine have their own: id -> title."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    return {pid: title.strip() for pid, parent, title in running() if parent in raylets}


#: Titles of processes that Ray keeps for itself, one of each in a node, and of workers without work.
OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor")


def busy(started: dict[int, str]) -> dict[int, str]:
    """Of processes, id -> title, those that do something for a driver."""
    return {pid: title for pid, title in started.items() if title.startswith("ray::") and not title.startswith(OWN)}


def assert_nothing_left(cluster: Cluster) -> None:
    """No placement group, no actor or process of ours, all processors free."""
    until(lambda: {group["state"] for group in ray.util.placement_group_table().values()} <= {"REMOVED"}, 20)
    named = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    assert named <= {"AutoscalingCoordinator"}  # Ray's own, one per cluster
    until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], 20)
    until(lambda: not busy(processes(cluster)), 20)
