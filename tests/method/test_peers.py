"""Any number of peers: each one's loss written out with loops in float64, and whose gradient is whose."""

import math

import pytest
import torch
from torch import nn

from mldiv.config import TrialConfig
from mldiv.method.fusion import FUSIONS
from mldiv.method.pair import MutualPair, Objective, term_names

IMAGES, INPUTS, HIDDEN, CLASSES, TRAIN = 5, 4, 3, 3, 50
COUNTS = (1, 2, 3, 4)


class Network(nn.Module):
    """Two layers; its features are the hidden units."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(INPUTS, HIDDEN, bias=False), nn.Linear(HIDDEN, CLASSES)

    def forward(self, inputs):
        hidden = self.first(inputs).tanh()
        return self.last(hidden), (hidden,)


class LastFeatures(nn.Module):
    def forward(self, features):
        return [blocks[-1] for blocks in features]


def make(peers, **changed):
    weights = {"alpha": 0.7, "beta": 1.3, "temperature": 2.0, "kl_weight": 0.2, "mutual_weight": 0.5, "prior_std": 0.8}
    transforms = {"param_transform": "exp", "feature_transform": "exp"}
    objective = Objective(TRAIN, **(weights | transforms | changed))
    return MutualPair(map(Network, range(peers)), objective, fusion=LastFeatures(), initial_sigma=0.3)


def batch(pair):
    stream = torch.Generator().manual_seed(7)
    noise = [torch.randn(peer.mean.numel(), generator=stream) for peer in pair.peers]
    return torch.randn(IMAGES, INPUTS, generator=stream), torch.arange(IMAGES) % CLASSES, noise


class Peer:
    """A peer in float64: its leaves, and what its losses are made of."""

    def __init__(self, peer, inputs, noise):
        self.leaves = [value.detach().double().requires_grad_() for value in (peer.mean, peer.rho, peer.module.last.bias)]
        self.mean, rho, bias = self.leaves
        self.sigma = (1 + rho.exp()).log()
        weights, images = self.mean + self.sigma * noise.double(), inputs.double()
        cut = INPUTS * HIDDEN
        self.features = (images @ weights[:cut].view(HIDDEN, INPUTS).T).tanh()
        self.logits = self.features @ weights[cut:].view(CLASSES, HIDDEN).T + bias

    def detached(self):
        copy = object.__new__(Peer)
        copy.mean, copy.sigma, copy.features, copy.logits = (
            value.detach() for value in (self.mean, self.sigma, self.features, self.logits)
        )
        return copy

    def softened(self, image, temperature):
        values = [(self.logits[image, label] / temperature).exp() for label in range(CLASSES)]
        return [value / sum(values) for value in values]

    def neighbours(self):
        """p[i][j]: of image i for image j."""
        centered = self.features - sum(self.features) / IMAGES
        kernel = [[(1 + a @ b / a.norm() / b.norm()) / 2 for b in centered] for a in centered]
        kernel = [[0.0 if i == j else kernel[i][j] for j in range(IMAGES)] for i in range(IMAGES)]
        columns = [sum(kernel[i][j] for i in range(IMAGES)) for j in range(IMAGES)]
        return [[kernel[i][j] / columns[j] for j in range(IMAGES)] for i in range(IMAGES)]


def nll(own, labels):
    return -sum(own.softened(image, 1.0)[label].log() for image, label in enumerate(labels.tolist())) / IMAGES


def prior(own, std):
    terms = ((std / s).log() + (s**2 + m**2) / (2 * std**2) - 0.5 for m, s in zip(own.mean, own.sigma, strict=True))
    return sum(terms) / TRAIN


def mutual(own, other, temperature):
    total = 0.0
    for image in range(IMAGES):
        mine, theirs = own.softened(image, temperature), other.softened(image, temperature)
        total = total + sum(q * (q / p).log() for p, q in zip(mine, theirs, strict=True))
    return temperature**2 * total / IMAGES


def distance(own, other, kind):
    total = 0.0
    for m, s, n, r in zip(own.mean, own.sigma, other.mean, other.sigma, strict=True):
        total = total + (
            (m - n) ** 2 + (s - r) ** 2 if kind == "w2" else (r / s).log() + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5
        )
    return total


def divergence(own, other):
    p, q = own.neighbours(), other.neighbours()
    pairs = [(p[i][j], q[i][j]) for i in range(IMAGES) for j in range(IMAGES) if i != j]
    return sum((a - b) * (a / b).log() for a, b in pairs) / IMAGES


def losses_of(own, others, labels, objective, scales, diverse):
    """A peer's terms, the others fixed."""
    found = {"nll": nll(own, labels), "kl": prior(own, objective.prior_std), "mutual": 0.0, "distance": 0.0, "feature_kl": 0.0}
    found |= {"param_diversity": 0.0, "feature_diversity": 0.0}
    for other in others:
        terms = {"mutual": mutual(own, other, objective.temperature)}
        if diverse:
            apart, unlike = distance(own, other, objective.param_distance), divergence(own, other)
            terms |= {"distance": apart, "feature_kl": unlike}
            terms |= {"param_diversity": (-apart / scales[0]).exp(), "feature_diversity": (-unlike / scales[1]).exp()}
        for name, value in terms.items():
            found[name] = found[name] + value / len(others)
    found["total"] = (
        found["nll"] + objective.kl_weight * found["kl"] + objective.mutual_weight * found["mutual"]
        + objective.alpha * found["param_diversity"] + objective.beta * found["feature_diversity"]
    )  # fmt: skip
    return found


