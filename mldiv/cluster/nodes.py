"""What a Ray cluster has and may get, what a worker takes of it, how a study joins it. Ray is loaded when it is asked."""

import logging
import math
import os
import socket
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
import yaml

from mldiv.config import ConfigError
from mldiv.presets import Preset

#: A node's resources as Ray counts them, "CPU" and "GPU" among them.
Node = Mapping[str, float]

#: Where `ray up` leaves the configuration, each node type's resources filled in, on the head.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")

#: Ray's settings by environment variable; what the user has set wins.
ENVIRONMENT = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_worker_maximum_startup_concurrency": "16",  # clients and groups start at once: no warning about that
}

#: Seconds in which a head must answer.
ANSWER_SECONDS = 5.0

#: How much of an error of Ray's or of a group's, which may be many lines, is said in one.
REASON_LETTERS = 500

#: Share of each CPU that its worker asks Ray for; what is left goes to the trials' clients (0.01 CPU each).
CPU_SHARE = 0.9


def nodes() -> list[Node]:
    """Return what each living node of the cluster has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def largest() -> list[Node]:
    """Return the head and every worker that the autoscaler of a cluster made by `ray up` may start, those with most GPUs first;
    nothing elsewhere, and where the nodes are a fixed list. Only the head knows."""
    try:
        config: Any = yaml.safe_load(BOOTSTRAP.expanduser().read_text(encoding="utf-8"))
        types, head = dict(config["available_node_types"]), config["head_node_type"]
        first = types.pop(head)["resources"]
        total = config["max_workers"]
        workers = [kind["resources"] for kind in types.values() for _ in range(kind.get("max_workers", total))]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []
    workers.sort(key=lambda node: (-node.get("GPU", 0), -node.get("CPU", 0)))
    return [first, *workers[:total]] if workers else []


def local_resources() -> dict[str, float]:
    """Return the processors that this process may use, and the GPUs."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(torch.cuda.device_count())}


def memory_here() -> float:
    """Return the bytes of memory that trials may have on this machine: a GPU's where there is one."""
    import psutil

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(psutil.virtual_memory().total)


def emulates_bf16() -> bool:
    """Return whether trials on this machine compute in bf16 by a processor that has no instructions for it."""
    if torch.cuda.is_available():
        return False
    with suppress(AttributeError, RuntimeError):  # where torch was built without oneDNN, or has it no longer
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return False


def has_gpus(address: str) -> bool:
    """Return whether the study's cluster has GPUs, or can start nodes that have; a local one has this machine's."""
    if address == "local":
        return torch.cuda.is_available()
    connect(address)
    return any(node.get("GPU", 0) for node in [*nodes(), *largest()])


def ray_folder() -> Path:
    """Return the folder in which a Ray that `ray start` has started on this machine keeps its sessions."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def private_folder() -> Path:
    """Return the folder in which a Ray that a study starts keeps its sessions; Ray opens its own to everybody.

    Raises: ConfigError where somebody else has made it.
    """
    folder = ray_folder().parent / f"ray-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder} is not this user's own folder: remove it, or name another place: export RAY_TMPDIR=...")
    folder.chmod(0o700)
    return folder


def head_of(address: str) -> str | None:
    """Return the HOST:PORT that an address means: of "auto" it is this machine's latest Ray, None where there has been none."""
    if address != "auto":
        return address
    latest = ray_folder() / "ray_current_cluster"
    return latest.read_text(encoding="utf-8").strip() if latest.exists() else None


def check_answer(head: str) -> None:
    """Open and close a connection to a head at HOST:PORT; Ray itself would try for minutes.

    Raises: OSError when it cannot be reached; ValueError for what is no such address.
    """
    host, _, port = head.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()


def check_address(address: str) -> None:
    """Look whether something answers at a cluster's address; "local" is none.

    Raises: ConfigError when nothing does.
    """
    try:
        if address != "local" and (head := head_of(address)) is not None:
            check_answer(head)
    except (OSError, ValueError) as error:
        given = "RAY_ADDRESS=" if address == os.environ.get("RAY_ADDRESS") else "--address "
        raise ConfigError(
            f"{given}{address}: no Ray answers there ({error}); start it (ray up, or ray start --head), or see to the network"
        ) from None


