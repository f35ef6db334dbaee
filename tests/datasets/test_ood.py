"""Images of another kind: the right ones, in the right shape, the same every time, and errors before any work."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2 import functional as tf

from mldiv.datasets import ood, sources
from mldiv.datasets.formats import idx
from mldiv.datasets.ood import OOD, check, check_name, in_place_of_test, label, load_other, names
from mldiv.datasets.sources import DATASETS, DataError
from mldiv.datasets.splits import eval_batches, load

CPU = torch.device("cpu")
PHOTOGRAPHS = {"name": "photographs", "root": None}


@pytest.fixture
def digits():
    return load("digits", None, seed=0, validation_fraction=0.1, train_size=100, test_size=60)


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """A folder as the official binary version, of random pixels."""
    folder = tmp_path / sources.CIFAR10_BINARY
    folder.mkdir()
    stream = np.random.default_rng(0)
    for name in sources.CIFAR10_MD5:
        (folder / name).write_bytes(stream.integers(0, 256, (40, 3073), dtype=np.uint8).tobytes())
    monkeypatch.setattr(sources, "check_file", lambda *arguments: None)
    return tmp_path


def folder_of(root, count=5):
    for split in ("train", "val"):
        for kind in ("cat", "dog"):
            (root / split / kind).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (40, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / kind / f"{i}.png")
    return root


def test_every_data_set_can_be_the_other_one():
    assert ("none", "photographs", "noise", *DATASETS) == OOD


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "there_are"), [(8, 520), (28, 520), (32, 520), (64, 120)])
def test_photographs_in_every_shape(size, there_are, channels):
    images = load_other(**PHOTOGRAPHS, channels=channels, size=size, count=10_000)
    assert images.shape == (there_are, channels, size, size) and images.dtype == torch.uint8
    assert len({bytes(image.numpy().tobytes()) for image in images}) > 0.95 * there_are
    assert 50 < images.float().mean() < 200 and images.float().std() > 30


def test_photographs_are_patches_of_both_pictures():
    """Every 32-pixel patch, found again in the pictures by a loop, and none twice."""
    patches = set()
    for name in ("china.jpg", "flower.jpg"):
        picture = load_sample_image(name)
        for row in range(0, picture.shape[0] - 31, 32):
            for column in range(0, picture.shape[1] - 31, 32):
                patches.add(picture[row : row + 32, column : column + 32].transpose(2, 0, 1).tobytes())
    images = load_other(**PHOTOGRAPHS, channels=3, size=32, count=600)
    assert {image.numpy().tobytes() for image in images} == patches


def test_the_first_of_a_permutation():
    options = PHOTOGRAPHS | {"channels": 1, "size": 8}
    many, few = (load_other(**options, count=count) for count in (40, 15))
    assert len(many) == 40 and torch.equal(many[:15], few)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (1, 28), (3, 64)])
def test_colours_and_size_against_torchvision(cifar10, channels, size):
    images = load_other("cifar10", cifar10, channels=channels, size=size, count=1_000)
    test = sources.DATASETS["cifar10"].read(cifar10, 32)[1][0]
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    expected = test[order] if channels == 3 else tf.rgb_to_grayscale(test[order].float())
    expected = tf.resize(expected.float(), [size, size], antialias=True)
    assert images.shape == (40, channels, size, size)
    assert (images - expected).abs().max() <= 0.51 + (channels == 1)  # torchvision's luma has four digits


def test_grey_levels_become_colours():
    images = load_other("digits", None, channels=3, size=32, count=9)
    assert (
        images.shape == (9, 3, 32, 32) and torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])
    )
    same = load_other("digits", None, channels=1, size=8, count=9)
    test = sources.DATASETS["digits"].read(None, 8)[1][0]
    assert torch.equal(same, test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:9]])


def test_a_folder_of_images(tmp_path):
    root = folder_of(tmp_path)
    check("image_folder", root, "digits")
    images = load_other("image_folder", root, channels=1, size=16, count=7)
    paths = sorted((root / "val").rglob("*.png"))
    for image, index in zip(images, torch.randperm(10, generator=torch.Generator().manual_seed(0)), strict=False):
        with Image.open(paths[index]) as file:
            decoded = tf.pil_to_tensor(tf.center_crop(tf.resize(file, [16]), [16]))
        assert (image - tf.rgb_to_grayscale(decoded.float())).abs().max() <= 1
    assert len(images) == 7


def test_pictures_alone_are_enough(tmp_path):
    """No training images, classes or labels: a folder in any form, an array, a file of test images."""
    paths = sorted((folder_of(tmp_path / "data") / "val").rglob("*.png"))
    for place in ("flat", "below/texture one", "tested/test/any"):
        (tmp_path / place).mkdir(parents=True)
        for number, path in enumerate(paths):
            (tmp_path / place / f"{number:02}.png").write_bytes(path.read_bytes())
    (tmp_path / "below" / "README.txt").write_text("no picture")
    expected = load_other("image_folder@data", tmp_path, channels=3, size=16, count=7)
    for place in ("flat", "below", "tested"):
        check(f"image_folder@{place}", tmp_path, "digits")
        assert torch.equal(load_other(f"image_folder@{place}", tmp_path, channels=3, size=16, count=7), expected)
    pixels = expected.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "only.npz", pixels)
    np.savez(tmp_path / "tested.npz", test_images=pixels, other=1)
    np.savez(tmp_path / "labels.npz", x_test=pixels, y_test=np.zeros(7, int), test_images=pixels[:2])
    header = b"\0\0\x08\x03" + np.array([7, 16, 16], ">u4").tobytes()
    (tmp_path / idx.FILES[2]).write_bytes(header + pixels[..., 0].tobytes())
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    for name in ("only", "tested", "labels"):
        check(f"npz@{name}.npz", tmp_path, "digits")
        assert torch.equal(load_other(f"npz@{name}.npz", tmp_path, channels=3, size=16, count=7), expected[order])
    check("idx", tmp_path, "digits")
    assert torch.equal(load_other("idx", tmp_path, channels=1, size=16, count=7), expected[order, :1])


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("image_folder@empty", "empty: no JPEG or PNG file in it or below"),
        ("npz@two.npz", "neither test_images nor x_test, and not one array, but a, b"),
        ("fashion_mnist", "a file, where a folder was expected.*fashion_mnist@PLACE"),
    ],
)
def test_what_is_no_set_of_pictures_is_said_with_its_name(tmp_path, name, fault):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "two.npz", a=1, b=2)
    with pytest.raises(DataError, match=f"ood = '{name}': .*{fault}"):
        check(name, tmp_path / "two.npz", "digits")


def test_in_place_of_the_test_images(digits):
    """As many as the test images, in their place, normalised by the training images; the rest of the data is left alone."""
    replaced = in_place_of_test(digits, "photographs", None)
    assert replaced.train is digits.train and replaced.validation is digits.validation and len(replaced.test) == 60
    split = replaced.test
    assert torch.equal(split.images, load_other("photographs", None, channels=1, size=8, count=60))
    assert split.labels.dtype == torch.int64 and not split.labels.any()
    (images, labels), *rest = eval_batches(replaced, "test", batch_size=60, device=CPU)
    assert not rest and len(labels) == 60
    torch.testing.assert_close(images, (split.images / 255 - digits.mean[0]) / digits.std[0])
    assert digits.fingerprint == replaced.fingerprint


def test_what_cannot_be_is_said_early(tmp_path, monkeypatch):
    check("none", None, "digits")
    check("photographs", None, "digits")
    with pytest.raises(DataError, match=r"ood = 'photograph': expected one of none.*did you mean 'photographs'"):
        check("photograph", None, "digits")
    with pytest.raises(DataError, match="the networks are trained on digits"):
        check("digits", None, "digits")
    with pytest.raises(DataError, match="--data-root is missing"):
        check("cifar10", None, "digits")
    with pytest.raises(DataError, match="no such f"):
        load_other("cifar100", tmp_path, channels=3, size=32, count=5)
    for name, size, count in (("photographs", 428, 5), ("photographs", 8, 0)):
        with pytest.raises(DataError, match=f"no image of {size} pixels"):
            load_other(name, None, channels=3, size=size, count=count)

    def lost(name):
        raise FileNotFoundError(f"no such file: {name}")

    ood._photograph.cache_clear()
    monkeypatch.setattr("sklearn.datasets.load_sample_image", lost)
    with pytest.raises(DataError, match=r"scikit-learn's china\.jpg cannot be read \(no such file"):
        check("photographs", None, "digits")


def test_several_sets_at_once(tmp_path):
    """In their order; a set in a place of its own is that folder's."""
    root = folder_of(tmp_path / "tiny")
    several = f"photographs,noise,image_folder@{root}"
    assert names(check_name(several)) == ("photographs", "noise", f"image_folder@{root}") and names("none") == ()
    assert [label(name) for name in names(several)] == ["photographs", "noise", "tiny"]
    check(several, None, "digits")
    check("image_folder@tiny", tmp_path, "digits")
    expected = load_other("image_folder", root, channels=3, size=16, count=7)
    assert torch.equal(load_other(f"image_folder@{root}", None, channels=3, size=16, count=7), expected)
    assert torch.equal(load_other("image_folder@tiny", tmp_path, channels=3, size=16, count=7), expected)


