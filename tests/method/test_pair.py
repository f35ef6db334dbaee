import itertools

import pytest
import torch

from mldiv.config import INITIALIZATIONS, ConfigError, TrialConfig
from mldiv.datasets.splits import Shapes
from mldiv.method import losses
from mldiv.method.alignment import ALIGNMENTS
from mldiv.method.fusion import FUSIONS
from mldiv.method.kernels import KERNELS
from mldiv.method.losses import (
    FEATURE_DIRECTIONS,
    FEATURE_REDUCTIONS,
    NORMALIZATIONS,
    PARAM_DISTANCES,
    PARAM_WEIGHTS,
    TRANSFORMS,
)
from mldiv.method.pair import Weights, term_names
from mldiv.training.loop import make_pair

SHAPES = Shapes(classes=10, channels=1, train_images=100)


def batch(seed=0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(12, 1, 8, 8, generator=stream), torch.randint(10, (12,), generator=stream)


def step(config, diverse=True, weights=None):
    pair = make_pair(config, SHAPES)
    pair.set_scales(torch.tensor(0.5))
    if weights is not None:
        pair.weights = weights
    images, labels = batch()
    noise = torch.randn(2, pair.peers[0].mean.numel(), generator=torch.Generator().manual_seed(1))
    total, terms = pair(images, labels, list(noise), diverse)
    total.backward()
    return pair, total, dict(zip(term_names(2), terms.tolist(), strict=True))


def combinations():
    """Every registry entry at least once with every other name of its own term; what the configuration refuses is left out."""
    changes = [{"kernel": k, "fusion": f} for k, f in itertools.product(KERNELS, FUSIONS)]
    changes += [
        {"param_distance": d, "param_transform": t, "param_normalization": n}
        for d, t, n in itertools.product(PARAM_DISTANCES, TRANSFORMS, NORMALIZATIONS)
    ]
    changes += [
        {"param_distance": d, "param_weights": w, "param_alignment": a}
        for d, w, a in itertools.product(PARAM_DISTANCES, PARAM_WEIGHTS, ALIGNMENTS)
    ]
    changes += [
        {"feature_transform": t, "feature_normalization": n, "feature_direction": d, "feature_reduction": r}
        for t, n, d, r in itertools.product(TRANSFORMS, NORMALIZATIONS, FEATURE_DIRECTIONS, FEATURE_REDUCTIONS)
    ]
    changes += [{"initialization": i, "include_diagonal": g} for i in INITIALIZATIONS for g in (True, False)]
    changes += [{"center_features": c, "precision": p} for c in (True, False) for p in ("float32", "bf16")]
    return changes


def impossible(changed):
    return changed.get("param_normalization") == "sum" and TRANSFORMS[changed["param_transform"]].bounded


def named(changed):
    return ", ".join(f"{name} {value}" for name, value in changed.items())


@pytest.mark.parametrize("changed", [changed for changed in combinations() if not impossible(changed)], ids=named)
def test_every_combination_that_config_allows_trains_a_step(tiny, changed):
    pair, total, _ = step(tiny.replace(**changed))
    assert total.isfinite()
    for peer in pair.peers:
        assert peer.mean.grad.isfinite().all()
        assert peer.rho.grad.isfinite().all()


def test_a_batch_of_one_image_is_refused_where_the_terms_act(tiny):
    pair = make_pair(tiny, SHAPES).eval()
    images, labels = batch()
    with pytest.raises(ValueError, match="at least two images a batch"):
        pair(images[:1], labels[:1], diverse=True)
    assert pair(images[:1], labels[:1], diverse=False)[0].isfinite()
    total, _ = pair(images[:2], labels[:2], diverse=True)
    total.backward()
    assert total.isfinite() and all(value.grad.isfinite().all() for peer in pair.peers for value in (peer.mean, peer.rho))


@pytest.mark.parametrize("changed", [changed for changed in combinations() if impossible(changed)], ids=named)
def test_a_bounded_transform_of_a_sum_is_refused(tiny, changed):
    with pytest.raises(ConfigError, match="param_normalization"):
        tiny.replace(**changed)


def test_total_is_the_weighted_sum(tiny):
    config = tiny.replace(alpha=0.7, beta=1.3, kl_weight=0.2, mutual_weight=0.5)
    _, total, terms = step(config)
    assert terms["fusion_nll"] > 0
    expected = (
        terms["nll_1"] + terms["nll_2"] + 0.2 * (terms["kl_1"] + terms["kl_2"])
        + 0.5 * (terms["mutual_1"] + terms["mutual_2"])
        + 0.7 * terms["param_diversity"] + 1.3 * terms["feature_diversity"] + terms["fusion_nll"]
    )  # fmt: skip
    assert total.item() == pytest.approx(expected, rel=1e-5) == pytest.approx(terms["total"], rel=1e-5)


def test_kl_is_per_training_image(tiny):
    pair, _, terms = step(tiny.replace(prior_mode="absolute"))
    prior = losses.gaussian_kl_to_prior(pair.peers[0].mean, pair.peers[0].sigma, 1.0)
    assert terms["kl_1"] == pytest.approx(prior.item() / 100, rel=1e-5)


@pytest.mark.parametrize(("direction", "distance"), [("symmetric", "w2"), ("forward", "kl"), ("reverse", "symmetric_kl")])
def test_each_peer_gets_the_gradient_of_its_own_loss(tiny, direction, distance):
    """Against each peer's loss written out with the other detached; what is symmetric is computed once for both."""
    config = tiny.replace(fusion="frozen", feature_direction=direction, param_distance=distance)
    apart = PARAM_DISTANCES[distance].function
    pair, _, _ = step(config)
    images, labels = batch()
    noise = torch.randn(2, pair.peers[0].mean.numel(), generator=torch.Generator().manual_seed(1))
    reference = make_pair(config, SHAPES)
    reference.set_scales(torch.tensor(0.5))
    outs = [peer(images, weights=peer.sample(drawn)) for peer, drawn in zip(reference.peers, noise, strict=True)]
    fused = [losses.normalize_features(feature, center=True) for feature in reference.fusion([outs[0][1], outs[1][1]])]
    p = [losses.conditional_distribution(reference.kernel(feature, feature)) for feature in fused]
    for own, other in ((0, 1), (1, 0)):
        mine, peer = reference.peers[own], reference.peers[other]
        prior = losses.gaussian_kl_to_prior(mine.mean, mine.sigma, 1.0, None, mine.prior_scale) / 100
        loss = losses.expected_nll(outs[own][0], labels) + config.kl_weight * prior
        loss = loss + losses.logit_mutual(outs[own][0], outs[other][0].detach(), config.temperature)
        value = apart(mine.mean, mine.sigma, peer.mean.detach(), peer.sigma.detach())
        loss = loss + config.alpha * -torch.log(value / reference.param_scale)
        kl = losses.feature_kl(p[own], p[other].detach(), direction=direction, reduction="batchmean")
        loss = loss + config.beta * -torch.log(kl / reference.feature_scale)
        (gradient,) = torch.autograd.grad(loss, mine.mean, retain_graph=True)
        torch.testing.assert_close(pair.peers[own].mean.grad, gradient, rtol=1e-3, atol=1e-6)


def test_weights_may_be_tensors(tiny):
    values = [torch.tensor(value, requires_grad=True) for value in (0.5, 1.5, 2.0, 0.1, 1.0)]
    tiny = tiny.replace(param_transform="exp")  # minus the logarithm of what it is divided by is 0
    _, total, _ = step(tiny, weights=Weights(*values))
    _, same, _ = step(tiny, weights=Weights(0.5, 1.5, 2.0, 0.1, 1.0))
    assert total.item() == pytest.approx(same.item(), rel=1e-6)
    assert all(value.grad is not None and value.grad.abs() > 0 for value in values)


def test_peers_start_apart_and_seeds_act():
    config = TrialConfig(arch="resnet8", width=0.25, fusion_dim=16)
    pair, same, other = (make_pair(config.replace(seed=seed), SHAPES) for seed in (0, 0, 1))
    assert torch.equal(pair.peers[0].mean, same.peers[0].mean)
    assert not torch.equal(pair.peers[0].mean, pair.peers[1].mean)
    assert not torch.equal(pair.peers[0].mean, other.peers[0].mean)
    assert not torch.equal(pair.fusion.peer_1.block, other.fusion.peer_1.block)


@pytest.mark.parametrize("normalization", ["sum", "mean", "switch"])
def test_scales_at_the_switch(tiny, normalization):
    normalized = {"param_normalization": normalization, "feature_normalization": normalization}
    pair = make_pair(tiny.replace(param_transform="negative", **normalized), SHAPES)
    pair.set_scales(torch.tensor(0.25))
    param, feature = {
        "sum": (1, 1),
        "mean": (pair.peers[0].mean.numel(), 1),
        "switch": (pytest.approx(pair.distance("w2").item()), 0.25),
    }[normalization]
    assert pair.param_scale.item() == param
    assert pair.feature_scale.item() == feature


@pytest.mark.parametrize("peers", [2, 3])
@pytest.mark.parametrize("distance", PARAM_DISTANCES)
def test_the_scale_at_the_switch_is_the_term_there(tiny, distance, peers):
    """So that the transform begins at 1, whichever way round a distance is taken; of "kl" both, as in the term."""
    pair = make_pair(tiny.replace(param_distance=distance, peers=peers, sigma_mode="absolute"), SHAPES)
    with torch.no_grad():
        pair.peers[0].rho.add_(1)  # so that the two directions differ
    noted = pair.set_scales(torch.tensor(0.25))
    terms = pair.param_terms([peer.sigma for peer in pair.peers])
    assert pair.param_scale.item() == noted["param_distance"] == terms["param_distance"][0].item()
    both = [
        PARAM_DISTANCES[distance].function(a.mean, a.sigma, b.mean, b.sigma).item()
        for a, b in itertools.permutations(pair.peers, 2)
    ]
    assert noted["param_distance"] == pytest.approx(sum(both) / len(both), rel=1e-5)
    assert distance != "kl" or abs(both[0] - both[peers - 1]) > 0.1 * both[0]


def test_by_layer_the_mean_normalization_counts_a_layers_weights(tiny):
    config = tiny.replace(param_transform="negative", param_normalization="mean", param_weights="layer")
    pair = make_pair(config, SHAPES)
    pair.set_scales(torch.tensor(0.25))
    assert pair.param_scale.item() == pair.peers[0].mean.numel() // len(pair.peers[0].sizes)
