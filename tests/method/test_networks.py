import pytest
import torch
import torchvision

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
