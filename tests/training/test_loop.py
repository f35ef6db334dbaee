"""The optimisers against their formulas, written out."""

import itertools
from dataclasses import replace

import pytest
import torch

from mldiv.training import loop
from mldiv.training.fit import environment
from mldiv.training.loop import epoch_batches, make_optimizer, make_pair, train_epoch, train_step
from mldiv.training.worker_cache import dataset


def stepped(config, gradients):
    """Peer 1's means before and after steps with the same given gradients, and rho's."""
    data = dataset(config)
    pair = make_pair(config, data.shapes)
    optimizer, peer = make_optimizer(config, pair), pair.peers[0]
    before = peer.mean.detach().clone(), peer.rho.detach().clone()
    for gradient in gradients:
        peer.mean.grad, peer.rho.grad = torch.full_like(peer.mean, gradient), torch.full_like(peer.rho, gradient)
        optimizer.step()
        for group in optimizer.param_groups:
            assert group["weight_decay"] == 0
    return [(after - start).detach() for after, start in zip((peer.mean, peer.rho), before, strict=True)]


def test_sgd_is_momentum_without_weight_decay(tiny):
    config = tiny.replace(lr=0.1, momentum=0.5)
    for moved in stepped(config, [1.0, -2.0]):
        assert torch.allclose(moved, torch.full_like(moved, -0.1 * 1.0 - 0.1 * (0.5 * 1.0 - 2.0)), atol=1e-6)


def test_adamw_is_adam_with_the_momentum_as_first_beta(tiny):
    config = tiny.replace(optimizer="adamw", lr=0.01, momentum=0.8)
    moved, rho = stepped(config, [0.5, -0.3])
    first, second, expected = 0.0, 0.0, 0.0
    for step, gradient in enumerate((0.5, -0.3), 1):
        first, second = 0.8 * first + 0.2 * gradient, 0.999 * second + 0.001 * gradient**2
        expected -= 0.01 * (first / (1 - 0.8**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
    assert torch.allclose(moved, torch.full_like(moved, expected), rtol=1e-3)
    assert torch.allclose(rho, torch.full_like(rho, expected), rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_epochs_rate_reaches_every_group(tiny, optimizer):
    """`train_epoch` sets the rates; the groups keep their factors."""
    from mldiv.training.loop import train_epoch

    config = tiny.replace(optimizer=optimizer, lr=0.01, rho_lr_scale=3.0, fusion_lr_scale=0.5, schedule="constant")
    data = dataset(config)
    pair = make_pair(config, data.shapes)
    made = make_optimizer(config, pair)
    train_epoch(config, pair, made, data, 0, False, torch.device("cpu"))
    assert [round(group["lr"], 6) for group in made.param_groups] == [0.01] * 4 + [0.03, 0.03, 0.005]


def test_order_and_augmentation_depend_on_seed_purpose_and_epoch(tiny, tiny_data, monkeypatch):
    """Of each epoch its own, and the same again when it is asked for again."""
    seen = []
    monkeypatch.setattr(loop, "train_batches", lambda data, **given: seen.append(given) or [])
    for config, epoch, purpose in (
        (tiny, 0, "fit"), (tiny, 0, "fit"), (tiny, 1, "fit"), (tiny, 0, "pretrain"), (tiny.replace(seed=1), 0, "fit"),
    ):  # fmt: skip
        assert list(epoch_batches(config, tiny_data, epoch, purpose, torch.device("cpu"))) == []
    draws = {"order": [given["order"] for given in seen], "shifts": [given["augmentation"].shift_x for given in seen]}
    for name, (first, again, *others) in draws.items():
        assert torch.equal(first, again), name
        for drawn, other in itertools.combinations((first, *others), 2):
            assert not torch.equal(drawn, other), name


def test_every_epoch_step_and_peer_has_its_own_weight_noise(tiny, tiny_data):
    pair = make_pair(tiny, tiny_data.shapes)
    optimizer, noise = make_optimizer(tiny, pair), []

    def step(images, labels, drawn, diverse):
        noise.extend(drawn)
        return train_step(tiny, pair, pair, optimizer, images, labels, drawn, diverse)

    for epoch in (0, 1, 0):
        train_epoch(tiny, pair, optimizer, tiny_data, epoch, False, torch.device("cpu"), pair_step=step)
    share = len(noise) // 3
    assert share == 2 * (len(tiny_data.train) // tiny.batch_size)
    for drawn, other in itertools.combinations(noise[: 2 * share], 2):
        assert not torch.equal(drawn, other)
    for drawn, again in zip(noise[:share], noise[2 * share :], strict=True):
        assert torch.equal(drawn, again)


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_of_colour_images_have_the_configured_layout(tiny, tiny_data, channels_last):
    """Cut and mirrored at random, they come out of the gather with the channels last."""
    images = tiny_data.train.images.expand(-1, 3, -1, -1)
    coloured = replace(tiny_data, train=replace(tiny_data.train, images=images), mean=(0.5,) * 3, std=(0.5,) * 3)
    (images, _), *_ = epoch_batches(tiny.replace(channels_last=channels_last), coloured, 0, "fit", torch.device("cpu"))
    assert images.is_contiguous() is not channels_last
    assert images.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_the_environment_names_the_device_that_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"GPU {device.index}")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92000)
    assert environment(torch.device("cpu"))["device"] == "cpu" and environment(torch.device("cuda", 1))["device"] == "GPU 1"