def connect(address: str) -> None:
    """Start Ray on this machine ("local"), or join the cluster at ``address``; quietly, and once.

    Raises: ConfigError when no cluster answers, or it does not let this machine in, or none can start here.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    check_address(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address == "local":
            from mldiv.cluster.ray_private import at_loopback

            cpus, sessions = int(local_resources()["CPU"]), str(private_folder() / "ray")  # nobody else reads what is logged
            with at_loopback():  # nor reaches its processes
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, _temp_dir=sessions, **quiet)
        else:
            from mldiv.cluster.ray_private import show_token

            head = head_of(address)
            if head is not None and (address != "auto" or "RAY_AUTH_MODE" in os.environ):  # else Ray finds the token itself
                show_token(head)
            ray.init(address=address, **quiet)
    except ray.exceptions.AuthenticationError:
        raise ConfigError(
            f"--address {address}: the token that this machine shows is not the cluster's; "
            "export RAY_AUTH_MODE=token and take the head's ~/.ray/auth_token"
        ) from None
    except Exception as error:  # of another version of Ray or Python a RuntimeError, of a start too slow no kind of its own
        said = shorten(str(error), REASON_LETTERS)
        if address == "local":
            place = ray_folder().parent
            raise ConfigError(
                f"Ray cannot start here ({said}); its files go to {place}: RAY_TMPDIR names another; its token to ~/.ray: HOME "
                "names another"
            ) from None
        raise ConfigError(f"--address {address}: no Ray cluster could be joined there ({said})") from None


@dataclass(frozen=True)
class Resources:
    """What one worker process of a group takes, and how many make a group.

    Raises: ConfigError for workers of a group that would share a GPU: NCCL, by which they exchange gradients, refuses that.
    """

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers > 1 and 0 < self.gpus < 1:
            raise ConfigError(
                f"--workers {self.workers} --gpus-per-worker {self.gpus:g}: two workers of a trial cannot share a GPU (NCCL "
                f"refuses it): --workers 1 --gpus-per-worker {self.gpus:g} trains several trials side by side on one, "
                "--gpus-per-worker 1 each trial on several"
            )

    def fit(self, nodes: Sequence[Node]) -> int:
        """Return how many groups fit side by side.

        A group may lie on several nodes, a worker on one, and on one GPU if it takes no more than that.
        """
        return sum(self._workers(node) for node in nodes) // self.workers

    def _workers(self, node: Node) -> int:
        fits = [_times(self.cpus, node.get("CPU", 0))]
        if self.gpus:
            gpus = node.get("GPU", 0)
            fits.append(int(gpus) * _times(self.gpus, 1.0) if self.gpus < 1 else _times(self.gpus, gpus))
        return min(fits)

    def groups(self, nodes: Sequence[Node], trials: int) -> int:
        """Return how many groups fit; not more than there are trials.

        Raises: ConfigError when not even one fits.
        """
        if self.fit(nodes) < 1:
            has = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
            raise ConfigError(
                f"a group of {self.workers} workers needs {self.cpus:g} CPUs and {self.gpus:g} GPUs for each, the nodes of the "
                f"cluster have {has}: lower --workers, --cpus-per-worker or --gpus-per-worker, or say by "
                "--parallel-trials how many an autoscaling cluster is to make room for"
            )
        return max(1, min(self.fit(nodes), trials))

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return max(1, int(self.cpus))

    @property
    def worker(self) -> dict[str, float]:
        """What each worker asks Ray for."""
        return {"CPU": CPU_SHARE * self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


def _times(need: float, there: float) -> int:
    """How often ``need`` goes into what is ``there``; ten tenths are one."""
    return math.floor(there / need + 1e-9)


def worker_resources(preset: Preset, nodes: Sequence[Node], flags: Namespace) -> Resources:
    """Return what a worker takes on such nodes.

    That is what --cpus-per-worker and --gpus-per-worker say, else the preset's share where there are GPUs, else one processor.

    Raises: ConfigError for GPUs that there are not, unless further nodes may come (--parallel-trials).
    """
    cpus, gpus, has_gpus = flags.cpus_per_worker, flags.gpus_per_worker, any(node.get("GPU", 0) for node in nodes)
    if gpus and not has_gpus and flags.parallel_trials is None:
        raise ConfigError(f"--gpus-per-worker {gpus:g}: there is no GPU; where some are to start, say --parallel-trials")
    usual = (preset.cpus, preset.gpus) if preset.gpus and has_gpus else (1.0, 0.0)
    return Resources(flags.workers, usual[0] if cpus is None else cpus, usual[1] if gpus is None else gpus)
