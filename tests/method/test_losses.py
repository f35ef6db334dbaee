import math
from functools import partial

import ot
import pytest
import torch
from helpers import references
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config as shapes
from scipy import linalg
from torch.distributions import Categorical, Normal, kl_divergence

from mldiv.method import losses
from mldiv.method.kernels import KERNELS
from mldiv.method.losses import NORMALIZATIONS, PARAM_DISTANCES, TRANSFORMS, transform_scale

DRAWS = 10_000


def gaussians(count=6, seed=0, dtype=torch.double):
    stream = torch.Generator().manual_seed(seed)
    means = torch.randn(2, count, generator=stream, dtype=dtype)
    sigmas = 0.3 + torch.rand(2, count, generator=stream, dtype=dtype)
    return means[0], sigmas[0], means[1], sigmas[1]


def test_w2_against_pot_and_matrix_square_root():
    mean, sigma, peer_mean, peer_sigma = gaussians()
    value = losses.squared_w2(mean, sigma, peer_mean, peer_sigma).item()
    a, b = torch.diag(sigma**2).numpy(), torch.diag(peer_sigma**2).numpy()
    assert value == pytest.approx(ot.gaussian.bures_wasserstein_distance(mean.numpy(), peer_mean.numpy(), a, b) ** 2)
    root = linalg.sqrtm(a)
    bures = (a + b - 2 * linalg.sqrtm(root @ b @ root)).trace().real
    assert value == pytest.approx(((mean - peer_mean) ** 2).sum().item() + bures)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_gradient_of_w2_is_autograds_to_the_bit(fixed):
    given = [value.float().requires_grad_(not fixed or place < 2) for place, value in enumerate(gaussians(1000))]
    mean, sigma, peer_mean, peer_sigma = given
    plain = (mean - peer_mean).square().sum() + (sigma - peer_sigma).square().sum()
    learning = [value for value in given if value.requires_grad]
    found, expected = (torch.autograd.grad(-value.log(), learning) for value in (losses.squared_w2(*given), plain))
    assert torch.equal(losses.squared_w2(*given), plain)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("weights", losses.PARAM_WEIGHTS)
def test_the_second_derivatives_of_w2_are_right_too(weights):
    sizes, prepared = [3, 7], losses.PARAM_WEIGHTS[weights].function
    given = [value.requires_grad_() for value in gaussians(10)]

    def distance(mean, sigma, peer_mean, peer_sigma):
        return losses.squared_w2(*prepared(mean, sigma, sizes), *prepared(peer_mean, peer_sigma, sizes)).log()

    assert torch.autograd.gradcheck(distance, given) and torch.autograd.gradgradcheck(distance, given)


def test_kls_against_torch_distributions():
    mean, sigma, peer_mean, peer_sigma = gaussians()
    own, peer = Normal(mean, sigma), Normal(peer_mean, peer_sigma)
    assert losses.gaussian_kl(mean, sigma, peer_mean, peer_sigma).item() == pytest.approx(kl_divergence(own, peer).sum().item())
    both = (kl_divergence(own, peer) + kl_divergence(peer, own)).sum().item()
    assert losses.symmetric_gaussian_kl(mean, sigma, peer_mean, peer_sigma).item() == pytest.approx(both)
    prior = kl_divergence(own, Normal(torch.zeros_like(mean), 0.7 * torch.ones_like(mean))).sum().item()
    assert losses.gaussian_kl_to_prior(mean, sigma, 0.7).item() == pytest.approx(prior)


@pytest.mark.parametrize("to_prior", [True, False])
def test_kls_against_draws(to_prior):
    mean, sigma, peer_mean, peer_sigma = gaussians()
    own = Normal(mean, sigma)
    other = Normal(torch.zeros_like(mean), torch.ones_like(mean)) if to_prior else Normal(peer_mean, peer_sigma)
    torch.manual_seed(0)
    weights = own.sample((DRAWS,))
    ratios = (own.log_prob(weights) - other.log_prob(weights)).sum(-1)
    exact = (
        losses.gaussian_kl_to_prior(mean, sigma, 1.0) if to_prior else losses.gaussian_kl(mean, sigma, peer_mean, peer_sigma)
    )
    assert abs(ratios.mean() - exact) < 4 * ratios.std() / math.sqrt(DRAWS)


@pytest.fixture
def unchecked_shapes():
    """As in a loop of one's own, where no annotation is executed."""
    shapes.update("jaxtyping_disable", True)
    yield
    shapes.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("compute", [entry.function for entry in PARAM_DISTANCES.values()])
def test_one_sigma_for_all_weights_is_refused_and_not_counted_once(compute, place):
    wrong = [value.mean() if number == place else value for number, value in enumerate(gaussians())]
    with pytest.raises(ValueError, match=r"of shapes .*\(6,\).*expand_as"):
        compute(*wrong)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("place", range(2))
