"""Two processes against one, over gloo on this machine."""

import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers.processes import processes
from torch import nn

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.evaluation.gradients import measure
from mldiv.evaluation.metrics import nll
from mldiv.evaluation.predictive import predictives
from mldiv.method.posterior import GaussianPosterior
from mldiv.storage.cache import Store
from mldiv.training.fit import fit
from mldiv.training.loop import epoch_batches, make_pair, over_ranks
from mldiv.training.resume import StudyOver, answered
from mldiv.training.worker_cache import dataset

CONFIG = TrialConfig(
    data="digits", train_size=480, validation_size=60, test_size=200, arch="resnet8", width=0.5, epochs=4, switch_epoch=3,
    stage_schedule="continue", pretrain_epochs=3, batch_size=32, lr=0.05, fusion_dim=16, validation_samples=2, test_samples=4,
    ood="none", kl_weight=0.1,
)  # fmt: skip


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
    with warnings.catch_warnings(action="error"):  # an argument that torch will drop
        model = over_ranks(Sampling(peer), torch.device("cpu"))
    model(x, noise).backward()
    return peer.mean.grad, peer.rho.grad


def few_predictions():
    """What both peers and the pair say of one image, of which one rank gets none."""
    data = dataset(CONFIG)
    data = replace(data, test=data.test.take(np.arange(1)))
    pair = make_pair(CONFIG, data.shapes)
    members, labels = predictives(CONFIG, pair, data, "test", samples=2, epoch=0, device=torch.device("cpu"))
    return {name: prediction.probabilities for name, prediction in members.items()} | {"labels": labels}


def lengths():
    """Gradient lengths of a network that sees each image for itself: those of a batch, however ranks share it."""
    config = CONFIG.replace(arch="resnet8_frn", width=0.25)
    data, device = dataset(config), torch.device("cpu")
    pair = make_pair(config, data.shapes)
    batches = [next(epoch_batches(config, data, 0, "gradients", device))]
    found = measure(config, pair, batches, epoch=0, diverse=True, weighted=False)
    return {f"{term}/{part}": found[term][part] for term in ("nll", "param_diversity") for part in ("mean_1", "mean_2")}


def tell_that_nobody_waits():
    raise StudyOver


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    mean, rho = one_step(x[4 * rank : 4 * rank + 4])
    with pytest.raises(StudyOver):  # on both ranks: none waits for the other
        answered(tell_that_nobody_waits)
    rows = distributed.gather_rows(torch.arange(3 - rank) + 10 * rank, 5)
    torch.save(few_predictions() | lengths(), folder / f"rank {rank}.pt")
    record = fit(CONFIG, folder / "two", store=Store(folder / "store two"))
    if rank == 0:
        torch.save({"mean": mean, "rho": rho, "rows": rows, "test": record.test, "ranks": record.environment["world_size"]},
                   folder / "found.pt")  # fmt: skip
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def two(folder):
    """What two processes find together."""
    with processes(worker, (0, folder), (1, folder)) as started:
        for process in started:
            process.join(300)
        assert [process.exitcode for process in started] == [0, 0]
    return torch.load(folder / "found.pt", weights_only=True)


def test_gradients_are_those_of_the_whole_batch(two):
    expected = one_step(torch.randn(8, 6, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(two["mean"], expected[0])
    torch.testing.assert_close(two["rho"], expected[1])


def test_uneven_rows_are_gathered_in_order(two):
    assert two["rows"].tolist() == [0, 1, 2, 10, 11]


def test_fewer_images_than_processes_are_predicted_as_by_one(two, folder):
    alone = few_predictions()
    for rank in range(2):
        found = torch.load(folder / f"rank {rank}.pt", weights_only=True)
        torch.testing.assert_close({name: found[name] for name in alone}, alone, rtol=0, atol=0)


def test_gradients_are_as_long_as_by_one(two, folder):
    """Of their mean over ranks, which a step applies: else the same alpha acts more strongly on more ranks."""
    alone = lengths()
    for rank in range(2):
        found = torch.load(folder / f"rank {rank}.pt", weights_only=True)
        torch.testing.assert_close({name: found[name] for name in alone}, alone, rtol=1e-4, atol=0)


def test_a_trial_over_two_processes_learns_what_one_learns(two, folder):
    """Not bit for bit: batch norm sees half batches, and the feature term compares within them."""
    alone = fit(CONFIG, folder / "one", store=Store(folder / "store one"))
    assert two["ranks"] == 2
    assert alone.environment["world_size"] == 1
    assert two["test"]["pair"]["accuracy"] == pytest.approx(alone.test["pair"]["accuracy"], abs=0.08)
    assert two["test"]["pair"]["nll"] == pytest.approx(alone.test["pair"]["nll"], rel=0.5)
    assert two["test"]["pair"]["accuracy"] > 0.6


def test_its_checkpoint_evaluates_alone(two, folder):
    data = dataset(CONFIG)
    pair = make_pair(CONFIG, data.shapes)
    pair.load_state_dict(torch.load(folder / "two" / "checkpoint.pt", weights_only=True)["pair"])
    members, labels = predictives(
        CONFIG, pair, data, "test", samples=CONFIG.test_samples, epoch=CONFIG.epochs, device=torch.device("cpu")
    )
    for member, prediction in members.items():
        assert nll(prediction, labels).item() == pytest.approx(two["test"][member]["nll"], rel=1e-4), member
    right = (members["pair"].probabilities.argmax(-1) == labels).double().mean().item()
    assert right == pytest.approx(
        two["test"]["pair"]["accuracy"], abs=1.01 / CONFIG.test_size
    )  # one image, where two classes are all but equal


@pytest.mark.parametrize(("address", "already", "expected"), [
    ("127.0.0.1", None, "lo"), ("127.0.0.1", "eth7", "eth7"), ("192.0.2.255", None, None),
])  # fmt: skip
def test_processes_meet_at_the_interface_of_an_address(monkeypatch, address, already, expected):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", already or "")
    if already is None:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    distributed.meet_at(address)
    assert os.environ.get("GLOO_SOCKET_IFNAME") == expected
