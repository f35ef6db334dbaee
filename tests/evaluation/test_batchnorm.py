"""Batch norm's statistics for each weight sample, against torch's own function for averaged weights."""

import copy

import pytest
import torch
from torch.func import functional_call
from torch.optim.swa_utils import update_bn

from mldiv.evaluation import batchnorm, predictive
from mldiv.method.networks import build
from mldiv.training.loop import make_pair

CPU = torch.device("cpu")


@pytest.fixture
def trial(tiny, tiny_data):
    config = tiny.replace(initial_sigma=0.5, batchnorm_batches=3)
    return config, make_pair(config, tiny_data.shapes), tiny_data


def with_weights(config, peer, flat):
    """The peer's network with a weight sample, as a plain module."""
    plain = build(config.arch, classes=10, channels=1, width=config.width, seed=0)
    plain.load_state_dict(dict(peer.module.state_dict()) | {name: value.detach() for name, value in peer.views(flat).items()})
    return plain


def test_against_update_bn(trial):
    config, pair, data = trial
    peer = pair.peers[0].eval()
    before = copy.deepcopy(peer.state_dict())
    weights = peer.sample(torch.randn(2, peer.mean.numel(), generator=torch.Generator().manual_seed(0))).detach()
    images = list(batchnorm.batches(config, data, 0, CPU))
    assert len(images) == 3 and all(len(batch) == config.batch_size for batch in images)
    found = batchnorm.estimate(peer, weights, images, predictive.precision(config, CPU))
    for flat, own in zip(weights, found, strict=True):
        plain = with_weights(config, peer, flat)
        update_bn(images, plain)
        running = {name: value for name, value in plain.named_buffers() if value.is_floating_point()}
        assert set(own) == set(running)
        for name, value in running.items():
            torch.testing.assert_close(own[name], value)
        expected = plain.eval()(images[0])[0]
        torch.testing.assert_close(peer(images[0], weights=flat, buffers=own)[0], expected)
        assert not torch.allclose(peer(images[0], weights=flat)[0], expected)
    assert all(torch.equal(value, before[name]) for name, value in peer.state_dict().items())
    assert not any(module.training for module in peer.modules())
    assert {layer.momentum for layer in peer.modules() if isinstance(layer, torch.nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("at_once", [1, 2])
def test_predictions_with_statistics_of_their_own(trial, at_once):
    """Each sample's of the predictive, whether one by one or mapped; the same again; the pair is as before."""
    config, pair, data = trial
    config = config.replace(samples_at_once=at_once)
    pair.train()
    before = copy.deepcopy(pair.state_dict())
    given = {"samples": 2, "epoch": 1, "device": CPU}
    found, _ = predictive.predictives(config, pair, data, "validation", **given)
    again, _ = predictive.predictives(config, pair, data, "validation", **given)
    usual, _ = predictive.predictives(config.replace(batchnorm_batches=0), pair, data, "validation", **given)
    assert pair.training and all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    images = torch.cat([images for images, _ in predictive.shared_batches(config, data, "validation", CPU)])
    train = list(batchnorm.batches(config, data, 1, CPU))
    for number, peer in enumerate(pair.peers, 1):
        noise = torch.randn(
            2, peer.mean.numel(), generator=predictive.generator(config.seed, f"evaluate validation {number}", 1)
        )
        expected = 0
        for flat in peer.sample(noise):
            plain = with_weights(config, peer, flat)
            update_bn(train, plain)
            expected = expected + plain.eval()(images)[0].softmax(-1).detach() / 2
        torch.testing.assert_close(found[f"peer_{number}"].probabilities, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(found[f"peer_{number}"].probabilities, again[f"peer_{number}"].probabilities)
        assert not torch.allclose(usual[f"peer_{number}"].probabilities, expected, atol=1e-3)


def test_a_network_without_batch_norm_has_nothing_to_estimate(trial):
    config, _, data = trial
    config = config.replace(arch="resnet8_frn")
    pair = make_pair(config, data.shapes)
    peer = pair.peers[0]
    assert batchnorm.estimate(peer, peer.mean[None], iter(()), predictive.precision(config, CPU)) == [{}]
    given = {"samples": 2, "epoch": 1, "device": CPU}
    found, usual = (
        predictive.predictives(each, pair, data, "validation", **given)[0]["pair"].probabilities
        for each in (config, config.replace(batchnorm_batches=0))
    )
    assert torch.equal(found, usual)


def test_the_mean_network_is_predicted_by_no_samples(trial):
    config, pair, data = trial
    config = config.replace(batchnorm_batches=0)
    found, _ = predictive.predictives(config, pair, data, "validation", samples=0, epoch=1, device=CPU)
    images = torch.cat([images for images, _ in predictive.shared_batches(config, data, "validation", CPU)])
    peer = pair.peers[1].eval()
    weights = peer.views(peer.mean)
    expected = functional_call(peer.module, weights, (images,))[0].softmax(-1)
    torch.testing.assert_close(found["peer_2"].probabilities, expected.detach(), rtol=1e-4, atol=1e-6)