@pytest.mark.parametrize("diverse", [False, True])
@pytest.mark.parametrize("kind", ["w2", "kl"])
@pytest.mark.parametrize("peers", COUNTS)
def test_terms_and_gradients_against_loops(peers, kind, diverse):
    """Every peer's gradient is that of its own loss, in which the others are fixed."""
    pair = make(peers, param_distance=kind)
    inputs, labels, noise = batch(pair)
    pair.set_scales(torch.tensor(0.5))
    scales = pair.param_scale.item(), 0.5
    total, terms = pair(inputs, labels, noise, diverse)
    total.backward()
    written = [Peer(*given) for given in zip(pair.peers, [inputs] * peers, noise, strict=True)]
    expected = []
    for place, own in enumerate(written):
        others = [other.detached() for other in written[:place] + written[place + 1 :]]
        found = losses_of(own, others, labels, pair.objective, scales, diverse)
        gradients = torch.autograd.grad(found["total"], own.leaves)
        peer = pair.peers[place]
        for value, gradient in zip((peer.mean, peer.rho, peer.module.last.bias), gradients, strict=True):
            torch.testing.assert_close(value.grad.double(), gradient, rtol=2e-3, atol=1e-5)
        expected.append({name: float(torch.as_tensor(value).detach()) for name, value in found.items()})

    got = dict(zip(term_names(peers), terms.tolist(), strict=True))
    for name in ("nll", "kl", "mutual"):
        for number, found in enumerate(expected, 1):
            assert got[f"{name}_{number}"] == pytest.approx(found[name], rel=1e-4, abs=1e-7), (name, number)
    assert got["param_distance"] == pytest.approx(sum(found["distance"] for found in expected) / peers, rel=1e-4)
    assert got["feature_kl"] == pytest.approx(sum(found["feature_kl"] for found in expected) / peers, rel=1e-4)
    for name in ("param_diversity", "feature_diversity", "total"):
        assert got[name] == pytest.approx(sum(found[name] for found in expected), rel=1e-4), name
    assert total.item() == got["total"]


def test_the_terms_of_a_pair_are_called_as_in_stored_records():
    assert term_names(2) == (
        "nll_1", "nll_2", "kl_1", "kl_2", "mutual_1", "mutual_2", "param_distance", "feature_kl", "param_diversity",
        "feature_diversity", "fusion_nll", "total",
    )  # fmt: skip


