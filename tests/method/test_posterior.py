import copy
import io
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torch.distributions import Normal
from torch.func import vmap
from torch.nn import functional

from mldiv.method import losses
from mldiv.method.networks import build
from mldiv.method.posterior import PRIOR_MEANS, PRIOR_MODES, GaussianPosterior


def vit():
    return torchvision.models.VisionTransformer(8, 4, 2, 2, 16, 32, num_classes=5)


def resnet10():
    """torchvision's ResNet-18 with one block where that has two: every kind of layer and shortcut, half the weights."""
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


MODULES = {
    "resnet8": (lambda: build("resnet8", classes=5, width=0.5, seed=0), 8),
    "resnet10": (resnet10, 32),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), 32),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.25), 32),
    "vit": (vit, 8),
}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name == "resnet18" else ()) for name in MODULES])
def case(request):
    make, size = MODULES[request.param]
    torch.manual_seed(0)
    return make().eval(), torch.randn(3, 3, size, size)


def logits(output):
    return output[0] if isinstance(output, tuple) else output


def test_mean_network_is_the_deterministic_one(case):
    module, images = case
    expected = logits(module(images))
    posterior = GaussianPosterior(copy.deepcopy(module)).eval()
    assert torch.equal(logits(posterior(images, weights=posterior.mean)), expected)
    names = {name for name, _ in posterior.named_parameters()}
    assert {"mean", "rho"} <= names
    counted = sum(value.numel() for value in posterior.parameters()) - posterior.rho.numel()
    assert counted == sum(value.numel() for value in module.parameters())


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for its CPU attention
def test_vmap_over_weight_samples_equals_the_loop(case):
    module, images = case
    posterior = GaussianPosterior(module).eval()
    noise = torch.randn(4, posterior.mean.numel(), generator=torch.Generator().manual_seed(1))
    weights = posterior.sample(noise)
    together = logits(vmap(lambda flat: posterior(images, weights=flat), chunk_size=2)(weights))
    single = torch.stack([logits(posterior(images, weights=sample)) for sample in weights])
    torch.testing.assert_close(together, single, rtol=1e-3, atol=1e-4)


def test_bf16_autocast(case):
    module, images = case
    posterior = GaussianPosterior(module).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = logits(posterior(images))
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    for vector in (posterior.mean, posterior.rho):
        assert vector.dtype == vector.grad.dtype == torch.float32
        assert vector.grad.isfinite().all() and vector.grad.abs().sum() > 0


def test_survives_copy_pickle_and_state_dict(case):
    module, images = case
    posterior = GaussianPosterior(module).eval()
    file = io.BytesIO()
    torch.save(posterior.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert not any(name.endswith("conv1.weight") for name in state)
    other = copy.deepcopy(posterior)
    with torch.no_grad():
        other.mean.add_(1)
    other.load_state_dict(state)
    for restored in (other, pickle.loads(pickle.dumps(posterior)), copy.deepcopy(posterior).to(torch.float64).float()):
        torch.testing.assert_close(
            logits(restored(images, weights=restored.mean)), logits(posterior(images, weights=posterior.mean))
        )


def test_initial_means_from_a_state_dict(case):
    module, images = case
    state = copy.deepcopy(module.state_dict())
    expected = logits(module(images))
    posterior = GaussianPosterior(module, initial_sigma=0.2, sigma_mode="absolute").eval()
    with torch.no_grad():
        posterior.mean.zero_()
        posterior.rho.zero_()
    posterior.load_means(state)
    assert torch.equal(logits(posterior(images, weights=posterior.mean)), expected)
    torch.testing.assert_close(posterior.sigma, torch.full_like(posterior.sigma, 0.2))


def test_samples_have_the_posteriors_moments():
    posterior = GaussianPosterior(nn.Linear(4, 3), initial_sigma=0.3, sigma_mode="absolute")
    weights = posterior.sample(torch.randn(20_000, 12, generator=torch.Generator().manual_seed(2)))
    error = 0.3 / 20_000**0.5
    assert ((weights.mean(0) - posterior.mean).abs() < 5 * error).all()
    torch.testing.assert_close(weights.std(0), posterior.sigma, rtol=0.03, atol=0)
    own = Normal(posterior.mean, posterior.sigma)
    prior = torch.distributions.kl_divergence(own, Normal(0.0, 0.5)).sum()
    torch.testing.assert_close(losses.gaussian_kl_to_prior(posterior.mean, posterior.sigma, 0.5), prior)


def test_relative_start_is_a_share_of_each_layers_size():
    module = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 30))
    nn.init.normal_(module[0].weight, std=2.0)
    nn.init.zeros_(module[1].weight)
    posterior = GaussianPosterior(module, initial_sigma=0.1)
    sigmas = posterior.views(posterior.sigma)
    assert sigmas["0.weight"].mean().item() == pytest.approx(0.2, rel=0.05)
    assert 0 < sigmas["1.weight"].mean().item() < 0.001


