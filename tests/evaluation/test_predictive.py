"""The Monte Carlo predictive, against the samples taken one by one."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.fake_gpu import fake_gpu

from mldiv.datasets.splits import Shapes, Split
from mldiv.evaluation import predictive
from mldiv.evaluation.metrics import Predictive, entropy, together
from mldiv.training.loop import make_pair
from mldiv.training.worker_cache import dataset

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
    logits = torch.stack([peer(images, weights=sample)[0] for sample in weights]).detach()
    softmax = logits.softmax(-1)
    torch.testing.assert_close(got.probabilities, softmax.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.expected_entropy, entropy(softmax).mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.log_partition, logits.exp().sum(-1).log().mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.largest_logit, logits.max(-1).values.mean(0), rtol=1e-5, atol=1e-5)


def test_where_memory_runs_out_fewer_are_computed_together(tiny, peer, monkeypatch):
    images, noise = draw(peer, 7)
    weights = peer.sample(noise).detach()
    expected = predictive.predict(peer, images, weights, tiny)
    sizes, real = [], predictive.vmap

    def small(function):
        def call(part, *more):
            sizes.append(len(part))
            if len(part) > 2:
                raise torch.OutOfMemoryError("no memory")
            return real(function)(part, *more)

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


def test_where_the_distance_comes_from_is_said(tiny):
    """What the sigmas and what the means make of it; by layer, of weights over their norms; aligned, if that is so."""
    pair = make_pair(tiny.replace(sigma_mode="absolute"), SHAPES)
    with torch.no_grad():
        pair.peers[0].rho.add_(3)
    found = predictive.diversity(pair)
    (m, n), (s, r) = ([getattr(peer, name).detach().double() for peer in pair.peers] for name in ("mean", "sigma"))
    means, sigmas = (m - n).square().sum(), (s - r).square().sum()
    assert 0.05 < found["w2_share_sigmas"] == pytest.approx(float(sigmas / (means + sigmas)), rel=1e-5)
    assert found["w2_share_means"] == pytest.approx(float(means / (means + sigmas)), rel=1e-5)
    layers = [each.split(pair.peers[0].sizes) for each in (m, s, n, r)]
    parts = [
        (a / a.norm() - c / c.norm()).square().sum() + (b / a.norm() - d / c.norm()).square().sum()
        for a, b, c, d in zip(*layers, strict=True)
    ]
    assert found["w2_by_layer"] == pytest.approx(float(sum(parts)) / len(parts), rel=1e-5)
    assert found["w2_aligned"] is None
    pair.peers[0].load_state_dict(pair.peers[1].state_dict())
    same = predictive.diversity(pair, aligned=True)
    assert same["w2_aligned"] == same["w2_by_layer"] == 0 and same["w2_share_means"] is same["w2_share_sigmas"] is None


def test_three_peers_disagreement_is_the_mean_over_pairs():
    said = torch.eye(3)[torch.tensor([[0, 1, 2, 0], [0, 1, 2, 1], [1, 1, 0, 1]])]  # pairs differ on 1, 3 and 2 images of 4
    members = {
        f"peer_{number}": Predictive(probabilities, probabilities.sum(1)) for number, probabilities in enumerate(said, 1)
    }
    members["pair"] = together(*members.values())
    assert predictive.disagreement(members) == pytest.approx((1 / 4 + 3 / 4 + 2 / 4) / 3)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("images", "batch", "world", "taken"),
    [
        (33, 32, 1, [[32]]),  # the last one alone is no batch
        (40, 16, 1, [[16, 16]]),
        (20, 32, 1, [[20]]),  # none is full
        (60, 32, 2, [[16], [16]]),
        (31, 32, 2, [[16], [15]]),
        (61, 32, 3, [[10, 10], [10, 10], [10]]),
        (13, 12, 4, [[3], [3], [3], []]),  # shares of 4, 4, 4 and 1
        (10, 16, 8, [[2], [2], [2], [2], [2], [], [], []]),
        (12, 32, 16, [[12]] * 16),  # no share has two
    ],
)
def test_the_feature_kl_is_that_of_full_batches(tiny, tiny_data, monkeypatch, own, images, batch, world, taken):
    """Of every rank: one with fewer than two images has none, and the others' mean is the value."""
    data = dataclasses.replace(tiny_data, train=tiny_data.train.take(np.arange(images)))
    config = tiny.replace(batch_size=batch, train_size=None)
    pair, levels = make_pair(config, SHAPES), []
    measure = pair.feature_divergences if own else predictive._yardstick

    def counted(features):
        sizes.append(len(features[0][0]))
        return measure(features)

    monkeypatch.setattr(pair, "feature_divergences", counted)
    monkeypatch.setattr(predictive, "_yardstick", counted)
    monkeypatch.setattr(predictive.distributed, "size", lambda: world)
    sums = []
    monkeypatch.setattr(predictive.distributed, "mean_over_ranks", lambda value: sums.append(value) or value)
    for rank in range(world):
        sizes = []
        monkeypatch.setattr(predictive.distributed, "rank", lambda rank=rank: rank)
        level = predictive.feature_kl(config, pair, data, "train", epoch=0, device=torch.device("cpu"), own=own)
        assert sizes == taken[rank]
        levels += [level] if sizes else []
    assert all(level.isfinite() and (level > 0 or world == 8) for level in levels)  # of two images it is 0
    assert [float(weight) for weight in sums[1::2]] == [float(bool(sizes)) for sizes in taken]
    assert all(value == 0 for value, weight in zip(sums[::2], sums[1::2], strict=True) if weight == 0)


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