@pytest.mark.parametrize("peers", COUNTS)
def test_names_of_parameters_and_scales(peers):
    pair = make(peers)
    assert {name.split(".")[0] for name, _ in pair.named_parameters()} == {f"peer_{number}" for number in range(1, peers + 1)}
    inputs, _, _ = batch(pair)
    value = pair.feature_kl(inputs)
    noted = pair.set_scales(value)
    if peers == 1:
        assert noted == {"param_distance": 0.0, "feature_kl": 0.0}
        return
    means = [peer.mean.detach().double() for peer in pair.peers]
    sigmas = [peer.sigma.detach().double() for peer in pair.peers]
    apart = [
        (means[own] - means[other]).square().sum() + (sigmas[own] - sigmas[other]).square().sum()
        for own in range(peers)
        for other in range(own)
    ]
    assert pair.param_scale.item() == noted["param_distance"] == pytest.approx(float(sum(apart) / len(apart)), rel=1e-5)
    assert pair.feature_scale.item() == noted["feature_kl"] == value.item() > 0


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("peers", COUNTS)
def test_a_fusion_for_every_peer(name, peers):
    fusion = FUSIONS[name]((4, 6), 8, 2, 0, peers)
    features = [tuple(torch.randn(3, count, 2, 2) for count in (4, 6)) for _ in range(peers)]
    fused = fusion(features)
    assert [feature.shape for feature in fused] == [(3, 8)] * peers
    modules = peers if name == "per_peer" else 1
    assert len({id(module) for module in fusion.of_peers}) == modules
    assert len({tuple(module.block.flatten().tolist()) for module in fusion.of_peers}) == modules


def test_a_fusion_of_vectors_takes_them_as_they_are():
    (fused,) = FUSIONS["shared"]((4,), 8, 2, 0, 1)([(vectors := torch.randn(3, 4),)])
    (other,) = FUSIONS["shared"]((4,), 8, 2, 0, 1)([(vectors[..., None, None].expand(3, 4, 2, 2),)])
    torch.testing.assert_close(fused, other)


def test_a_fusion_of_before_is_read_by_its_old_names():
    """In a pair's checkpoint of mldiv 0.5.0."""
    pair, other = (
        MutualPair([Network(0), Network(1)], Objective(TRAIN), fusion=FUSIONS["per_peer"]((HIDDEN,), 8, 2, seed))
        for seed in (0, 5)
    )
    old = {
        name.replace("fusion.peer_1", "fusion.first").replace("fusion.peer_2", "fusion.second"): value
        for name, value in pair.state_dict().items()
    }
    assert len(old) == len(pair.state_dict()) and not set(old) <= set(pair.state_dict())
    other.load_state_dict(old)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in pair.state_dict().items())


def test_the_objective_has_the_configurations_defaults():
    """But for the weights, which are shares of a gradient there, and the fusion's training, which needs a classifier."""
    config, objective = TrialConfig(), Objective(1)
    same = {name: value for name, value in vars(objective).items() if name in vars(config)}
    different = {name for name, value in same.items() if getattr(config, name) != value}
    assert set(same) == set(vars(objective)) - {"train_images"}
    assert different == {"alpha", "beta", "fusion_training"}


def test_what_cannot_be_is_said():
    network = Network(0)
    for networks in ([], [network, network]):
        with pytest.raises(ValueError, match="a network of its own"):
            MutualPair(networks, Objective(TRAIN), fusion=LastFeatures())
    wide = Network(1)
    wide.first = nn.Linear(INPUTS + 1, HIDDEN, bias=False)
    with pytest.raises(ValueError, match="different shapes"):
        MutualPair([Network(0), wide], Objective(TRAIN), fusion=LastFeatures())
    with pytest.raises(ValueError, match="Network names no feature_channels"):
        MutualPair([Network(0), Network(1)], Objective(TRAIN))
    with pytest.raises(ValueError, match="param_transform = 'square': expected one of negative"):
        Objective(TRAIN, param_transform="square")


def test_noise_is_drawn_where_none_is_given():
    pair = make(3)
    inputs, labels, _ = batch(pair)
    first, second = (pair(inputs, labels)[0].item() for _ in range(2))
    assert first != second and math.isfinite(first)
