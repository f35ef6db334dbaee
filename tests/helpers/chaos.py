"""Sweeps whose workers, trial actors, nodes and driver are killed at random moments, and what must be the same in the end."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from unittest import mock

import optuna
import ray
import torch
from ray.cluster_utils import Cluster

from helpers import clusters
from helpers.processes import joint_search
from mldiv.cluster import broker, tuner, worker_groups
from mldiv.cluster.broker import Broker
from mldiv.cluster.nodes import Resources
from mldiv.config import TrialConfig
from mldiv.records import checked_files, study_files
from mldiv.records.study_files import find_trial, trial_folder
from mldiv.storage.cache import Store
from mldiv.sweep import in_process
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan, journal

#: A trial of a second or two: its numbers need be the same, not good.
CONFIG = TrialConfig(
    data="digits", train_size=64, test_size=32, validation_size=32, arch="resnet8", width=0.25, epochs=64, switch_epoch=48,
    pretrain_epochs=1, batch_size=32, lr=0.05, validation_samples=2, test_samples=2, fusion_dim=16, scale_batches=2,
)  # fmt: skip
#: Process titles of Ray's workers by what they are to the sweep.
TITLES = {"worker": "ray::RayTrainWorker", "actor": "ray::ImplicitFunc"}
#: How often a trial may lose its group between two epochs. Deaths come faster here than groups start: three of one trial's, all
#: that the product allows, do happen.
ATTEMPTS = 10
#: Seconds from a spot machine's warning to its end.
WARNING = 3.0


@contextlib.contextmanager
def nodes(count: int, cpus: int = 1) -> Iterator[Cluster]:
    """A cluster of a head without processors, on which the driver is, and ``count`` nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=cpus)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class Killer(threading.Thread):
    """Takes ``deaths`` victims, one after the other, at moments and of kinds drawn by ``seed``; a lost node is replaced."""

    def __init__(self, cluster: Cluster, seed: int, deaths: int, longest: float) -> None:
        super().__init__(daemon=True)
        self.cluster, self.random, self.longest = cluster, random.Random(seed), longest
        kinds = ["worker", "actor", "node", "warned node"]
        self.wanted = self.random.sample(kinds * -(-deaths // len(kinds)), deaths)
        self.taken: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        for kind in self.wanted:
            while not self.over.wait(self.random.uniform(0.5, self.longest)):
                if self.take(kind):
                    self.taken.append(kind)
                    break

    def take(self, kind: str) -> bool:
        """Whether there was one to take."""
        if "node" in kind:
            self.lose_node(warned=kind.startswith("warned"))
            return True
        found = sorted(pid for pid, title in clusters.processes(self.cluster).items() if title.startswith(TITLES[kind]))
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(found), signal.SIGKILL)
        return bool(found)

    def lose_node(self, warned: bool) -> None:
        node = self.random.choice(sorted(self.cluster.worker_nodes, key=lambda node: node.node_id))
        if warned:  # what the autoscaler does when the cloud gives notice
            end = int((time.time() + WARNING) * 1000)
            reason = ray.core.generated.autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
            ray._private.worker.global_worker.gcs_client.drain_node(node.node_id, reason, "spot", end)
            time.sleep(WARNING)
        self.cluster.remove_node(node, allow_graceful=False)
        self.cluster._shutdown_at_exit = False  # its hooks need the main thread; this node ends with the cluster's head
        self.cluster.add_node(num_cpus=1)


def make_plan(config: TrialConfig, folder) -> Plan:
    arms = [make_arm("plain", config, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", config, {}, ("alpha", "beta"))]
    return Plan(arms, folder, samples=2, seeds=(1, 2))


def undisturbed(config: TrialConfig, folder) -> None:
    """The same sweep without Ray and without deaths."""
    plan = make_plan(config, folder)
    in_process.run(plan, folder, store=Store(folder / "store"))
    study_files.write_assignments(folder, plan.assignments)


def patient_broker() -> type[Broker]:
    """A broker that hands a trial out ATTEMPTS times. A class made here travels to the broker's process by value."""

    class PatientBroker(Broker):
        def __init__(self):
            broker.ATTEMPTS = ATTEMPTS
            super().__init__()

    return PatientBroker


def sweep(cluster: Cluster, config: TrialConfig, folder, seed: int, deaths: int, longest: float = 3.0) -> list[str]:
    """The sweep with deaths; of what kinds they were."""
    plan, killer = make_plan(config, folder), Killer(cluster, seed, deaths, longest)
    begun = threading.Event()

    def progress(trial, result):
        if not begun.is_set() and result.get("epoch", -1) >= 0:
            begun.set()
            killer.start()

    try:
        with mock.patch.object(worker_groups, "Broker", patient_broker()):
            tuner.run(plan, folder, resources=Resources(), groups=2, progress=progress)
    finally:
        killer.over.set()
        if begun.is_set():
            killer.join(60)
    assert plan.done
    return killer.taken


def assert_equal(folder, expected) -> int:
    """The same trials, each once, with the same numbers and weights to the last bit; how many restarts their records count."""
    trials = sorted(item.trial for item in study_files.read_assignments(expected))
    assert sorted(item.trial for item in study_files.read_assignments(folder)) == trials
    assert sorted(path.name for path in (folder / "trials").iterdir()) == sorted(set(trials))
    restarts = 0
    for trial in set(trials):
        got, alone = find_trial(folder, trial), find_trial(expected, trial)
        assert got.status == "finished", (
            f"{trial}, {got.attempts} attempts: {got.status} after {got.epochs} epochs: {got.reason}"
        )
        assert (got.epochs, got.validation, got.test) == (alone.epochs, alone.validation, alone.test)
        lines = checked_files.read_lines(trial_folder(folder, trial) / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == list(range(got.epochs))
        weights, other = (
            torch.load(trial_folder(place, trial) / "checkpoint.pt", weights_only=True)["pair"] for place in (folder, expected)
        )
        assert all(torch.equal(weights[name], other[name]) for name in other)
        restarts += got.attempts - 1
    return restarts


# The driver


def start(out) -> subprocess.Popen:
    """A search's command on a cluster of its own."""
    return joint_search(out, "--trials", "8", output=subprocess.DEVNULL)


def kill_driver(out, seed: int, times: int) -> int:
    """The command, killed again and again, then to its end; how often (less where it ends first).

    Every third time within its first 20 s, while Ray starts; else up to 6 s after an epoch has been trained.
    """
    draw = random.Random(seed)
    for number in range(times):
        driver, before = start(out), epochs(out)
        starting = number % 3 == 0
        while not starting and epochs(out) == before and driver.poll() is None:
            time.sleep(0.1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert driver.wait(draw.uniform(0.0, 20.0 if starting else 6.0)) == 0
            return number
        driver.kill()
        driver.wait()
    assert start(out).wait() == 0
    return times


def epochs(out) -> int:
    """How many are recorded."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("trials/*/metrics.jsonl"))


def history(out) -> dict[str, list[tuple[str, dict, float | None]]]:
    """Every trial that Optuna's journal keeps, by study: its state, parameters and value."""
    storage = journal(out / "optuna.journal")
    names = optuna.study.get_all_study_names(storage)
    studies = {name: optuna.load_study(study_name=name, storage=storage) for name in names}
    return {
        name: sorted(((trial.state.name, trial.params, trial.value) for trial in study.trials), key=str)
        for name, study in studies.items()
    }
