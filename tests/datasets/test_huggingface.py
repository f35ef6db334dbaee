"""Data sets as Hugging Face's library saves them; without the library its absence is said with the command that mends it."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mldiv.datasets import ood, sources
from mldiv.datasets.files import DataError
from mldiv.datasets.splits import load


def test_the_library_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"Hugging Face's datasets reads it \(.*\): pip install datasets"):
        sources.check("huggingface", tmp_path)


@pytest.fixture
def library():
    pytest.importorskip("datasets.arrow_dataset")  # our own folder of tests is a package called datasets too
    return sys.modules["datasets"]


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (36, 8, 8, 3)).astype(np.uint8)


@pytest.fixture
def saved(library, pixels, tmp_path):
    """A function that saves splits of 24 and 12 images of three classes, changed by a function of the columns."""

    def save(change=lambda columns: columns, splits=("train", "test"), grey=False, classes=("abc", "abc")):
        made = {}
        for name, rows, names in zip(splits, (slice(24), slice(24, 36)), classes, strict=False):
            images = [Image.fromarray(image[..., 0] if grey else image) for image in pixels[rows]]
            columns = change({"image": images, "label": [index % 3 for index in range(len(images))]})
            features = {key: library.Image() for key in columns if key.startswith("im")}
            kinds = {int: library.Value("int64"), str: library.Value("string")}
            features |= {key: library.ClassLabel(names=list(names)) for key in columns if key.startswith("label")}
            features |= {
                key: kinds[type(of[0])] for key, of in columns.items() if key not in features or isinstance(of[0], str)
            }
            made[name] = library.Dataset.from_dict(columns, features=library.Features(features))
        library.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
        return tmp_path / "saved"

    return save


def loaded(root, **more):
    return load("huggingface", root, **{"seed": 0, "validation_fraction": 0.25} | more)


def test_images_and_labels_are_those_that_were_saved(saved, pixels):
    sources.check("huggingface", root := saved())
    (train, labels), (test, _) = sources.DATASETS["huggingface"].read(root, 0)
    assert np.array_equal(train.numpy(), pixels[:24].transpose(0, 3, 1, 2)) and np.array_equal(labels, np.arange(24) % 3)
    assert np.array_equal(test.numpy(), pixels[24:].transpose(0, 3, 1, 2))
    assert (
        loaded(root).describe()
        == "huggingface: 18 training, 6 validation and 12 test images of 8x8 pixels, 3 classes; test images from split test; "
        "labels from column label"
    )
    assert torch.equal(ood.load_other(f"huggingface@{root}", None, channels=3, size=8, count=99).sort(0)[0], test.sort(0)[0])


def test_grey_images_have_one_channel_and_a_split_is_named(saved, pixels):
    root = saved(splits=("train", "validation"), grey=True)
    data = loaded(root, image_size=4)
    assert data.channels == 1 and data.shapes.image_size == 4
    assert data.describe().endswith("3 classes; test images from split validation; labels from column label")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda columns: {"label": columns["label"]}, "no column of images among label; call one 'image' by rename_column"),
        (lambda columns: columns | {"label": [0] * len(columns["label"])}, "1 classes in the training labels"),
        (
            lambda columns: {"image": columns["image"], "label_a": columns["label"], "label_b": columns["label"]},
            "several columns of labels, label_a, label_b among image, label_a, label_b; call one 'label'",
        ),
        (lambda columns: columns | {"label": [None, *columns["label"][1:]]}, "rows without a label; leave them out by filter"),
        (lambda columns: {"image": columns["image"], "camera": columns["label"]}, "no column of labels among image, camera"),
        (
            lambda columns: {
                "image": columns["image"],
                "label": list("abc") * (len(columns["label"]) // 3),
                "camera": columns["label"],
            },
            r"label: no column of class labels or whole numbers; class_encode_column\('label'\) makes it one",
        ),
    ],
)
def test_columns_that_cannot_be_used(saved, change, said):
    with pytest.raises(DataError, match=said):
        sources.check("huggingface", saved(change))


def test_splits_that_number_the_classes_differently(saved):
    with pytest.raises(DataError, match="saved: class 1 is 'b' in split train and 'c' in split test; align_labels"):
        sources.check("huggingface", saved(classes=("abc", "acb")))


def test_images_of_different_sizes_need_one(saved):
    def change(columns):
        return columns | {"image": [*columns["image"][:-1], Image.new("RGB", (10, 6))]}

    with pytest.raises(DataError, match="train, row 23: 10x6 pixels; --set image_size=N makes squares"):
        loaded(root := saved(change))
    assert loaded(root, image_size=8).shapes.image_size == 8


def test_splits_that_are_missing(library, saved, tmp_path):
    with pytest.raises(DataError, match="no split test, only train"):
        sources.check("huggingface", root := saved(splits=("train",)))
    with pytest.raises(DataError, match=r"one data set without splits; data\.train_test_split\(0\.2\)"):
        sources.check("huggingface", root / "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: cannot be loaded"):
        sources.check("huggingface", tmp_path / "empty")


@pytest.mark.parametrize(("kind", "said"), [("i4", "a picture of mode I, taken for 16 bits"), ("f4", "a picture of floats")])
def test_pictures_that_would_become_black_are_refused(saved, kind, said):
    def change(columns):
        return columns | {"image": [np.asarray(image)[..., 0].astype(kind) for image in columns["image"]]}

    with pytest.raises(DataError, match=rf"train, row 0: {said}.*; map the column to pictures of 8 bits"):
        loaded(saved(change))
