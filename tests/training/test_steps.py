"""The optimisers against their formulas, written out."""

import pytest
import torch

from mldiv.epochs import dataset
from mldiv.pair import MutualPair
from mldiv.steps import make_optimizer


def stepped(config, gradients):
    """Peer 1's means before and after steps with the same given gradients, and rho's."""
    data = dataset(config)
    pair = MutualPair(config, data.classes, data.channels, len(data.train), image_size=8)
    optimizer, peer = make_optimizer(config, pair), pair.peer_1
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
    from mldiv.steps import train_epoch

    config = tiny.replace(optimizer=optimizer, lr=0.01, rho_lr_scale=3.0, fusion_lr_scale=0.5, schedule="constant")
    data = dataset(config)
    pair = MutualPair(config, data.classes, data.channels, len(data.train), image_size=8)
    made = make_optimizer(config, pair)
    train_epoch(pair, pair, made, data, 0, False, torch.device("cpu"))
    assert [round(group["lr"], 6) for group in made.param_groups] == [0.01, 0.03, 0.005]
