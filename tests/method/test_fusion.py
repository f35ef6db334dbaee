import math

import pytest
import torch

from mldiv.method.fusion import FUSIONS, CrossAttention, PeerFusion

CHANNELS = (4, 8)


def features(seed):
    stream = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(3, count, 2, 2, generator=stream).requires_grad_() for count in CHANNELS)


def test_attention_against_loops():
    torch.manual_seed(0)
    module = CrossAttention(CHANNELS, dim=6, heads=2)
    given = tuple(feature.detach() for feature in features(1))
    module.requires_grad_(False)
    out = module(given)
    for image in range(3):
        tokens = []
        for block, feature in enumerate(given):
            pooled = torch.tensor([feature[image, c].mean() for c in range(CHANNELS[block])])
            tokens.append(module.project[block](pooled) + module.block[block])
        query = module.query(tokens[-1])
        answer = torch.zeros(6)
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            keys = [module.key_value(token)[:6][part] for token in tokens]
            values = [module.key_value(token)[6:][part] for token in tokens]
            scores = [math.exp(float(query[part] @ key) / math.sqrt(3)) for key in keys]
            answer[part] = sum(score / sum(scores) * value for score, value in zip(scores, values, strict=True))
        torch.testing.assert_close(out[image], module.norm(tokens[-1] + module.out(answer)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FUSIONS)
def test_forms(name):
    fusion = FUSIONS[name](CHANNELS, 8, 2, 0)
    given = features(1), features(2)
    first, second = fusion(given)
    assert first.shape == second.shape == (3, 8)
    first.square().sum().backward()
    assert all(feature.grad is not None and feature.grad.abs().sum() > 0 for feature in given[0])
    trained = sum(value.numel() for value in fusion.parameters() if value.requires_grad)
    parameters = sum(value.numel() for value in CrossAttention(CHANNELS, 8, 2).parameters())
    known = {"shared": parameters, "per_peer": 2 * parameters, "frozen": 0}
    if name in known:
        assert trained == known[name]
        assert torch.allclose(fusion.peer_1(given[1]), second, atol=1e-6) == (name != "per_peer")


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("blocks", [(), (1,)])
@pytest.mark.parametrize("grid", [1, 2])
@pytest.mark.parametrize("name", ["shared", "per_peer"])
def test_peers_are_fused_at_once_as_each_alone(name, grid, blocks, pooled):
    """Values and gradients, of features and of weights, also where they were pooled before."""
    fusion = FUSIONS[name](CHANNELS, 8, 2, 0, 3, blocks, grid=grid)
    given = [features(seed) for seed in range(3)]
    alone = [
        module(tuple(peer[place] for place in blocks) if blocks else peer)
        for module, peer in zip(fusion.of_peers, given, strict=True)
    ]
    fused = fusion(fusion.pool(fusion.pool(given)) if pooled else given)
    drawn = torch.randn(3, 3, 8)
    values = [*fusion.parameters(), *(feature for peer in given for feature in peer)]
    ways = [sum((own * vectors).sum() for own, vectors in zip(drawn, outs, strict=True)) for outs in (alone, fused)]
    expected, found = (torch.autograd.grad(way, values, allow_unused=True) for way in ways)
    torch.testing.assert_close(torch.stack(fused), torch.stack(alone))
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FUSIONS)
def test_seed(name):
    outs = [FUSIONS[name](CHANNELS, 8, 2, seed)([features(1), features(2)])[1] for seed in (0, 0, 1)]
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])


class Largest(CrossAttention):
    """A fusion of one's own that sees the largest value of a block and not its average."""

    def forward(self, blocks):
        return super().forward(tuple(block.amax((2, 3)) for block in blocks))


def test_a_subclass_sees_the_blocks_as_they_are_whoever_asks():
    fusion = PeerFusion([Largest(CHANNELS, 8, 2)] * 2)
    given = [features(seed) for seed in range(2)]
    for ours, theirs in zip(fusion(fusion.pool(given)), fusion(given), strict=True):
        assert torch.equal(ours, theirs)
