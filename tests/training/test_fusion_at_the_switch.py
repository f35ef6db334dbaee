"""A fusion that learns the task at the switch, from networks at rest (`fusion_training` switch)."""

import pytest
import torch
from helpers.first_stages import CPU, differing
from torch.nn.functional import cross_entropy

from mldiv.method.networks import build
from mldiv.seeding import generator
from mldiv.training.loop import epoch_batches, make_pair
from mldiv.training.pretraining import FUSION_LEARNING_RATE, train_fusion
from mldiv.training.worker_cache import dataset


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def plain(config, peer, noise):
    """A network of torch alone with these weights, in evaluation mode."""
    module = build(config.arch, classes=10, channels=1, width=config.width, seed=0).eval()
    weights = peer.views(peer.mean + torch.nn.functional.softplus(peer.rho) * noise)
    module.load_state_dict(peer.module.state_dict() | {name: value.detach() for name, value in weights.items()})
    return module


@pytest.mark.parametrize("fusion", ["shared", "per_peer"])
def test_a_fusion_learns_the_task_at_the_switch_as_a_plain_loop_teaches_it(tiny, fusion):
    config = tiny.replace(fusion_training="switch", fusion=fusion, fusion_epochs=3, train_size=96)
    data = dataset(config)
    pair, other = make_pair(config, data.shapes).train(), make_pair(config, data.shapes)
    peers, losses = [state(peer) for peer in pair.peers], []
    optimizer = torch.optim.Adam(other.fusion.parameters(), lr=FUSION_LEARNING_RATE)
    for epoch in range(config.fusion_epochs):
        streams = [generator(config.seed, f"fusion weights {place}", epoch, CPU) for place in (0, 1)]
        for images, labels in epoch_batches(config, data, epoch, "fusion", CPU):
            blocks = []
            for peer, stream in zip(other.peers, streams, strict=True):
                with torch.no_grad():
                    blocks.append(plain(config, peer, torch.randn(peer.mean.shape, generator=stream))(images)[1])
            modules = [other.fusion.peer_1, other.fusion.peer_2]
            loss = sum(cross_entropy(module.head(module(own)), labels) for module, own in zip(modules, blocks, strict=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    train_fusion(config, pair, data, CPU)
    found = pair.fusion.state_dict()
    for name, value in other.fusion.state_dict().items():
        learned = slice(config.fusion_dim if name.endswith("key_value.bias") else 0, None)  # a key's bias moves no attention
        torch.testing.assert_close(found[name][learned], value[learned], rtol=1e-4, atol=1e-5)
    assert sum(losses[-3:]) < 0.98 * sum(losses[:3]), losses
    for peer, before in zip(pair.peers, peers, strict=True):
        assert differing(state(peer), before) == [] and peer.mean.grad is None and peer.training