def test_cosine_by_layer():
    first, second = (GaussianPosterior(build("resnet8", classes=5, width=0.5, seed=seed)) for seed in (0, 1))
    cosines = first.cosine_by_layer(second)
    assert len(cosines) == 8 and all(abs(value) < 0.3 for value in cosines.values())
    same = first.cosine_by_layer(first)
    assert all(value.item() == pytest.approx(1) for value in same.values())


def test_tied_weights_are_one_weight():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    module = Tied()
    weight = module.a.weight.detach().clone()
    posterior = GaussianPosterior(module)
    assert posterior.mean.numel() == 9
    x = torch.randn(2, 3)
    torch.testing.assert_close(posterior(x, weights=posterior.mean), x @ weight.T @ weight.T)


def test_gradients_are_those_of_the_sampled_weights():
    """dL/dmean = dL/dw and dL/drho = dL/dw * noise * sigmoid(rho), for a fixed noise."""
    posterior = GaussianPosterior(nn.Linear(4, 2))
    noise = torch.randn(8)
    weights = posterior.sample(noise)
    weights.retain_grad()
    posterior(torch.randn(5, 4), weights=weights).square().sum().backward()
    torch.testing.assert_close(posterior.mean.grad, weights.grad)
    torch.testing.assert_close(posterior.rho.grad, weights.grad * noise * posterior.rho.sigmoid())


def test_channels_last_gives_the_same_output(case):
    module, images = case
    posterior = GaussianPosterior(module).eval()
    expected = logits(posterior(images, weights=posterior.mean))
    out = logits(posterior(images.contiguous(memory_format=torch.channels_last), weights=posterior.mean))
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)


def test_a_sample_of_a_sigma_at_hand_is_the_same_sample_with_the_same_gradients():
    posterior = GaussianPosterior(build("resnet8", classes=5, width=0.5, seed=0))
    noise, upstream = torch.randn(2, posterior.mean.numel())
    for drawn in (posterior.sample(noise), posterior.draw(posterior.sigma, noise)):
        drawn.backward(upstream)
    assert torch.equal(posterior.sample(noise), posterior.draw(posterior.sigma, noise))
    for value in (posterior.mean, posterior.rho):  # both added up: twice the one
        assert torch.equal(value.grad / 2, torch.autograd.grad(posterior.sample(noise), value, upstream)[0])


def test_without_noise_every_sample_is_a_fresh_one():
    posterior, draws = GaussianPosterior(nn.Linear(4, 2)), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(posterior.sample())
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert not torch.equal(posterior.sample(), draws[2])


def two_layers(seed=0):
    """Weights of different sizes, one of them zero."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    nn.init.normal_(module[0].weight, std=2.0)
    with torch.no_grad():
        module[0].weight[0, 0] = 0.0
    return module


def test_a_start_that_is_a_share_of_each_weight():
    """At least of a hundredth of its layer's size, so that rho is finite; after loading, of the weights that were loaded."""
    posterior = GaussianPosterior(two_layers(), initial_sigma=0.1, sigma_mode="weight")
    for state in (None, two_layers(1).state_dict()):
        if state is not None:
            posterior.load_means(state)
        for name, sigma in posterior.views(posterior.sigma).items():
            means = posterior.views(posterior.mean)[name].detach().double()
            floor = 0.01 * float(means.square().mean()) ** 0.5
            expected = 0.1 * means.abs().clamp_min(floor)
            torch.testing.assert_close(sigma.double(), expected, rtol=1e-4, atol=0)
    assert posterior.rho.isfinite().all()
    smallest = GaussianPosterior(two_layers(), initial_sigma=1e-20, sigma_mode="weight")
    assert smallest.rho.isfinite().all() and (smallest.sigma > 0).all()


