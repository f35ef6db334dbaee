import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as tv
from torchvision.transforms import functional as tf

from mldiv.datasets import sources
from mldiv.datasets import splits as module
from mldiv.datasets.sources import DATASETS, DataError, check
from mldiv.datasets.splits import draw_augmentation, eval_batches, load, random_crop_flip, train_batches

CPU = torch.device("cpu")


def digits(**changed):
    return load("digits", None, **({"seed": 0, "validation_fraction": 0.1} | changed))


def rows(split):
    return {bytes(image.numpy().tobytes()) for image in split.images}


def test_splits_are_disjoint_stratified_and_repeatable():
    first, same, other = digits(), digits(), digits(seed=1)
    assert len(first.train) + len(first.validation) + len(first.test) == 1797
    assert not rows(first.train) & rows(first.validation) and not rows(first.train) & rows(first.test)
    assert torch.equal(first.validation.images, same.validation.images)
    assert not torch.equal(first.validation.images, other.validation.images)
    assert torch.equal(first.test.images, other.test.images)
    for split in (first.train, first.validation, first.test):
        share = torch.bincount(split.labels, minlength=10) / len(split)
        assert (share - 0.1).abs().max() < 0.02


def test_cuts_keep_the_classes_and_leave_the_rest_alone():
    whole, cut = digits(), digits(train_size=100, validation_size=50, test_size=60)
    assert (len(cut.train), len(cut.validation), len(cut.test)) == (100, 50, 60)
    assert torch.bincount(cut.train.labels).min() >= 8
    assert rows(cut.test) <= rows(whole.test)
    with pytest.raises(DataError, match="there are only"):
        digits(train_size=10_000)
    with pytest.raises(DataError, match="leave it out"):
        digits(image_size=16)


def test_development_images_come_from_the_training_set():
    whole, held = digits(), digits(test_split="development", test_size=200, validation_size=100)
    assert (len(held.train), len(held.validation), len(held.test)) == (len(whole.train) + len(whole.validation) - 300, 100, 200)
    assert rows(held.train) | rows(held.validation) | rows(held.test) == rows(whole.train) | rows(whole.validation)
    assert not rows(held.test) & (rows(held.train) | rows(held.validation) | rows(whole.test))
    assert "200 development images" in held.describe() and "stand in for test data" in held.describe()
    assert torch.bincount(held.test.labels).min() >= 18
    assert held.fingerprint != digits(validation_size=100).fingerprint  # it trains on other images


def test_crop_and_flip_against_torchvision():
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 3, 5, 7), generator=stream, dtype=torch.uint8)
    shift_y, shift_x = torch.randint(5, (2, 6), generator=stream)
    flip = torch.tensor([True, False, True, True, False, False])
    out = random_crop_flip(images, shift_y, shift_x, flip, 2)
    for i, image in enumerate(images):
        expected = tf.crop(tf.pad(image, [2, 2]), int(shift_y[i]), int(shift_x[i]), 5, 7)
        assert torch.equal(out[i], tf.hflip(expected) if flip[i] else expected)


def test_two_ranks_share_what_one_would_take():
    data = digits(train_size=100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    augmentation = draw_augmentation(data, torch.Generator().manual_seed(2))
    options = {"batch_size": 32, "order": order, "augmentation": augmentation, "device": CPU}
    whole = list(train_batches(data, **options))
    halves = [list(train_batches(data, **options, rank=rank, world=2)) for rank in (0, 1)]
    assert len(whole) == 3
    for (images, labels), *parts in zip(whole, *halves, strict=True):
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)
        assert abs(images.mean()) < 0.5


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_keeps_order(world):
    data = digits(validation_size=50)
    parts = [list(eval_batches(data, "validation", batch_size=16, rank=rank, world=world, device=CPU)) for rank in range(world)]
    labels = torch.cat([labels for part in parts for _, labels in part])
    assert torch.equal(labels, data.validation.labels)
    images = torch.cat([images for part in parts for images, _ in part])
    mean, std = data.mean[0], data.std[0]
    torch.testing.assert_close(images, (data.validation.images / 255 - mean) / std)


def test_what_a_study_knows_its_images_by_does_not_depend_on_threads():
    found = set()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.add(load("digits", None, seed=0, validation_fraction=0.15).whole_fingerprint)
    assert len(found) == 1
    assert load("digits", None, seed=1, validation_fraction=0.15).whole_fingerprint not in found


def test_normalization_is_that_of_the_training_images():
    data = digits()
    values = data.train.images.double() / 255
    assert data.mean[0] == pytest.approx(values.mean().item())
    assert data.std[0] == pytest.approx(values.std().item())


def test_no_full_batch():
    data = digits(train_size=30)
    augmentation = draw_augmentation(data, torch.Generator())
    with pytest.raises(DataError, match="exceeds the 30"):
        next(train_batches(data, batch_size=64, order=torch.arange(30), augmentation=augmentation, device=CPU))


@pytest.fixture(scope="module")
def cifar10_files(tmp_path_factory):
    """A folder as the official binary version, of random pixels, and its files' checksums."""
    root = tmp_path_factory.mktemp("cifar10")
    folder = root / sources.CIFAR10_BINARY
    folder.mkdir()
    sums = {}
    for seed, name in enumerate(sources.CIFAR10_MD5):
        table = np.frombuffer(np.random.default_rng(seed).bytes(10_000 * 3073), np.uint8).reshape(10_000, 3073).copy()
        table[:, 0] = np.arange(10_000) % 10
        (folder / name).write_bytes(table.tobytes())
        sums[name] = hashlib.md5(table.tobytes()).hexdigest()
    return root, sums