def test_one_sigma_for_all_weights_is_refused_by_the_kl_to_the_prior(place):
    wrong = [value.mean() if number == place else value for number, value in enumerate(gaussians()[:2])]
    with pytest.raises(ValueError, match=r"of shapes .*\(6,\).*expand_as"):
        losses.gaussian_kl_to_prior(*wrong, 1.0)


def test_logit_mutual_against_torch_distributions():
    stream = torch.Generator().manual_seed(1)
    own, peer = torch.randn(2, 7, 5, generator=stream, dtype=torch.double).requires_grad_().unbind()
    temperature = 3.0
    value = losses.logit_mutual(own, peer, temperature)
    expected = kl_divergence(Categorical(logits=peer / temperature), Categorical(logits=own / temperature)).mean()
    assert value.item() == pytest.approx(temperature**2 * expected.item(), rel=1e-5)
    tensor = torch.tensor(temperature, requires_grad=True)
    losses.logit_mutual(own, peer, tensor).backward()
    assert tensor.grad is not None and tensor.grad.abs() > 0


def test_logit_mutual_detaches_the_peer():
    own, peer = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    losses.logit_mutual(own, peer, 2.0).backward()
    assert own.grad is not None and peer.grad is None


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("name", KERNELS)
def test_conditional_distribution_and_feature_kl_against_loops(name, diagonal):
    stream = torch.Generator().manual_seed(2)
    rows = torch.randn(2, 7, 4, generator=stream, dtype=torch.double)
    p, q = (losses.conditional_distribution(KERNELS[name](features, features), include_diagonal=diagonal) for features in rows)
    loops = []
    for batch, fast in zip(rows.tolist(), (p, q), strict=True):
        similarity = [[references.kernel(name, a, b, batch) for b in batch] for a in batch]
        loops.append(references.conditional(similarity, diagonal))
        torch.testing.assert_close(fast, torch.tensor(loops[-1], dtype=torch.double), rtol=1e-7, atol=1e-9)
    forward, reverse = references.divergence(*loops), references.divergence(*reversed(loops))
    for direction, expected in (("forward", forward), ("reverse", reverse), ("symmetric", forward + reverse)):
        for reduction, count in (("sum", 1), ("batchmean", 7), ("mean", 49)):
            value = losses.feature_kl(p, q, direction=direction, reduction=reduction).item()
            assert value == pytest.approx(expected / count, rel=1e-6)


def test_conditional_distribution_of_nothing_similar_is_uniform():
    p = losses.conditional_distribution(torch.zeros(4, 4))
    torch.testing.assert_close(p, (1 - torch.eye(4)) / 3)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("name", KERNELS)
def test_one_image_has_nothing_to_be_compared_with(name, diagonal):
    rows = torch.ones(1, 4)
    with pytest.raises(ValueError, match="at least two images a batch"):
        losses.conditional_distribution(KERNELS[name](rows, rows), include_diagonal=diagonal)
    mapped = torch.func.vmap(partial(losses.conditional_distribution, include_diagonal=diagonal))
    with pytest.raises(ValueError, match="1 image in the batch"):
        mapped(torch.ones(3, 1, 1))
    assert mapped(torch.ones(3, 2, 2)).shape == (3, 2, 2)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("direction", losses.FEATURE_DIRECTIONS)
@pytest.mark.parametrize("name", KERNELS)
def test_two_centered_images_are_opposite_and_push_at_nothing(name, direction, diagonal):
    """Finite, and dead: their neighbourhoods are the same whatever the features."""
    rows = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(4)).requires_grad_()
    normalized = [losses.normalize_features(each, center=True) for each in rows]
    p, q = (losses.conditional_distribution(KERNELS[name](each, each), include_diagonal=diagonal) for each in normalized)
    value = losses.feature_kl(p, q.detach(), direction=direction, reduction="batchmean")
    (gradient,) = torch.autograd.grad(value, rows)
    assert value.abs() < 1e-6 and gradient.abs().max() < 1e-6


def test_feature_kl_gradient_through_the_zero_diagonal():
    rows = torch.randn(2, 5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(3)).requires_grad_()

    def divergence(rows):
        p, q = (losses.conditional_distribution(KERNELS["cosine"](features, features)) for features in rows)
        return losses.feature_kl(p, q, direction="symmetric", reduction="batchmean")

    assert torch.autograd.gradcheck(divergence, rows)


@pytest.mark.parametrize("changed", [{"direction": "x"}, {"reduction": "x"}])
def test_feature_kl_refuses_unknown_names(changed):
    with pytest.raises(ValueError, match="expected one of"):
        losses.feature_kl(torch.eye(2), torch.eye(2), **({"direction": "forward", "reduction": "sum"} | changed))