def test_noise_is_uniform_and_the_same_every_time(digits):
    images = load_other("noise", None, channels=3, size=32, count=50)
    assert images.shape == (50, 3, 32, 32) and images.dtype == torch.uint8
    counts = torch.bincount(images.flatten().int(), minlength=256).double() / images.numel()
    assert (counts - 1 / 256).abs().max() < 0.0008
    assert torch.equal(load_other("noise", None, channels=3, size=32, count=20), images[:20])
    assert len(in_place_of_test(digits, "noise", None).test) == 60
    with pytest.raises(DataError, match="no image of 8 pixels"):
        load_other("noise", None, channels=1, size=8, count=0)


@pytest.mark.parametrize(
    ("ood_names", "said"),
    [
        ("noise,cifar1O", r"ood = 'cifar1O': expected one of none.*did you mean 'cifar10'"),
        ("noise,noise", "two are called 'noise'"),
        ("image_folder@/a/tiny,image_folder@/b/tiny", "two are called 'tiny'"),
        ("noise,none", "none stands alone"),
        ("noise,", "ood = '': expected one of"),
        ("noise@/data", "expected a data set before the @"),
        ("image_folder@", "expected a data set before the @"),
    ],
)
def test_lists_that_cannot_be(ood_names, said):
    with pytest.raises(DataError, match=said):
        check_name(ood_names)
    with pytest.raises(DataError, match=said):
        check(ood_names, None, "digits")


def test_the_training_data_are_no_other_kind(tmp_path):
    own, other = (folder_of(tmp_path / name) for name in ("own", "other"))
    for ood_names in ("noise,image_folder", f"image_folder@{own}"):
        with pytest.raises(DataError, match="the networks are trained on image_folder"):
            check(ood_names, own, "image_folder")
    check(f"noise,image_folder@{other}", own, "image_folder")
    with pytest.raises(DataError, match="the networks are trained on digits"):
        check(f"digits@{own}", own, "digits")
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        check(f"noise,image_folder@{tmp_path}/nowhere", own, "digits")