@pytest.mark.parametrize("prior_mode", PRIOR_MODES)
@pytest.mark.parametrize("prior_mean", PRIOR_MEANS)
def test_the_kl_to_every_prior_against_torch_distributions(prior_mode, prior_mean):
    """The prior is made of the weights at the start, random or loaded, whatever the means become; its gradient too."""
    posterior = GaussianPosterior(two_layers(), initial_sigma=0.3, prior_mode=prior_mode, prior_mean=prior_mean).double()
    for state in (None, two_layers(1).state_dict()):
        if state is not None:
            posterior.load_means(state)
        start = posterior.mean.detach().clone()
        with torch.no_grad():
            posterior.mean.add_(torch.randn(len(start), generator=torch.Generator().manual_seed(2)))
        rms = torch.cat([part.square().mean().sqrt().expand(len(part)) for part in start.split(posterior.sizes)])
        prior = Normal(
            start if prior_mean == "start" else torch.zeros_like(start),
            0.7 * (rms if prior_mode == "relative" else torch.ones_like(rms)),
        )
        expected = torch.distributions.kl_divergence(Normal(posterior.mean, posterior.sigma), prior).sum()
        found = posterior.kl_to_prior(posterior.sigma, 0.7)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        for value in (posterior.mean, posterior.rho):
            own, other = (torch.autograd.grad(kl, value, retain_graph=True)[0] for kl in (found, expected))
            torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-9)


def test_the_usual_prior_is_computed_as_it_always_was():
    """Bit for bit, and it adds nothing to a state dict, so that what was stored before loads."""
    posterior = GaussianPosterior(two_layers())
    assert torch.equal(
        posterior.kl_to_prior(posterior.sigma, 0.7), losses.gaussian_kl_to_prior(posterior.mean, posterior.sigma, 0.7)
    )
    assert set(posterior.state_dict()) == {"mean", "rho", "module.0.bias", "module.1.bias"}


def test_the_prior_is_in_the_state_dict():
    kinds = {"prior_mode": "relative", "prior_mean": "start"}
    first, second = (GaussianPosterior(two_layers(seed), **kinds) for seed in (0, 1))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.prior_center, first.mean)
    torch.testing.assert_close(second.kl_to_prior(second.sigma, 1.0), first.kl_to_prior(first.sigma, 1.0))


def test_a_network_without_noise():
    posterior = GaussianPosterior(two_layers(), initial_sigma=0.0)
    posterior.load_means(two_layers(1).state_dict())
    assert not posterior.noisy and not posterior.rho.requires_grad and (posterior.sigma == 0).all()
    assert torch.equal(posterior.sample(), posterior.mean) and posterior.kl_to_prior(posterior.sigma, 1.0) == 0


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"no convolution or linear layer.*own-network\.md"):
        GaussianPosterior(nn.ReLU())
    with pytest.raises(ValueError, match="must not be negative"):
        GaussianPosterior(nn.Linear(2, 2), initial_sigma=-0.1)
    with pytest.raises(ValueError, match="sigma_mode 'x': expected relative or absolute or weight"):
        GaussianPosterior(nn.Linear(2, 2), sigma_mode="x")
    with pytest.raises(ValueError, match="prior_mean 'x': expected zero or start"):
        GaussianPosterior(nn.Linear(2, 2), prior_mean="x")
    with pytest.raises(ValueError, match=r"extra is unknown; weight has shape \(3, 2\), not \(2, 2\)"):
        GaussianPosterior(nn.Linear(2, 2)).load_means(
            {"weight": torch.ones(3, 2), "bias": torch.ones(2), "extra": torch.ones(1)}
        )


# How weights reach their layers


