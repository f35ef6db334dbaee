"""The Monte Carlo predictive, against the samples taken one by one."""

import pytest
import torch

from mldiv.datasets.splits import Shapes
from mldiv.evaluation import predictive
from mldiv.evaluation.metrics import Predictive, entropy, together
from mldiv.training.loop import make_pair

SHAPES = Shapes(classes=10, channels=1, train_images=100)


@pytest.fixture
def peer(tiny):
    network = make_pair(tiny, SHAPES).peers[0]
    network(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(2)))  # statistics for the normalisation
    return network.eval()


def draw(peer, samples):
    stream = torch.Generator().manual_seed(0)
    return torch.randn(9, 1, 8, 8, generator=stream), torch.randn(samples, peer.mean.numel(), generator=stream)


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 50])
def test_samples_computed_together_are_those_computed_one_by_one(tiny, peer, at_once):
    images, noise = draw(peer, 7)
    weights = peer.sample(noise).detach()
    got = predictive.predict(peer, images, weights, tiny.replace(samples_at_once=at_once))
    softmax = torch.stack([peer(images, weights=sample)[0].softmax(-1) for sample in weights]).detach()
    torch.testing.assert_close(got.probabilities, softmax.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.expected_entropy, entropy(softmax).mean(0), rtol=1e-5, atol=1e-6)


def test_where_memory_runs_out_fewer_are_computed_together(tiny, peer, monkeypatch):
    images, noise = draw(peer, 7)
    weights = peer.sample(noise).detach()
    expected = predictive.predict(peer, images, weights, tiny)
    sizes, real = [], predictive.vmap

    def small(function):
        def call(part):
            sizes.append(len(part))
            if len(part) > 2:
                raise torch.OutOfMemoryError("no memory")
            return real(function)(part)

        return call

    monkeypatch.setattr(predictive, "vmap", small)
    got = predictive.predict(peer, images, weights, tiny.replace(samples_at_once=6))
    assert sizes == [6, 3]
    torch.testing.assert_close(got.probabilities, expected.probabilities)


def test_how_different_three_peers_are_is_the_mean_over_pairs(tiny):
    peers = make_pair(tiny.replace(peers=3), SHAPES)
    found = predictive.diversity(peers)
    means, sigmas = ([getattr(peer, name).detach().double() for peer in peers.peers] for name in ("mean", "sigma"))
    pairs = [(0, 1), (0, 2), (1, 2)]
    apart = sum((means[a] - means[b]).square().sum() + (sigmas[a] - sigmas[b]).square().sum() for a, b in pairs) / 3
    assert found["w2_per_weight"] == pytest.approx(float(apart) / len(means[0]), rel=1e-5)
    first = slice(0, peers.peers[0].sizes[0])
    cosines = [torch.cosine_similarity(means[a][first], means[b][first], dim=0) for a, b in pairs]
    assert found["cosine"][peers.peers[0].names[0][0]] == pytest.approx(float(sum(cosines)) / 3, rel=1e-4)
    assert [found[f"norm_{number}"] for number in (1, 2, 3)] == pytest.approx([float(mean.norm()) for mean in means], rel=1e-5)


def test_three_peers_disagreement_is_the_mean_over_pairs():
    said = torch.eye(3)[torch.tensor([[0, 1, 2, 0], [0, 1, 2, 1], [1, 1, 0, 1]])]  # pairs differ on 1, 3 and 2 images of 4
    members = {
        f"peer_{number}": Predictive(probabilities, probabilities.sum(1)) for number, probabilities in enumerate(said, 1)
    }
    members["pair"] = together(*members.values())
    assert predictive.disagreement(members) == pytest.approx((1 / 4 + 3 / 4 + 2 / 4) / 3)


def test_the_yardstick_is_the_same_whatever_the_trials_own_kernel(tiny, tiny_data):
    """And it is Eq. (14) on the last block's pooled features, written out."""
    device = torch.device("cpu")
    configs = [tiny.replace(**changed) for changed in ({}, {"kernel": "rbf", "fusion": "frozen"})]
    given = [(config, make_pair(config, SHAPES), tiny_data, "validation") for config in configs]
    first, second = (predictive.feature_kl(*each, epoch=0, device=device) for each in given)
    assert first == second > 0
    own = [predictive.feature_kl(*each, epoch=0, device=device, own=True) for each in given]
    assert own[0] != own[1]

    features = [torch.randn(5, 6, 3, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    p = []
    for feature in features:
        pooled = feature.mean((2, 3))
        pooled = pooled - pooled.mean(0)
        kernel = (torch.nn.functional.cosine_similarity(pooled[:, None], pooled[None], dim=-1) + 1) / 2
        kernel.fill_diagonal_(0)
        p.append(kernel / kernel.sum(0))
    rows, columns = torch.where(~torch.eye(5, dtype=torch.bool))
    a, b = (conditional[rows, columns] for conditional in p)
    expected = ((a - b) * (a / b).log()).sum() / 5
    torch.testing.assert_close(predictive._yardstick([(features[0],), (features[1],)])[0], expected)
