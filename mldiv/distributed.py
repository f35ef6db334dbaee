"""Let the processes that train a trial together exchange what they know; a single one needs no torch.distributed."""

import os
import socket
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def active() -> bool:
    """Return whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's rank, counted from 0."""
    return dist.get_rank() if active() else 0


def size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if active() else 1


def meet_at(address: str) -> None:
    """Let gloo meet the other processes at this machine's ``address``, which they can reach: before the process group is made.

    Without this it meets at what the machine's own name means, on Debian 127.0.1.1. GLOO_SOCKET_IFNAME wins where it is set.
    """
    import psutil

    for interface, addresses in psutil.net_if_addrs().items():
        if any(own.address == address for own in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            if ip_address(address).is_loopback:  # NCCL finds its way between machines, and would leave this one out
                os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def free_port(address: str) -> int:
    """Find a port at this machine's ``address`` at which nothing listens."""
    with _listener(address, 0) as listener:
        return listener.getsockname()[1]


def join(address: str, port: int, *, rank: int, size: int, backend: str, seconds: float) -> None:
    """Make this process a rank of a group that meets at rank 0's ``address``; wait for the others for so many seconds.

    There alone rank 0 listens. Left to itself, torch lets whoever comes read and write at every address of the machine.
    """
    limit = timedelta(seconds=seconds)
    listens = _listener(address, port).detach() if rank == 0 else None
    store = dist.TCPStore(address, port, size, rank == 0, limit, master_listen_fd=listens)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)


def _listener(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def from_first(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank (any picklable object)."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of ``tensor`` over all ranks."""
    if size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / size()


def any_rank(flags: Tensor) -> Tensor:
    """Return the element-wise "or" of a bool tensor over all ranks."""
    if size() == 1:
        return flags
    total = flags.to(torch.int32)
    dist.all_reduce(total, dist.ReduceOp.MAX)
    return total.bool()


def gather_rows(rows: Tensor, count: int) -> Tensor:
    """Return all ranks' rows in rank order, cut to ``count``; ranks may hold different numbers of rows."""
    if size() == 1:
        return rows[:count]
    longest = torch.tensor(len(rows), device=rows.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    lengths = [torch.zeros((), dtype=torch.long, device=rows.device) for _ in range(size())]
    dist.all_gather(lengths, torch.tensor(len(rows), device=rows.device))
    padded = torch.zeros((int(longest), *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])[:count]


def average_buffers(module: nn.Module) -> None:
    """Replace each floating-point buffer (batch-norm running statistics) by its mean over ranks.

    Policy [chosen]: ranks keep their own running statistics during an epoch and average them at its end, so that every rank
    evaluates and saves the same network; nothing is broadcast in a step.
    """
    if size() == 1:
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= size()
