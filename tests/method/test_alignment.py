"""Which channels may change places, and how they are found again: against the network's function, and against all orders."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from mldiv.datasets.splits import Shapes
from mldiv.evaluation.alignment import align
from mldiv.method.alignment import (
    ChannelGroup,
    Channels,
    activations,
    channel_groups,
    flat_order,
    match_activations,
    match_weights,
    moments,
    permuted,
)
from mldiv.method.networks import MODELS, build
from mldiv.method.pair import MutualPair, Objective
from mldiv.method.posterior import GaussianPosterior
from mldiv.training.loop import make_pair

SMALL = [("resnet8", 0.5), ("resnet20", 0.3), ("vit", 0.25)]
EVERY = [(name, 1.0 if name == "resnet18" else 0.25) for name in MODELS]
#: How many channels in all may be permuted: inner ones of each block and the stream; hidden units of each layer and the tokens.
COUNTS = {"resnet8": 4 + 8 + 16 + 16, "resnet20": 3 * (4 + 8 + 16) + 16, "vit": 4 * 64 + 32, "resnet18": 960 * 2 + 960}


def network(arch, width, seed=1):
    """One with different parameters and statistics in every channel."""
    built = build(arch, classes=5, channels=1, width=width, seed=seed, image_size=16)
    stream = torch.Generator().manual_seed(seed)
    for name, value in built.state_dict().items():
        if name.endswith("running_var"):
            value.mul_(torch.rand(value.shape, generator=stream) + 0.5)
        elif value.squeeze().dim() == 1:
            value.add_(0.3 * torch.randn(value.shape, generator=stream))
    return built.eval()


def shuffled(own, arch, width):
    """The network with its channels in a random order, and the order that undoes it."""
    groups, stream = channel_groups(own), torch.Generator().manual_seed(3)
    orders = [torch.randperm(group.size, generator=stream) for group in groups]
    other = build(arch, classes=5, channels=1, width=width, seed=0, image_size=16).eval()
    other.load_state_dict(permuted(own.state_dict(), groups, orders))
    return groups, other, [order.argsort() for order in orders]


def images(count=32):
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("arch", "width"), EVERY)
def test_a_network_with_its_channels_permuted_is_the_same_function(arch, width):
    own = network(arch, width)
    groups, other, _ = shuffled(own, arch, width)
    logits, features = own(images(4))
    again, moved = other(images(4))
    torch.testing.assert_close(again, logits, rtol=1e-5, atol=1e-5 * logits.abs().max().item())
    assert not torch.allclose(moved[-1], features[-1], rtol=1e-2)
    assert sum(group.size for group in groups) == COUNTS.get(arch, sum(group.size for group in groups))
    fixed = set(own.state_dict()) - {entry.name for group in groups for entry in group.entries}
    assert all(
        "in_proj_bias" in name or "num_batches" in name or name in ("linear.bias", "fc.bias", "heads.head.bias")
        for name in fixed
    )


@pytest.mark.parametrize(("arch", "width"), SMALL)
def test_both_matchings_find_the_order_of_a_permuted_copy(arch, width):
    own = network(arch, width)
    groups, other, undone = shuffled(own, arch, width)
    first, second = GaussianPosterior(own), GaussianPosterior(other)
    raw = (first.mean - second.mean).square().sum()
    seen = [activations(peer, images(), groups) for peer in (first, second)]
    found = {
        "weights": match_weights(groups, first.views(first.mean), second.views(second.mean)),
        "activations": [match_activations(moments(of_peers), 2)[0] for of_peers in zip(*seen, strict=True)],
    }
    for name, orders in found.items():
        assert all(torch.equal(*each) for each in zip(orders, undone, strict=True)), name
        assert torch.equal(first.mean, second.mean[flat_order(second, groups, orders)])
    assert raw > 0.5 * first.mean.square().sum()


class Chain(nn.Module):
    """Two hidden layers of three units each."""

    feature_channels = (3,)

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.second, self.last = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, inputs):
        hidden = self.second(self.first(inputs).relu()).relu()
        return self.last(hidden), (hidden,)

    def channel_groups(self):
        places = (0, 1, 2)
        return [
            ChannelGroup((Channels(f"{a}.weight", 0, places), Channels(f"{b}.weight", 1, places)), Channels(a, 1, places))
            for a, b in (("first", "second"), ("second", "last"))
        ]


def test_weight_matching_is_a_local_optimum_and_no_worse_than_none():
    """No order of a single group is better; the best of all orders of both is found from most starts."""
    best = 0
    for seed in range(20):
        own, other = (dict(Chain(number).state_dict()) for number in (seed, seed + 100))
        groups = Chain(0).channel_groups()
        names = {entry.name for group in groups for entry in group.entries}

        def apart(orders, own=own, other=other, groups=groups, names=names):
            moved = permuted(other, groups, orders)
            return sum(float((own[name].double() - moved[name].double()).square().sum()) for name in names)

        everything = [torch.tensor(order) for order in itertools.permutations(range(3))]
        weights = [{name: state[name] for name in names} for state in (own, other)]
        found = match_weights(groups, *weights)
        reached = apart(found)
        assert reached <= apart([torch.arange(3)] * 2) + 1e-6
        assert reached <= min(apart([order, found[1]]) for order in everything) + 1e-6
        assert reached <= min(apart([found[0], order]) for order in everything) + 1e-6
        best += reached <= min(apart(list(orders)) for orders in itertools.product(everything, repeat=2)) + 1e-6
    assert best >= 10


def test_activation_matching_against_all_orders():
    stream = np.random.default_rng(0)
    first, second = 3 + 2 * stream.normal(size=(4, 50)), stream.normal(size=(4, 50)) + 5
    second[2] += first[0]
    third = first[[2, 0, 3, 1]] * 7 - 1
    rows = [torch.tensor(value, dtype=torch.float32) for value in (first, second, third)]
    found = match_activations(sum(moments([value[:, part] for value in rows]) for part in (slice(20), slice(20, 50))), 3)
    for other, order in zip((second, third), found, strict=True):
        correlation = np.corrcoef(first, other)[:4, 4:]
        expected = max(itertools.permutations(range(4)), key=lambda order: sum(correlation[range(4), order]))
        assert tuple(order.tolist()) == expected
    assert found[1].tolist() == [1, 3, 0, 2]


def test_activations_are_those_before_what_acts_in_place():
    own = GaussianPosterior(network("resnet18", 1.0))
    groups = channel_groups(own.module)
    seen = dict(zip([group.output.name for group in groups], activations(own, images(2), groups), strict=True))
    assert seen["layer1.0.bn1"].min() < 0 and seen["layer1.0.bn1"].shape == (64, 2 * 16 * 16)
    assert seen["layer1"].min() == 0
    assert not own.module.get_submodule("layer1")._forward_hooks


SHAPES = Shapes(classes=10, channels=1, train_images=100)


@pytest.fixture
def copies(tiny):
    """A pair of which peer 2 is a permuted copy of peer 1, sigmas too, and a third peer of its own."""
    pair = make_pair(tiny.replace(peers=3, param_alignment="weights", param_transform="negative"), SHAPES)
    first, second, _ = pair.peers
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        first.rho.add_(torch.randn(first.rho.shape, generator=stream))
        order = flat_order(
            first, pair.channel_groups, [torch.randperm(each.size, generator=stream) for each in pair.channel_groups]
        )
        second.mean.copy_(first.mean[order])
        second.rho.copy_(first.rho[order])
    return pair


@pytest.mark.parametrize("kind", ["w2", "kl", "symmetric_kl"])
def test_a_permuted_copy_is_no_distance_away_once_aligned(tiny, tiny_data, copies, kind):
    """And what the pair compares is each peer's weights in the order of the first's."""
    config = tiny.replace(peers=3, param_alignment="weights")
    before = copies.distance(kind, aligned=True)
    assert before == copies.distance(kind) > 10
    align(config, copies, tiny_data, torch.device("cpu"))
    first, second, third = (
        copies._distances(kind, "raw", [peer.sigma for peer in copies.peers])[place] for place in (0, 1, -1)
    )
    assert first.item() == pytest.approx(0, abs=1e-4) and min(second, third) > 10
    assert copies.distance(kind, aligned=True) < before == copies.distance(kind)


@pytest.mark.parametrize("weights", ["raw", "layer"])
def test_the_gradient_of_an_aligned_distance_reaches_every_peer(tiny, tiny_data, copies, weights):
    """That of half the sum over others of the distance written out, peer k's weights moved as a network's state is."""
    align(tiny.replace(param_alignment="weights"), copies, tiny_data, torch.device("cpu"))
    object.__setattr__(copies.objective, "param_weights", weights)
    copies.param_terms([peer.sigma for peer in copies.peers])["param_diversity"][0].backward()
    orders = [torch.arange(copies.peers[0].mean.numel()), copies.order_2, copies.order_3]
    leaves = [[value.detach().double().requires_grad_() for value in (peer.mean, peer.rho)] for peer in copies.peers]
    total = 0.0
    for own, other in itertools.combinations(range(3), 2):
        parts = []
        for place in (own, other):
            mean, rho = leaves[place]
            mean, sigma = mean[orders[place]], (1 + rho.exp()).log()[orders[place]]
            cut = list(zip(mean.split(copies.peers[0].sizes), sigma.split(copies.peers[0].sizes), strict=True))
            parts.append(
                cut if weights == "raw" else [(m / m.square().sum().sqrt(), s / m.square().sum().sqrt()) for m, s in cut]
            )
        terms = [(m - n).square().sum() + (s - r).square().sum() for (m, s), (n, r) in zip(*parts, strict=True)]
        total = total - sum(terms) / (1 if weights == "raw" else len(terms)) / 2
    total.backward()
    for peer, (mean, rho) in zip(copies.peers, leaves, strict=True):
        assert peer.mean.grad.abs().max() > 0
        torch.testing.assert_close(peer.mean.grad.double(), mean.grad, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(peer.rho.grad.double(), rho.grad, rtol=1e-3, atol=1e-6)


def test_activations_are_matched_on_training_images(tiny, tiny_data):
    config = tiny.replace(param_alignment="activations")
    pair = make_pair(config, SHAPES)
    first, second = pair.peers
    pair.eval()
    moved = permuted(first.module.state_dict() | first.views(first.mean.detach()), pair.channel_groups, [
        torch.randperm(group.size, generator=torch.Generator().manual_seed(1)) for group in pair.channel_groups
    ])  # fmt: skip
    second.load_means(moved)
    assert pair.distance() > 10
    align(config, pair, tiny_data, torch.device("cpu"))
    assert pair.distance(aligned=True).item() == pytest.approx(0, abs=1e-5) and not pair.training


def test_layers_are_divided_by_their_norms():
    """Scaling a layer of one peer changes nothing, and two orthogonal networks are 2 apart, layer by layer."""
    pair = MutualPair([Chain(0), Chain(1)], Objective(10, param_weights="layer"), initial_sigma=0.2)
    value = pair.distance("w2", "layer").item()
    first, second = pair.peers
    expected = 0.0
    for m, s, n, r in zip(*(each.split(first.sizes) for peer in pair.peers for each in (peer.mean, peer.sigma)), strict=True):
        a, b = math.sqrt(sum(x * x for x in m.tolist())), math.sqrt(sum(x * x for x in n.tolist()))
        means = sum((x / a - y / b) ** 2 for x, y in zip(m.tolist(), n.tolist(), strict=True))
        expected += (means + sum((x / a - y / b) ** 2 for x, y in zip(s.tolist(), r.tolist(), strict=True))) / 3
    assert value == pytest.approx(expected, rel=1e-5)
    kl = [pair.distance(kind, "layer").item() for kind in ("kl", "symmetric_kl")]
    with torch.no_grad():
        sigma = second.sigma
        for flat in (second.mean, sigma):
            flat[: first.sizes[0]] *= 10
        second.rho.copy_(sigma.expm1().log())
    assert pair.distance("w2", "layer").item() == pytest.approx(value, rel=1e-5)
    assert [pair.distance(kind, "layer").item() for kind in ("kl", "symmetric_kl")] == pytest.approx(kl, rel=1e-4)
    assert pair.distance() > 10


def test_what_declares_nothing_is_refused_by_name():
    bare = type("Bare", (Chain,), {"channel_groups": None})
    with pytest.raises(ValueError, match=r"Bare declares no channel_groups.*set param_alignment to 'none'"):
        MutualPair([bare(0), bare(1)], Objective(10, param_alignment="weights"))
    MutualPair([bare(0), bare(1)], Objective(10))


def test_without_alignment_a_pair_holds_what_it_always_held(tiny):
    plain, aligned = (set(make_pair(tiny.replace(param_alignment=kind), SHAPES).state_dict()) for kind in ("none", "weights"))
    assert aligned - plain == {"order_2"} and plain < aligned
