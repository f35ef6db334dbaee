"""Networks whose layers are Bayesian already, as other libraries': a pair takes their means and sigmas as they are."""

import copy
import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, softplus

from mldiv.method.fusion import shared
from mldiv.method.gradients import gradient_lengths, strengths
from mldiv.method.networks import MODELS
from mldiv.method.pair import MutualPair, Objective
from mldiv.method.posterior import GaussianPosterior

SIZES = ((8, 6), (6, 3))
INPUTS, LABELS = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3


class Layer(nn.Module):
    """A linear layer that draws its weights; ``noise`` is what it drew last."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.mu_weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.rho_weight = nn.Parameter(torch.randn(outputs, inputs) - 3)

    def forward(self, x):
        self.noise = torch.randn_like(self.mu_weight)
        return linear(x, self.mu_weight + softplus(self.rho_weight) * self.noise)


class Network(nn.Sequential):
    def forward(self, inputs):
        features = self[0](inputs).relu()
        return self[1](features), (features[:, :, None, None],)


def posterior_of(network):
    return [(layer.mu_weight, softplus(layer.rho_weight)) for layer in network]


def layers():
    return [Network(*(Layer(*size) for size in SIZES)) for _ in range(2)]


def made(networks=None, posterior_of=posterior_of, **objective):
    fusion = shared((6,), classes=3)
    objective = Objective(**{"train_images": 30, "fusion_training": "task", "alpha": 0.2, "beta": 0.2} | objective)
    return MutualPair(networks or layers(), objective, fusion=fusion, posterior_of=posterior_of)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"param_weights": "layer", "kl_weight": 1.0}, {"param_distance": "kl"}])
def test_loss_and_gradients_are_those_of_a_posterior_that_mldiv_makes(changes, samples):
    """The other pair's plain networks get the same means and sigmas, and the noise that the layers drew."""
    torch.manual_seed(0)
    networks = layers()
    given = made(networks, train_samples=samples, **changes)
    plain = [Network(*(nn.Linear(*size, bias=False) for size in SIZES)) for _ in range(2)]
    pair = MutualPair(plain, given.objective, fusion=given.fusion)
    drawn = [[], []]
    for peer, network, noise in zip(pair.peers, networks, drawn, strict=True):
        peer.mean.data = torch.cat([layer.mu_weight.flatten() for layer in network]).detach()
        peer.rho.data = torch.cat([layer.rho_weight.flatten() for layer in network]).detach()
        network.register_forward_hook(
            lambda module, *_, noise=noise: noise.append(torch.cat([layer.noise.flatten() for layer in module]))
        )
    assert given.set_scales(given.feature_kl(INPUTS))["param_distance"] == pytest.approx(pair.set_scales(0.3)["param_distance"])
    given.set_scales(0.3)
    for own in drawn:
        own.clear()
    loss, terms = given(INPUTS, LABELS, diverse=True)
    noise = [torch.stack(own) if samples > 1 else own[0] for own in drawn]
    expected_loss, expected = pair(INPUTS, LABELS, noise, diverse=True)
    torch.testing.assert_close(terms, expected)
    loss.backward()
    gradients = [torch.cat([layer.mu_weight.grad.flatten() for layer in network]) for network in networks]
    of_rhos = [torch.cat([layer.rho_weight.grad.flatten() for layer in network]) for network in networks]
    expected_loss.backward()
    for peer, own, own_rho in zip(pair.peers, gradients, of_rhos, strict=True):
        torch.testing.assert_close(own, peer.mean.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(own_rho, peer.rho.grad, rtol=1e-4, atol=1e-6)


def test_shares_of_the_gradient_are_measured_in_the_layers_means():
    torch.manual_seed(0)
    pair = made()
    pair.set_scales(pair.feature_kl(INPUTS))
    terms = {name: sum(values) for name, values in pair.terms(INPUTS, LABELS, diverse=True).items()}
    lengths = gradient_lengths(pair, terms)
    by_hand = torch.autograd.grad(terms["nll"], [layer.mu_weight for layer in pair.peers[1].module], retain_graph=True)
    assert lengths["nll"]["mean_2"] == pytest.approx(float(torch.cat([part.flatten() for part in by_hand]).norm()))
    assert all(value > 0 for value in strengths(lengths, 2).values())


def test_a_pair_goes_on_from_its_state():
    first, second = made(), made()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.distance(), second.distance()) and first.distance() > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda network: [], "posterior_of found no mean in Network"),
        (
            lambda network: [(layer.mu_weight.clone(), softplus(layer.rho_weight)) for layer in network],
            "mean 0 of posterior_of",
        ),
        (lambda network: [(layer.mu_weight, torch.ones(())) for layer in network], "of shape (6, 8) with a sigma of shape ()"),
        (lambda network: [(layer.mu_weight, layer.rho_weight) for layer in network], "expected sigmas, above 0, and no rhos"),
        (lambda network: 2 * posterior_of(network), "posterior_of gave 0.mu_weight twice"),
    ],
)
def test_what_is_no_posterior_is_refused(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        made(posterior_of=given)


def test_means_that_change_from_call_to_call_are_refused():
    """Used up, reversed, or of the network that was copied: each would have paired means with others' sigmas, or none."""
    networks = layers()
    used_up = {id(network): iter(posterior_of(network)) for network in networks}
    calls = []

    def reversed_later(network):
        calls.append(network)
        return posterior_of(network)[:: 1 if len(calls) <= 2 else -1]

    own = [posterior_of(network) for network in networks]
    kept = made(networks, posterior_of=lambda network: own[0] if network not in networks[1:] else own[1])
    for pair in (made(networks, lambda network: used_up[id(network)]), made(networks, reversed_later), copy.deepcopy(kept)):
        with pytest.raises(ValueError, match="posterior_of gave other means of Network than when the pair was made"):
            pair(INPUTS, LABELS)


def test_networks_whose_means_come_in_different_orders_are_refused():
    """Of layers of one shape nothing else would tell."""
    networks = [Network(Layer(6, 6), Layer(6, 6)) for _ in range(2)]
    with pytest.raises(ValueError, match="the networks' means in different orders"):
        made(networks, posterior_of=lambda network: posterior_of(network)[:: 1 if network is networks[0] else -1])


def test_what_a_given_posterior_cannot_do_is_said():
    with pytest.raises(ValueError, match="initial_sigma with posterior_of"):
        MutualPair(layers(), Objective(train_images=30), fusion=shared((6,)), posterior_of=posterior_of, initial_sigma=0.1)
    with pytest.raises(ValueError, match="param_alignment = 'weights' with posterior_of"):
        made(param_alignment="weights")
    with pytest.raises(ValueError, match="leave it out"):
        made()(INPUTS, LABELS, [torch.randn(66), torch.randn(66)])
    with pytest.raises(ValueError, match="leave them out"):
        made().peers[0](INPUTS, weights=torch.zeros(66))


@pytest.mark.parametrize("names", [("mu_weight", "rho_weight"), ("weight_mu", "weight_sigma"), ("loc", "log_scale")])
def test_a_bayesian_layer_beside_plain_ones_is_no_silent_loss_of_its_kl(names):
    """The names of bayesian-torch's, of torch-uncertainty's and of a distribution's parameters."""
    own = nn.Module()
    for name in names:
        own.register_parameter(name, nn.Parameter(torch.zeros(3)))
    with pytest.warns(UserWarning, match=re.escape("the layer 1 (Module) seems Bayesian already")):
        GaussianPosterior(nn.Sequential(nn.Linear(3, 3), own))


def test_no_network_of_a_study_is_taken_for_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in MODELS.values():
            GaussianPosterior(model(10, 3, 1.0, 32))
        own = nn.Sequential(nn.BatchNorm2d(3), nn.LayerNorm(3), nn.MultiheadAttention(4, 2), nn.Linear(3, 3))
        GaussianPosterior(own)
