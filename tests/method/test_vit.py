"""The small vision transformer, against torchvision's own forward, alone and as a mutual pair."""

import copy

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cosine_similarity as cosine
from torchvision.models.vision_transformer import VisionTransformer

from mldiv.datasets.splits import Shapes, eval_batches
from mldiv.evaluation import predictive
from mldiv.evaluation.metrics import entropy
from mldiv.method import losses
from mldiv.method.architectures.torchvision_networks import HEAD_STD, POSITION_STD, patch_size, token_width
from mldiv.method.fusion import pool
from mldiv.method.kernels import KERNELS
from mldiv.method.networks import build
from mldiv.method.posterior import GaussianPosterior
from mldiv.storage.cache import Store
from mldiv.training import step_cost
from mldiv.training.loop import make_pair
from mldiv.training.pretraining import pretrained
from mldiv.training.worker_cache import Workspace

CPU = torch.device("cpu")


def small(size=8, channels=3, width=0.5, seed=0):
    """A network in which every parameter matters: those that start at zero are random too."""
    module = build("vit", classes=6, channels=channels, width=width, seed=seed, image_size=size)
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            if value.dim() == 1 or not value.any():
                value.add_(0.3 * torch.randn(value.shape, generator=stream))
    return module


def reference(module, state=None):
    """torchvision's network of the same shape with the same state, and a list that its encoder layers fill."""
    hidden = module.hidden_dim
    heads = module.encoder.layers[0].num_heads
    other = VisionTransformer(module.image_size, module.patch_size, 4, heads, hidden, 2 * hidden, num_classes=6)
    other.load_state_dict(state or module.state_dict())
    tokens = []
    for layer in other.encoder.layers:
        layer.register_forward_hook(lambda layer, inputs, output: tokens.append(output))
    return other.eval(), tokens


def batch(size=8, channels=3, count=5, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=stream), torch.randint(6, (count,), generator=stream)


@pytest.fixture
def config(tiny):
    return tiny.replace(arch="vit", width=0.5)


