"""How the processes of a worker group find each other: as Ray has it, but a group of one needs no process group.

Ray hands this to every group's controller too, which trains nothing: no torch is imported until it is needed.
"""

from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig


@dataclass
class ProcessGroup(BackendConfig):
    """What a `TorchTrainer` takes in the place of Ray's TorchConfig, by which each controller would import torch."""

    timeout_s: int
    backend: str | None = None  # the trainer sets it: nccl or gloo

    @property
    def backend_cls(self) -> type[Backend]:
        """Ray asks for the class that starts and ends the process group."""
        return _Backend

    @property
    def train_func_context(self) -> Any:
        """Ray asks for what each worker enters before it trains."""
        return self.of_ray().train_func_context

    def of_ray(self) -> Any:
        """Make Ray's own configuration of the same."""
        from ray.train.torch import TorchConfig  # torch: 3 s of processor, and only workers and their driver need it

        return TorchConfig(backend=self.backend, timeout_s=self.timeout_s)


class _Backend(Backend):
    """A group of several, whose processes meet at the addresses by which Ray knows their nodes and listen nowhere else."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        if len(worker_group) > 1:
            address, port = worker_group.execute_single(0, _find_place)
            given = len(worker_group), backend_config.backend, backend_config.timeout_s
            ranks = range(len(worker_group))
            ray.get([worker_group.execute_single_async(rank, _join, address, port, rank, *given) for rank in ranks])

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        if len(worker_group) > 1:
            config = backend_config.of_ray()
            config.backend_cls().on_shutdown(worker_group, config)


def _find_place() -> tuple[str, int]:
    """Find the address and port at which a group meets: in its first worker."""
    from mldiv import distributed

    address = ray.util.get_node_ip_address()
    return address, distributed.free_port(address)


def _join(address: str, port: int, rank: int, size: int, backend: str, seconds: float) -> None:
    """Join the group: in each worker."""
    from mldiv import distributed

    distributed.meet_at(ray.util.get_node_ip_address())
    distributed.join(address, port, rank=rank, size=size, backend=backend, seconds=seconds)