@pytest.fixture
def cifar10_binary(cifar10_files, tmp_path, monkeypatch):
    """Links to those files, each of which a test may replace."""
    root, sums = cifar10_files
    monkeypatch.setattr(sources, "CIFAR10_MD5", sums)
    folder = tmp_path / sources.CIFAR10_BINARY
    folder.mkdir()
    for name in sums:
        (folder / name).symlink_to(root / sources.CIFAR10_BINARY / name)
    return tmp_path


def test_cifar10_binary(cifar10_binary):
    data = load("cifar10", cifar10_binary, seed=0, validation_fraction=0.1, train_size=500)
    assert len(data.train) == 500 and len(data.validation) == 5_000 and len(data.test) == 10_000
    raw = np.fromfile(cifar10_binary / sources.CIFAR10_BINARY / "test_batch.bin", np.uint8).reshape(-1, 3073)
    assert int(data.test.images[7, 1, 2, 3]) == raw[7, 1 + 1024 + 2 * 32 + 3]
    assert int(data.test.labels[7]) == 7


def test_cifar10_binary_damaged(cifar10_binary):
    path = cifar10_binary / sources.CIFAR10_BINARY / "data_batch_3.bin"
    content = path.read_bytes()
    path.unlink()  # the link
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"data_batch_3.bin: 30,729,999 bytes where 30,730,000"):
        check("cifar10", cifar10_binary)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: its md5 is"):
        check("cifar10", cifar10_binary)
    path.unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin: no such file"):
        check("cifar10", cifar10_binary)


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    folder = tmp_path / tv.CIFAR100.base_folder
    folder.mkdir()
    contents = {"meta": {"fine_label_names": [str(i) for i in range(100)]}}
    for name, count in (("train", 1_000), ("test", 200)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 3072), dtype=np.uint8)
        contents[name] = {"data": pixels, "fine_labels": [i % 100 for i in range(count)]}
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(tv.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(tv.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(tv.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
    return tmp_path


def test_cifar100_pickles(cifar100):
    data = load("cifar100", cifar100, seed=0, validation_fraction=0.1)
    assert data.classes == 100 and len(data.test) == 200 and data.train.images.shape[1:] == (3, 32, 32)
    (cifar100 / tv.CIFAR100.base_folder / "train").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"train: its md5 is .* expected .*--download"):
        check("cifar100", cifar100)


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 6), ("val", 3)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (40, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.jpeg")
    return tmp_path


@pytest.mark.parametrize("in_memory", [True, False])
def test_image_folder(folder, in_memory, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 2**30 if in_memory else 0)
    data = load("image_folder", folder, seed=0, validation_size=4, validation_fraction=0.1, image_size=16)
    assert isinstance(data.train.images, torch.Tensor) == in_memory
    assert data.classes == 2 and len(data.train) == 8 and len(data.test) == 6
    augmentation = draw_augmentation(data, torch.Generator().manual_seed(0))
    order = torch.arange(8).flip(0)
    images, labels = next(train_batches(data, batch_size=8, order=order, augmentation=augmentation, device=CPU))
    assert images.shape == (8, 3, 16, 16) and torch.equal(labels, data.train.labels.flip(0))
    shown = next(eval_batches(data, "test", batch_size=6, device=CPU))[0][5]
    with Image.open(folder / "val" / "dog" / "2.jpeg") as file:
        decoded = tf.pil_to_tensor(tf.center_crop(tf.resize(file, 16), 16))
    torch.testing.assert_close(shown, module.normalize(decoded[None], *module._moments_on(data, CPU))[0])


def test_image_folder_damaged(folder):
    (folder / "train" / "cat" / "0.jpeg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0.jpeg: not a readable JPEG"):
        load("image_folder", folder, seed=0, validation_size=4, validation_fraction=0.1)
    (folder / "train" / "cat" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"notes.txt: not a JPEG or PNG"):
        check("image_folder", folder)
    (folder / "train" / "cat" / "notes.txt").unlink()
    (folder / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="empty: an empty class folder"):
        check("image_folder", folder)
    (folder / "train" / "empty").rmdir()
    (folder / "train" / "dog").rename(folder / "train" / "wolf")
    with pytest.raises(DataError, match="class dog is in only one of train and val"):
        check("image_folder", folder)


@pytest.mark.parametrize("name", [name for name, source in DATASETS.items() if source.check is not sources._check_nothing])
def test_missing_data_says_what_was_expected(name, tmp_path):
    with pytest.raises(DataError, match="--data-root is missing: it should hold"):
        check(name, None)
    with pytest.raises(DataError, match="no such folder; it should hold"):
        check(name, tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="a file, where a folder was expected"):
        check(name, tmp_path / "file")
    with pytest.raises(DataError, match="no such f"):
        check(name, tmp_path)


def test_fashion_mnist_truncated(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in sources.FASHION_MNIST_FILES:
        (raw / name).write_bytes(b"short")
    with pytest.raises(DataError, match="5 bytes where 47,040,016 were expected"):
        check("fashion_mnist", tmp_path)


@pytest.mark.parametrize("first", [b"", b"\0\0\10\1"], ids=["zeros", "the form alone"])
def test_another_data_set_of_the_same_form_is_not_fashion_mnist(tmp_path, first):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, (size, _) in sources.FASHION_MNIST_FILES.items():
        (raw / name).write_bytes(first)
        os.truncate(raw / name, size)
    with pytest.raises(DataError, match=r"its md5 is .* damaged or not this data"):
        check("fashion_mnist", tmp_path)


def test_download_needs_a_root():
    with pytest.raises(DataError, match="needs --data-root"):
        check("cifar10", None, download=True)