@pytest.mark.parametrize(
    ("size", "patch", "channels", "width", "hidden"), [(8, 2, 1, 0.25, 32), (28, 4, 1, 0.5, 64), (32, 4, 3, 1.0, 128)]
)
def test_parameter_count(size, patch, channels, width, hidden):
    patches, mlp, classes = (size // patch) ** 2, 2 * hidden, 10
    embedding = (channels * patch**2 + 1) * hidden + hidden + (patches + 1) * hidden
    attention = (hidden + 1) * 3 * hidden + (hidden + 1) * hidden
    layer = 2 * 2 * hidden + attention + (hidden + 1) * mlp + (mlp + 1) * hidden
    module = build("vit", classes=classes, channels=channels, width=width, seed=0, image_size=size)
    count = sum(value.numel() for value in module.parameters())
    assert count == embedding + 4 * layer + 2 * hidden + (hidden + 1) * classes
    if size == 32:
        assert count == 546_186


def test_widths_and_patches():
    assert [token_width(width) for width in (0.25, 0.5, 1.0, 2.0)] == [(32, 1), (64, 2), (128, 4), (256, 8)]
    assert token_width(0.01) == (8, 1)
    assert all(hidden % heads == 0 for hidden, heads in map(token_width, (0.3, 0.55, 0.77, 1.3)))
    assert [patch_size(size) for size in (8, 16, 28, 32, 64, 224)] == [2, 2, 4, 4, 8, 28]
    for size in (1, 2, 31):
        with pytest.raises(ValueError, match=f"image_size = {size}: vit cuts images"):
            patch_size(size)
    with pytest.raises(AssertionError, match="Expected 8 but got 12"):
        small()(torch.zeros(1, 3, 12, 12))


@pytest.mark.parametrize("size", [8, 28, 32])
def test_logits_and_features_are_torchvisions(size):
    module = small(size)
    other, tokens = reference(module)
    images, _ = batch(size)
    logits, features = module(images)
    torch.testing.assert_close(logits, other(images), rtol=1e-4, atol=1e-5)
    assert len(features) == len(tokens) == 4 and module.feature_channels == (64,) * 4
    for feature, token in zip(features[:-1], tokens, strict=False):
        assert feature.shape == (5, 64, module.seq_length - 1)
        torch.testing.assert_close(feature, token[:, 1:].transpose(1, 2), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(pool(feature), token[:, 1:].mean(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features[-1], tokens[-1][:, :1].transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_the_last_feature_makes_the_logits():
    """What the diversity term moves there moves the prediction too."""
    module = small()
    logits, features = module(batch(8)[0])
    torch.testing.assert_close(module.heads(module.encoder.ln(features[-1][:, :, 0])), logits)


def test_grey_levels_are_a_colour_image_of_equal_channels():
    module = small(channels=1)
    state = module.state_dict()
    state["conv_proj.weight"] = state["conv_proj.weight"].repeat(1, 3, 1, 1) / 3
    images, _ = batch(channels=1)
    expected = reference(module, state)[0](images.repeat(1, 3, 1, 1))
    torch.testing.assert_close(module(images)[0], expected, rtol=1e-4, atol=1e-5)


def test_start_values():
    """As the docstring says; the relative sigma of the last layer is a share of real weights, not of a smallest size."""
    for channels in (1, 3):
        module = build("vit", classes=10, channels=channels, seed=0)
        assert module.heads.head.weight.std().item() == pytest.approx(HEAD_STD, rel=0.1)
        assert module.encoder.pos_embedding.std().item() == pytest.approx(POSITION_STD, rel=0.1)
        assert module.conv_proj.weight.std().item() == pytest.approx((1 / (16 * channels)) ** 0.5, rel=0.15)
        assert not module.conv_proj.bias.any() and not module.class_token.any()
        sigma = GaussianPosterior(module, initial_sigma=0.1)
        assert sigma.views(sigma.sigma)["heads.head.weight"].mean().item() == pytest.approx(0.1 * HEAD_STD, rel=0.1)


def test_every_weight_of_the_attention_is_bayesian():
    names = {name for names in GaussianPosterior(small()).names for name in names}
    layer = "encoder.layers.encoder_layer_2"
    assert {
        f"{layer}.self_attention.in_proj_weight",
        f"{layer}.self_attention.out_proj.weight",
        f"{layer}.mlp.3.weight",
    } < names
    assert len(names) == 2 + 4 * 4


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_weight_samples_act_in_every_mode(width):
    """With and without gradients, in training and evaluation mode: torchvision's network with the sample as its state."""
    posterior = GaussianPosterior(small(width=width), initial_sigma=0.3)
    images, _ = batch()
    for seed in (0, 1):
        sample = posterior.sample(torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(seed))).detach()
        expected = reference(posterior.module, posterior.views(sample) | posterior.module.state_dict())[0](images)
        for training in (True, False):
            posterior.train(training)
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    torch.testing.assert_close(posterior(images, weights=sample)[0], expected, rtol=1e-4, atol=1e-5)
        calls = functional_call(posterior.module, posterior.views(sample), images.to(memory_format=torch.channels_last))
        torch.testing.assert_close(calls[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_samples_computed_together_are_those_computed_one_by_one(config, precision):
    posterior = GaussianPosterior(small(), initial_sigma=0.3).eval()
    images, _ = batch()
    weights = posterior.sample(torch.randn(5, posterior.mean.numel(), generator=torch.Generator().manual_seed(1))).detach()
    softmax = torch.stack(
        [reference(posterior.module, posterior.views(sample) | posterior.module.state_dict())[0](images) for sample in weights]
    ).softmax(-1)
    close = {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 0, "atol": 0.03}
    for at_once in (1, 3):
        got = predictive.predict(posterior, images, weights, config.replace(samples_at_once=at_once, precision=precision))
        torch.testing.assert_close(got.probabilities, softmax.mean(0).detach(), **close)
        torch.testing.assert_close(
            got.expected_entropy, entropy(softmax).mean(0).detach(), rtol=close["rtol"], atol=2 * close["atol"]
        )


def step(config, images, labels, diverse=True):
    pair = make_pair(config, Shapes(10, 1, 100, images.shape[-1]))
    pair.set_scales(torch.tensor(0.01))
    noise = torch.randn(2, pair.peers[0].mean.numel(), generator=torch.Generator().manual_seed(1))
    with predictive.precision(config, CPU):
        total, _ = pair(images, labels, list(noise), diverse)
    total.backward()
    return pair, total


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_weight_of_a_pair_gets_a_gradient(config, kernel, precision):
    """From the data, the peer and the features alone: the prior and the distance of the posteriors are left out."""
    config = config.replace(kernel=kernel, precision=precision, width=0.25, kl_weight=0.0, alpha=0.0)
    images, labels = batch(channels=1, count=12)
    pair, total = step(config, images, labels)
    assert total.isfinite()
    for peer in pair.peers:
        for name, gradient in peer.views(peer.mean.grad).items():
            assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.999, name
        for value in peer.parameters():
            assert value.grad is not None and value.grad.isfinite().all() and value.grad.any()


def test_the_feature_term_alone_reaches_every_layer(config):
    """Against the divergence of the tokens' means, written out. beta is large, so that little is lost in the difference."""
    images, labels = batch(channels=1, count=12)
    quiet = {"kl_weight": 0.0, "alpha": 0.0, "mutual_weight": 0.0}
    with_term, without = (
        step(config.replace(beta=beta, fusion="frozen", feature_transform="exp", **quiet), images, labels)[0]
        for beta in (1e6, 0.0)
    )
    peer_1 = with_term.peers[0]
    difference = peer_1.mean.grad - without.peers[0].mean.grad

    fresh = make_pair(config.replace(fusion="frozen"), Shapes(10, 1, 100, 8))
    noise = torch.randn(2, fresh.peers[0].mean.numel(), generator=torch.Generator().manual_seed(1))
    features = []
    for peer, drawn in zip(fresh.peers, noise, strict=True):
        tokens = peer(images, weights=peer.sample(drawn))[1]
        features.append(tuple(layer.mean(2, keepdim=True) for layer in tokens))
    fused = [losses.normalize_features(each, center=True) for each in fresh.fusion(features)]
    p, q = (losses.conditional_distribution((1 + cosine(each[:, None], each[None], dim=-1)) / 2) for each in fused)
    value = losses.feature_kl(p, q.detach(), direction="symmetric", reduction="batchmean")
    (expected,) = torch.autograd.grad(1e6 * torch.exp(-value / 0.01), fresh.peers[0].mean)
    torch.testing.assert_close(difference, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    for name, gradient in peer_1.views(difference).items():
        assert gradient.any() == (name != "heads.head.weight"), name


def test_a_pair_learns_a_batch_of_digits(config, tiny_data):
    images, labels = next(eval_batches(tiny_data, "train", batch_size=32, device=CPU))
    pair = make_pair(config.replace(kl_weight=0.1, prior_mode="absolute"), Shapes(10, 1, 32, 8))  # few images, many weights
    pair.set_scales(torch.tensor(0.1))
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.03, momentum=0.9)
    stream = torch.Generator().manual_seed(0)
    nll = torch.stack([descend(pair, optimizer, images, labels, stream) for _ in range(50)])
    assert (nll[0] > 2.0).all() and (nll[-5:].mean(0) < 0.8 * nll[0]).all()


def descend(pair, optimizer, images, labels, stream):
    total, terms = pair(images, labels, list(torch.randn(2, pair.peers[0].mean.numel(), generator=stream)), True)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return terms[:2]


def test_the_images_size_reaches_every_network(config, tiny_data, tmp_path):
    pair = Workspace().pair(config, tiny_data)
    assert [peer.module.image_size for peer in pair.peers] == [8, 8]
    state, trained = pretrained(config, tiny_data, Store(tmp_path), CPU)
    assert trained == 1
    pair.peers[1].load_means(copy.deepcopy(state))
    assert step_cost.measure(config).stage_2 > 0
