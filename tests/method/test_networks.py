import itertools
import math

import pytest
import torch
import torchvision

from mldiv.method.architectures.cifar import BatchNorm, FilterResponseNorm, ThresholdedLinear
from mldiv.method.networks import MODELS, build


@pytest.mark.parametrize(("name", "count"), [("resnet20", 269_722), ("resnet32", 464_154), ("resnet56", 853_018)])
def test_parameter_counts(name, count):
    assert sum(value.numel() for value in build(name, classes=10, seed=0).parameters()) == count


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_block_features(name, size):
    model = build(name, classes=7, channels=1, seed=0, image_size=size).eval()
    logits, features = model(torch.randn(2, 1, size, size))
    assert logits.shape == (2, 7)
    assert tuple(feature.shape[1] for feature in features) == model.feature_channels
    space = {8: (16,), 28: (49,), 32: (64,)}[size] if name == "vit" else (size, size)
    assert features[0].shape[2:] == space


def test_identity_shortcut_against_a_loop():
    """Where the shape changes: every second pixel, zeros in the added channels, half of them before."""
    block = build("resnet8", classes=2, seed=0).layer2[0].eval()
    x = torch.rand(1, 16, 4, 4)
    for layer in (block.conv1, block.conv2):
        torch.nn.init.zeros_(layer.weight)
    out = block(x)
    expected = torch.zeros(1, 32, 2, 2)
    for channel in range(16):
        for row in range(2):
            for column in range(2):
                expected[0, 8 + channel, row, column] = x[0, channel, 2 * row, 2 * column]
    torch.testing.assert_close(out, expected)


def test_filter_response_normalisation_against_the_papers_formula():
    """Element by element, in double precision: Singh and Krishnan (2020), equations 1 to 3, epsilon 1e-6."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 2, 5, generator=stream, dtype=torch.double) * torch.tensor([1e-4, 1.0, 30.0, 2.0]).view(1, 4, 1, 1)
    norm, unit = FilterResponseNorm(4), ThresholdedLinear(4)
    for value in (norm.weight, norm.bias, unit.threshold):
        torch.nn.init.normal_(value, generator=stream)
    found = unit(norm(x.float())).double()
    for image, channel in itertools.product(range(3), range(4)):
        gamma, beta, tau = (value[channel].item() for value in (norm.weight, norm.bias, unit.threshold))
        values = x[image, channel].flatten().tolist()
        nu = sum(value**2 for value in values) / len(values)
        expected = [max(gamma * value / math.sqrt(nu + 1e-6) + beta, tau) for value in values]
        assert found[image, channel].flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("_frn")])
def test_a_network_without_batch_statistics(name):
    """An image's logits do not depend on its batch, in training either; nothing is counted while it trains."""
    model = build(name, classes=7, channels=1, width=0.5, seed=0).train()
    assert not list(model.buffers())
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images)[0][:2], model(images[:2])[0], rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert {part.dtype for part in (model(images)[0], *model(images)[1])} == {torch.bfloat16}
    model(images)[0].square().sum().backward()
    assert all(value.grad.abs().sum() > 0 for name, value in model.named_parameters() if "threshold" not in name)


def test_public_names_of_the_cifar_form():
    names = build("resnet20", classes=10, seed=0).state_dict()
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.weight"} <= set(names)
    assert not any("downsample" in name or "shortcut" in name for name in names)


def test_resnet18_takes_torchvisions_weights():
    torch.manual_seed(0)
    reference = torchvision.models.resnet18(num_classes=6).eval()
    model = build("resnet18", classes=6, image_size=224, seed=0).eval()
    model.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(model(images)[0], reference(images))


@pytest.mark.parametrize(("size", "first"), [(32, 32), (64, 64), (65, 17), (224, 56)])
def test_resnet18s_stem_follows_the_size_of_the_images(size, first):
    _, features = build("resnet18", classes=6, channels=1, image_size=size, seed=0).eval()(torch.randn(1, 1, size, size))
    assert features[0].shape == (1, 64, first, first)


@pytest.mark.parametrize("name", ["resnet8", "vit"])
def test_seed_decides_and_the_global_state_stays(name):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    states = [build(name, classes=3, channels=1, seed=seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    for key, value in states[0].items():
        if value.dim() > 1 and value.any():  # what starts at random
            assert torch.equal(value, states[1][key]) and not torch.equal(value, states[2][key])


def test_kaiming_fan_out():
    weight = build("resnet20", classes=10, seed=0).layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_errors():
    with pytest.raises(ValueError, match="did you mean 'resnet20'"):
        build("resnett20", classes=10, seed=0)
    with pytest.raises(ValueError, match="width 1 only"):
        build("resnet18", classes=10, width=0.5, seed=0)
    with pytest.raises(ValueError, match="image_size = 29"):
        build("vit", classes=10, image_size=29, seed=0)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_is_torchs_but_for_the_count_of_batches(momentum):
    own, theirs = BatchNorm(5, momentum=momentum), torch.nn.BatchNorm2d(5, momentum=momentum)
    for scale in (1.0, 3.0):
        images = scale * torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(own(images), theirs(images))
    assert torch.equal(own.eval()(images), theirs.eval()(images))
    for name, value in theirs.state_dict().items():
        expected = 0 if name == "num_batches_tracked" and momentum else value
        assert torch.equal(own.state_dict()[name], torch.as_tensor(expected)), name


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_no_network_of_ours_counts_batches(name):
    assert all(
        type(layer) is BatchNorm for layer in build(name, classes=2, seed=0).modules() if "BatchNorm" in type(layer).__name__
    )