def test_centering():
    rows = 5 + torch.randn(6, 3)
    torch.testing.assert_close(losses.normalize_features(rows, center=True).mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert torch.equal(losses.normalize_features(rows, center=False), rows)


@pytest.mark.parametrize("name", PARAM_DISTANCES)
def test_a_distance_is_symmetric_where_it_says_so(name):
    mean, sigma, peer_mean, peer_sigma = gaussians()
    function, symmetric, _ = PARAM_DISTANCES[name]
    there, back = function(mean, sigma, peer_mean, peer_sigma), function(peer_mean, peer_sigma, mean, sigma)
    assert (there.item() == pytest.approx(back.item(), rel=1e-9)) == symmetric


@pytest.mark.parametrize("name", PARAM_DISTANCES)
def test_a_distance_is_finite_without_noise_where_it_says_so(name):
    mean, sigma, peer_mean, _ = gaussians()
    function, _, needs_noise = PARAM_DISTANCES[name]
    value = function(mean, torch.zeros_like(sigma), peer_mean, torch.zeros_like(sigma))
    assert value.isfinite().item() != needs_noise


@pytest.mark.parametrize("name", TRANSFORMS)
@given(x=st.floats(0, 20), step=st.floats(0.01, 5))
def test_transforms_fall_as_the_distance_grows(name, x, step):
    value = torch.tensor(x, dtype=torch.double, requires_grad=True)
    loss = TRANSFORMS[name].function(value)
    loss.backward()
    assert loss.isfinite() and value.grad is not None and value.grad.isfinite()
    assert TRANSFORMS[name].function(torch.tensor(x + step, dtype=torch.double)) < loss


@pytest.fixture(scope="module")
def resnet20_means():
    """Two independent Kaiming (fan-out) mean vectors of a ResNet-20's 276,656 weights with W2^2 about 2,770."""
    stream = torch.Generator().manual_seed(4)
    count = 276_656
    return [math.sqrt(2_770 / (2 * count)) * torch.randn(count, generator=stream) for _ in range(2)]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("distance", PARAM_DISTANCES)
def test_gradient_at_network_scale(name, normalization, distance, resnet20_means):
    """Finite everywhere; zero only where the configuration refuses the combination; METHOD's figures where it gives one."""
    mean, peer = resnet20_means
    mean = mean.clone().requires_grad_()
    sigma = torch.full_like(peer, 0.05)
    value = PARAM_DISTANCES[distance].function(mean, sigma, peer, sigma)
    TRANSFORMS[name].function(value / transform_scale(normalization, value, peer.numel())).backward()
    assert mean.grad is not None
    norm = mean.grad.norm().item()
    assert math.isfinite(norm)
    assert (norm > 0) == (not (TRANSFORMS[name].bounded and normalization == "sum"))
    known = {
        ("negative", "sum"): 105, ("negative_sqrt", "sum"): 1.0, ("negative_log", "sum"): 0.038,
        ("softplus", "mean"): 1.9e-4, ("exp", "mean"): 3.8e-4,
    }  # fmt: skip
    if distance == "w2" and (name, normalization) in known:
        assert norm == pytest.approx(known[name, normalization], rel=0.03)


def test_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match="expected one of"):
        transform_scale("median", torch.ones(()), 3)


@pytest.mark.parametrize("prior_std", [0.5, 2.0])
def test_gradient_of_the_kl_to_the_prior_against_finite_differences(prior_std):
    """It is written out by hand."""
    mean, sigma, _, _ = (value.requires_grad_() for value in gaussians())
    assert torch.autograd.gradcheck(partial(losses.gaussian_kl_to_prior, prior_std=prior_std), (mean, sigma))


def test_by_layer_against_autograd():
    """The written-out gradient of both vectors, through the norm; of a layer of zeros nothing flows through it."""
    sizes = [3, 5, 2]
    mean, sigma = (torch.randn(10, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in (0, 1))
    into = [torch.randn(10, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3)]
    with torch.no_grad():
        mean[8:] = 0
    found = torch.autograd.grad(losses.by_layer(mean, sigma, sizes), (mean, sigma), into)
    least = torch.tensor(losses.SMALLEST_NORM, dtype=torch.float64)
    m, s = (value.detach().double().requires_grad_() for value in (mean, sigma))
    norms = [part.square().sum().sqrt() for part in m.split(sizes)[:2]] + [least]
    expected = [torch.cat([part / norm for part, norm in zip(v.split(sizes), norms, strict=True)]) for v in (m, s)]
    for value, own in zip(losses.by_layer(mean, sigma, sizes), expected, strict=True):
        torch.testing.assert_close(value.double(), own, rtol=1e-5, atol=1e-6)
    for value, own in zip(found, torch.autograd.grad(expected, (m, s), [v.double() for v in into]), strict=True):
        torch.testing.assert_close(value.double(), own, rtol=1e-4, atol=1e-5)
