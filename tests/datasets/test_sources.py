"""Where images come from: every data set's files, whole or damaged, each fault said with what was expected."""

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as tv
from torchvision.transforms import functional as tf

from mldiv.datasets import sources, splits
from mldiv.datasets.sources import DATASETS, DataError, check
from mldiv.datasets.splits import draw_augmentation, eval_batches, load, train_batches

CPU = torch.device("cpu")


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
    assert data.names == tuple(map(str, range(100)))
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


@pytest.mark.parametrize(("size", "shift"), [(8, 1), (32, 4), (64, 8), (128, 8)])
def test_small_images_of_a_folder_are_shifted_less(folder, size, shift):
    data = load("image_folder", folder, seed=0, validation_size=4, validation_fraction=0.1, image_size=size)
    assert data.padding == shift


@pytest.mark.parametrize("in_memory", [True, False])
def test_image_folder(folder, in_memory, monkeypatch):
    monkeypatch.setattr(splits, "IN_MEMORY_BYTES", 2**30 if in_memory else 0)
    data = load("image_folder", folder, seed=0, validation_size=4, validation_fraction=0.1, image_size=16)
    assert isinstance(data.train.images, torch.Tensor) == in_memory
    assert data.classes == 2 and len(data.train) == 8 and len(data.test) == 6 and data.names == ("cat", "dog")
    augmentation = draw_augmentation(data, torch.Generator().manual_seed(0))
    order = torch.arange(8).flip(0)
    images, labels = next(train_batches(data, batch_size=8, order=order, augmentation=augmentation, device=CPU))
    assert images.shape == (8, 3, 16, 16) and torch.equal(labels, data.train.labels.flip(0))
    shown = next(eval_batches(data, "test", batch_size=6, device=CPU))[0][5]
    with Image.open(folder / "val" / "dog" / "2.jpeg") as file:
        decoded = tf.pil_to_tensor(tf.center_crop(tf.resize(file, 16), 16))
    torch.testing.assert_close(shown, splits.normalize(decoded[None], *splits._moments_on(data, CPU))[0])


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


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ("digits", "npz", "own")])  # no files in a folder
def test_missing_data_says_what_was_expected(name, tmp_path):
    with pytest.raises(DataError, match="--data-root is missing: it should hold"):
        check(name, None)
    with pytest.raises(DataError, match="no such folder; it should hold"):
        check(name, tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="a file, where a folder was expected"):
        check(name, tmp_path / "file")
    with pytest.raises(DataError, match=r"no such f|cannot be loaded|Hugging Face's datasets reads it"):
        check(name, tmp_path)


def test_the_names_of_classes_are_the_published_ones():
    names = {name: list(DATASETS[name].names(None)) for name in ("fashion_mnist", "cifar10", "digits")}
    assert names["fashion_mnist"] == tv.FashionMNIST.classes and names["digits"] == list("0123456789")
    assert (names["cifar10"][0], names["cifar10"][7], len(names["cifar10"])) == ("airplane", "horse", 10)


def test_images_given_in_python_are_in_no_files():
    with pytest.raises(DataError, match=r"images that mldiv.train was given in Python"):
        check("own", None)


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
