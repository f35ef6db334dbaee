"""Two processes against one, over gloo on this machine."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mldiv import world
from mldiv.epochs import dataset, over_ranks
from mldiv.evaluate import predictives
from mldiv.fit import fit
from mldiv.posterior import GaussianPosterior
from mldiv.store import Store


def start(rank, size, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def posterior():
    torch.manual_seed(0)
    return GaussianPosterior(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)))


class Sampling(nn.Module):
    """The draw inside the wrapped forward, as the pair does it."""

    def __init__(self, peer):
        super().__init__()
        self.peer = peer

    def forward(self, x, noise):
        return self.peer(x, weights=self.peer.sample(noise)).square().mean()


def one_step(x):
    peer = posterior()
    noise = torch.randn(peer.mean.numel(), generator=torch.Generator().manual_seed(1))
    model = over_ranks(Sampling(peer), torch.device("cpu"))
    model(x, noise).backward()
    return peer.mean.grad, peer.rho.grad


def worker(rank, port, config, folder, queue):
    start(rank, 2, port)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    mean, rho = one_step(x[4 * rank : 4 * rank + 4])
    rows = world.gather_rows(torch.arange(3 - rank) + 10 * rank, 5)
    record = fit(config, folder / "two", store=Store(folder / "store two"))
    if rank == 0:
        state = torch.load(folder / "two" / "checkpoint.pt", weights_only=True)
        queue.put((mean.tolist(), rho.tolist(), rows.tolist(), record.test, record.environment, list(state)))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    from mldiv.config import TrialConfig

    torch.set_num_threads(1)
    config = TrialConfig(
        data="digits", train_size=640, arch="resnet8", width=0.5, epochs=6, switch_epoch=4, pretrain_epochs=3,
        batch_size=32, lr=0.05, fusion_dim=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("ddp")
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    mp.start_processes(worker, (free_port(), config, folder, queue), nprocs=2, start_method="spawn")
    alone = fit(config, folder / "one", store=Store(folder / "store one"))
    return queue.get(), alone, config, folder


def test_gradients_are_those_of_the_whole_batch(both):
    (mean, rho, *_), *_ = both
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    expected = one_step(x)
    torch.testing.assert_close(torch.tensor(mean), expected[0])
    torch.testing.assert_close(torch.tensor(rho), expected[1])


def test_uneven_rows_are_gathered_in_order(both):
    assert both[0][2] == [0, 1, 2, 10, 11]


def test_a_trial_over_two_processes_learns_what_one_learns(both):
    """Not bit for bit: batch norm sees half batches, and the feature term compares within them."""
    (_, _, _, test, environment, _), alone, *_ = both
    assert environment["world_size"] == 2 and alone.environment["world_size"] == 1
    assert test["pair"]["accuracy"] == pytest.approx(alone.test["pair"]["accuracy"], abs=0.08)
    assert test["pair"]["nll"] == pytest.approx(alone.test["pair"]["nll"], rel=0.5)
    assert test["pair"]["accuracy"] > 0.6


def test_its_checkpoint_evaluates_alone(both):
    from mldiv.pair import MutualPair

    (_, _, _, test, *_), _, config, folder = both
    data = dataset(config)
    pair = MutualPair(config, 10, 1, 640)
    pair.load_state_dict(torch.load(folder / "two" / "checkpoint.pt", weights_only=True)["pair"])
    members, labels = predictives(
        pair, data, "test", samples=config.test_samples, epoch=config.epochs, device=torch.device("cpu")
    )
    right = (members["pair"].probabilities.argmax(-1) == labels).double().mean().item()
    assert right == pytest.approx(test["pair"]["accuracy"], abs=0.003)


@pytest.mark.parametrize(("address", "already", "expected"), [
    ("127.0.0.1", None, "lo"), ("127.0.0.1", "eth7", "eth7"), ("192.0.2.255", None, None),
])  # fmt: skip
def test_processes_meet_at_the_interface_of_an_address(monkeypatch, address, already, expected):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", already or "")
    if already is None:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    world.meet_at(address)
    assert os.environ.get("GLOO_SOCKET_IFNAME") == expected
