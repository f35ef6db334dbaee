"""Where the ranks of a group meet: at an address of this machine, and at no other."""

import json
import os

import psutil
import pytest
import torch
import torch.distributed as dist
from helpers.processes import processes

from mldiv import distributed


def meet(folder, port, rank):
    """Join a group of two, add up, and write where this process listens."""
    distributed.meet_at("127.0.0.1")
    distributed.join("127.0.0.1", port, rank=rank, size=2, backend="gloo", seconds=60)
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    listening = [entry.laddr.ip for entry in psutil.Process().net_connections("tcp") if entry.status == psutil.CONN_LISTEN]
    (folder / f"{rank}.json").write_text(json.dumps([float(total), listening]))
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_at_loopback_listen_nowhere_else(tmp_path):
    port = distributed.free_port("127.0.0.1")
    with processes(meet, (tmp_path, port, 0), (tmp_path, port, 1)) as started:
        for process in started:
            process.join(60)
            assert process.exitcode == 0
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [total for total, _ in found] == [3.0, 3.0]
    assert all(listening for _, listening in found)
    assert {address for _, listening in found for address in listening} == {"127.0.0.1"}


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1", "lo"), ("192.0.2.99", None)])
def test_nccl_is_told_of_loopback_alone(monkeypatch, address, said):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    entry = psutil.net_if_addrs()["lo"][0]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"lo": [entry], "eth7": [entry._replace(address="192.0.2.99")]})
    distributed.meet_at(address)
    assert os.environ["GLOO_SOCKET_IFNAME"] == (said or "eth7")
    assert os.environ.get("NCCL_SOCKET_IFNAME") == said
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