def by_layers(posterior, images, flat):
    """Logits where every layer casts and lays out its own weights, as `functional_call` alone has it."""
    return logits(torch.func.functional_call(posterior.module, posterior.views(flat), (images,)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_cast_and_laid_out_together_are_those_of_each_layer(dtype, layout):
    """To the bit, and so are the gradients."""
    posterior = GaussianPosterior(build("resnet8", classes=5, seed=0)).eval()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    found = []
    for call in (lambda flat: logits(posterior(images, weights=flat)), lambda flat: by_layers(posterior, images, flat)):
        flat = posterior.mean.detach().clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = call(flat)
        found.append((out.detach(), *torch.autograd.grad(out.float().square().sum(), flat)))
    assert found[0][0].dtype == dtype and all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


class OwnPrecision(nn.Module):
    """A network whose classifier runs in float32 whatever it is called under, and which draws numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, images):
        features = functional.dropout(self.norm(self.first(images)).relu())
        with torch.autocast(images.device.type, enabled=False):
            return self.last(features.float().mean((2, 3)))


def test_layers_that_switch_autocast_off_get_float32():
    """To the bit as each layer would cast its own; what tells it leaves no buffer and no random number changed."""
    torch.manual_seed(0)
    posterior, images = GaussianPosterior(OwnPrecision()), torch.randn(4, 3, 8, 8)
    alone, flat = copy.deepcopy(posterior), posterior.mean.detach()
    found = []
    for call in (lambda: posterior(images, weights=flat), lambda: by_layers(alone, images, flat)):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(call())
    assert found[0].dtype == torch.float32 and torch.equal(*found)
    assert torch.equal(posterior.module.norm.running_mean, alone.module.norm.running_mean)


class Branched(OwnPrecision):
    """One whose classifier has its own precision in training alone, and takes its weights itself."""

    def forward(self, images):
        features = self.first(images.sub_(0.5)).relu().mean((2, 3))
        with torch.autocast(images.device.type, enabled=not self.training):
            return functional.linear(features if not self.training else features.float(), self.last.weight)


def test_how_layers_cast_is_seen_in_the_passes_that_are_made_anyway():
    """In training and in evaluation apart; the input is changed once, a network kept by an older version serves as well."""
    posterior = GaussianPosterior(Branched())
    posterior.__dict__.pop("all_cast", None)
    hooked, given = [], torch.ones(4, 3, 8, 8)
    posterior.module.first.register_forward_hook(lambda *_: hooked.append(1))
    with torch.autocast("cpu", torch.bfloat16):
        for place, training in enumerate((False, True, False, True), 1):
            out = posterior.train(training)(given)
            assert out.dtype == (torch.float32 if training else torch.bfloat16)
            assert len(hooked) == place and given.mean() == 1 - 0.5 * place


def test_a_shared_weight_is_cast_by_each_of_its_layers():
    class Tied(nn.Sequential):
        def forward(self, given):
            return self[1](self[0](given).relu())

    module = Tied(nn.Linear(6, 6), nn.Linear(6, 6))
    module[1].weight = module[0].weight
    posterior, given, found = GaussianPosterior(module), torch.randn(5, 6), []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            out = posterior(given, weights=posterior.mean).float().square().sum()
        found.append(torch.autograd.grad(out, posterior.mean)[0])
    assert posterior.tied and torch.equal(*found), "the first pass of a process is as every other"


def test_a_network_that_was_looked_at_in_inference_mode_can_be_trained():
    posterior = GaussianPosterior(build("resnet8", classes=5, seed=0))
    images = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            posterior(images)
        logits(posterior(images)).float().square().sum().backward()
    assert posterior.mean.grad.abs().sum() > 0


@pytest.mark.parametrize("name", MODULES)
def test_convolutions_laid_out_at_once_hold_their_own_weights(name):
    make, _ = MODULES[name]
    posterior = GaussianPosterior(make())
    flat = torch.arange(posterior.mean.numel(), dtype=torch.float64, requires_grad=True)
    found, expected = posterior._channels_last_views(flat), posterior.views(flat)
    assert found.keys() == expected.keys()
    for layer, weight in expected.items():
        assert torch.equal(found[layer], weight), layer
        assert found[layer].dim() != 4 or found[layer].is_contiguous(memory_format=torch.channels_last), layer
    factor = torch.randn(len(flat), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (grad,) = torch.autograd.grad(sum((found[layer] * part).sum() for layer, part in posterior.views(factor).items()), flat)
    assert torch.equal(grad, factor)
