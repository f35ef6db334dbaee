"""How images are split, cut, shuffled, shared by ranks and augmented."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import entropy
from torchvision.transforms import functional as tf

from mldiv.datasets import splits
from mldiv.datasets.sources import DataError
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


def test_images_of_another_size_are_the_same_resized_and_shifted_less():
    """As Pillow resizes them, but for its own rounding."""
    whole, halved = digits(validation_size=100), digits(validation_size=100, image_size=4)
    assert halved.shapes.image_size == 4 and halved.padding == 1
    for own, image in zip(halved.train.images[:50, 0], whole.train.images[:50, 0], strict=True):
        expected = np.asarray(Image.fromarray(image.numpy()).resize((4, 4), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(own.numpy().astype(int) - expected).max() <= 1
    assert torch.equal(halved.train.labels, whole.train.labels) and halved.fingerprint != whole.fingerprint
    assert digits(validation_size=100, image_size=8).fingerprint == whole.fingerprint


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
    """And shows images as they are, also where training images are shifted and mirrored."""
    data = dataclasses.replace(digits(validation_size=50), flip=True, padding=1)
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


@pytest.mark.parametrize("soft", [False, True])
def test_what_the_frequencies_alone_would_score(soft):
    """SciPy's entropy of the classes' counts, of soft labels of their sums."""
    labels = torch.tensor([0, 0, 0, 2])
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]) if soft else None
    data = digits()
    part = splits.Split(data.test.images[:4], labels, shares=shares)
    expected = entropy([2.0, 0.75, 1.25] if soft else [3, 1])
    assert dataclasses.replace(data, test=part).label_entropy == pytest.approx(expected)


def test_normalization_is_that_of_the_training_images():
    data = digits()
    values = data.train.images.double() / 255
    assert data.mean[0] == pytest.approx(values.mean().item())
    assert data.std[0] == pytest.approx(values.std().item())


def test_it_is_the_same_where_levels_are_counted(monkeypatch):
    expected = digits(image_size=6)
    monkeypatch.setattr("mldiv.datasets.splits.MOST_DOUBLES", 100)
    found = digits(image_size=6)
    assert found.mean == pytest.approx(expected.mean, rel=1e-12) and found.std == pytest.approx(expected.std, rel=1e-12)


@pytest.mark.parametrize("doubles", [splits.MOST_DOUBLES, 1])
def test_a_channel_of_one_value_is_finite_too(doubles, monkeypatch):
    monkeypatch.setattr(splits, "MOST_DOUBLES", doubles)
    images = torch.randint(256, (20, 3, 4, 4), dtype=torch.uint8)
    images[:, 2] = 37
    mean, std = splits._moments(splits.Split(images, torch.arange(20)))
    assert mean[2] == pytest.approx(37 / 255) and std[2] == 1 and 0 < std[0] < 1


def test_no_full_batch():
    data = digits(train_size=30)
    augmentation = draw_augmentation(data, torch.Generator())
    with pytest.raises(DataError, match="exceeds the 30"):
        next(train_batches(data, batch_size=64, order=torch.arange(30), augmentation=augmentation, device=CPU))