def test_a_gpu_predicts_many_of_trainings_batches_at_once(tiny):
    """As many as hold no more than a step does, fewer of large images; a processor predicts them as it always did."""
    tiny_data = dataset(tiny.replace(validation_size=60))
    with fake_gpu() as device:
        for changes, size in (({"batch_size": 3}, 48), ({"batch_size": 3, "samples_at_once": 4}, 12), ({"batch_size": 40}, 60)):
            given = tiny.replace(**changes), tiny_data.to(device), "validation", device
            assert len(next(predictive.shared_batches(*given))[0]) == size
            assert len(next(predictive.shared_batches(*given, most=1))[0]) == changes["batch_size"]
        large = dataclasses.replace(tiny_data, train=Split(torch.zeros(1, 3, 512, 512, dtype=torch.uint8), torch.zeros(1)))
        assert len(next(predictive.shared_batches(tiny.replace(batch_size=3), large.to(device), "validation", device))[0]) == 6
    assert len(next(predictive.shared_batches(tiny.replace(batch_size=3), tiny_data, "test", torch.device("cpu")))[0]) == 3


def test_predictions_do_not_depend_on_how_many_images_are_predicted_at_once(tiny, tiny_data):
    pair = make_pair(tiny, tiny_data.shapes)
    given = {"samples": 3, "epoch": 0, "device": torch.device("cpu")}
    few, many = (
        predictive.predictives(tiny.replace(batch_size=size), pair, tiny_data, "test", **given)[0]["pair"] for size in (5, 60)
    )
    torch.testing.assert_close(few.probabilities, many.probabilities, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_samples_in_bf16_together_are_near_those_one_by_one(tiny, peer, channels_last):
    """Mapped over samples, torch casts no convolutions: those stay in float32."""
    images, noise = draw(peer, 4)
    weights, config = peer.sample(noise).detach(), tiny.replace(precision="bf16", channels_last=channels_last)
    one_by_one, together = (
        predictive.predict(peer, images, weights, config.replace(samples_at_once=count)) for count in (1, 4)
    )
    torch.testing.assert_close(together.probabilities, one_by_one.probabilities, rtol=0.1, atol=0.02)
