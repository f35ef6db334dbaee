"""Data sets of one's own: idx files, packed or not, arrays, folders with test/ or val/, and other labels to train with."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.datasets import mnist

from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets import ood, sources
from mldiv.datasets.files import DataError, content_hash
from mldiv.datasets.formats import idx, npz
from mldiv.datasets.splits import load
from mldiv.training.worker_cache import dataset

SIDE = 6


@pytest.fixture
def arrays():
    """48 training and 12 test images of three classes, by their keys in an .npz file."""
    draw = np.random.default_rng(0)
    found = {}
    for split, count in (("train", 48), ("test", 12)):
        found[f"{split}_images"] = draw.integers(0, 256, (count, SIDE, SIDE)).astype(np.uint8)
        found[f"{split}_labels"] = np.arange(count) % 3
    return found


def soft(count, classes=3):
    return np.random.default_rng(1).dirichlet(np.ones(classes), count)


def write_idx(folder, arrays, packed):
    folder.mkdir(exist_ok=True)
    for name, array in zip(idx.FILES, arrays.values(), strict=True):
        data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return folder


def write_npz(path, arrays):
    np.savez_compressed(path, **arrays)
    return path


def loaded(name, root, **more):
    return load(name, root, **{"seed": 0, "validation_fraction": 0.25} | more)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, arrays, packed):
    plain, folder = write_idx(tmp_path / "plain", arrays, False), write_idx(tmp_path / "files", arrays, packed)
    (train, labels), (test, _) = idx.read(folder, 0)
    assert torch.equal(train[:, 0], mnist.read_image_file(str(plain / idx.FILES[0])))
    assert torch.equal(labels, mnist.read_label_file(str(plain / idx.FILES[1])))
    data = loaded("idx", folder)
    assert data.shapes == (3, 1, 36, SIDE) and torch.equal(data.test.images, test) and data.padding == 1 and not data.flip


def test_fashion_mnist_as_it_is_downloaded(tmp_path, arrays, monkeypatch):
    """The four .gz files, wherever they lie, are the unpacked ones, checksums included."""
    plain = write_idx(tmp_path / "plain", arrays, False)
    sums = {name: (len(data := (plain / name).read_bytes()), hashlib.md5(data).hexdigest()) for name in idx.FILES}
    monkeypatch.setattr(sources, "FASHION_MNIST_FILES", sums)
    (tmp_path / "below" / "FashionMNIST").mkdir(parents=True)
    below = write_idx(tmp_path / "below" / "FashionMNIST" / "raw", arrays, True).parent.parent
    found = [loaded("fashion_mnist", root).whole_fingerprint for root in (plain, below)]
    assert found[0] == found[1]
    path = below / "FashionMNIST" / "raw" / f"{idx.FILES[1]}.gz"
    path.write_bytes(gzip.compress(b"x" + gzip.decompress(path.read_bytes())[1:]))
    with pytest.raises(DataError, match=r"labels-idx1-ubyte.gz: its md5 is"):
        sources.check("fashion_mnist", below)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"labels-idx1-ubyte.gz: cannot be read .*: cut short"):
        sources.check("fashion_mnist", below)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], r"train-images-idx3-ubyte: 1,743 bytes, an idx file of \[48, 6, 6\] has 1,744: cut short"),
        (lambda data: b"\0\0\x0d" + data[3:], r"train-images-idx3-ubyte: no idx file of bytes"),
        (lambda data: b"", r"train-images-idx3-ubyte: no idx file of bytes"),
        (lambda data: data[:3], r"train-images-idx3-ubyte: no idx file of bytes"),
    ],
)
def test_idx_files_that_are_none(tmp_path, arrays, damage, said):
    folder = write_idx(tmp_path / "files", arrays, False)
    (folder / idx.FILES[0]).write_bytes(damage((folder / idx.FILES[0]).read_bytes()))
    with pytest.raises(DataError, match=said):
        idx.check(folder)


@pytest.mark.parametrize("form", ["grey", "channels behind", "channels in front", "keras"])
def test_arrays_in_every_form_are_the_same_images(tmp_path, arrays, form):
    colours = form.startswith("channels")
    pixels = np.stack([arrays["train_images"]] * 3, 1) if colours else arrays["train_images"][:, None]
    changed = dict(arrays)
    for split in ("train", "test"):
        images = arrays[f"{split}_images"]
        if colours:
            changed[f"{split}_images"] = np.stack([images] * 3, -1 if form == "channels behind" else 1)
        changed[f"{split}_labels"] = arrays[f"{split}_labels"][:, None].astype(np.uint8)
    if form == "keras":
        changed = dict(zip(("x_train", "y_train", "x_test", "y_test"), changed.values(), strict=True))
    (train, labels), _ = npz.read(write_npz(tmp_path / "own.npz", changed), 0)
    assert np.array_equal(train.numpy(), pixels) and np.array_equal(labels.numpy(), arrays["train_labels"])


def test_which_arrays_are_the_test_images_is_said(tmp_path, arrays):
    path = write_npz(tmp_path / "own.npz", arrays)
    assert loaded("npz", path).describe() == (
        "npz: 36 training, 12 validation and 12 test images of 6x6 pixels, 3 classes; test images from test_images"
    )
    more = arrays | {"val_images": arrays["test_images"], "val_labels": arrays["test_labels"]}
    assert (
        loaded("npz", write_npz(path, more)).describe().endswith("3 classes; test images from test_images, val_images not used")
    )
    val = {key.replace("test", "val"): value for key, value in arrays.items()}
    assert loaded("npz", write_npz(path, val)).describe().endswith("3 classes; test images from val_images")


def test_classes_that_a_cut_leaves_without_images_are_said(tmp_path, arrays):
    few = arrays | {"train_labels": np.array([0] * 22 + [1] * 22 + [2, 2, 3, 3])}
    root = write_npz(tmp_path / "own.npz", few)
    assert loaded("npz", root).describe().endswith("; classes 2, 3 have no validation images")
    said = loaded("npz", root, train_size=4).notes
    assert said[-2:] == ("classes 2, 3 have no training images", "classes 2, 3 have no validation images")
    assert not any("have no" in note for note in loaded("npz", root, validation_size=0).notes)


def test_images_are_never_paired_with_labels_of_another_split(tmp_path, arrays):
    unlabelled = {key.replace("test", "val"): value for key, value in arrays.items()} | {
        "test_images": arrays["test_images"] * 0
    }
    data = loaded("npz", path := write_npz(tmp_path / "own.npz", unlabelled))
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(arrays["test_images"]))
    assert data.describe().endswith("test images from val_images, test_images not used")
    del unlabelled["val_images"]
    with pytest.raises(DataError, match=r"own.npz: no array test_labels, it holds train_images"):
        sources.check("npz", write_npz(path, unlabelled))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_images": None}, r"own.npz: no array train_images, it holds train_labels, test_images, test_labels; "),
        ({"train_images": np.zeros((48, 6, 6))}, r"own.npz, train_images: float64, where uint8 is expected; \(255 \* images"),
        ({"train_images": np.zeros((48, 6, 5), np.uint8)}, "images of 6x5 pixels; pad or crop"),
        ({"train_images": np.zeros((48, 6, 6, 2), np.uint8)}, r"shape \[48, 6, 6, 2\], expected \[images, side, side\]"),
        ({"train_images": np.zeros((48, 8, 8), np.uint8)}, r"training images of \[1, 8, 8\], test images of \[1, 6, 6\]"),
        ({"train_labels": np.arange(47) % 3}, "train_labels: 47 labels of 48 images"),
        ({"train_labels": np.arange(48) % 3 - 1}, "labels from -1 to 1; number the classes from 0"),
        ({"train_labels": np.arange(48) % 3 + 1}, "0 training images of class 0, at least two are needed"),
        ({"train_labels": np.zeros(48)}, "expected one whole number for each image"),
        ({"train_labels": np.zeros(48, int)}, "1 classes in the training labels"),
        ({"test_labels": np.arange(12) % 4}, "a test label is 3, the training labels end at 2"),
        ({"test_labels": soft(12) * 2}, "test_labels: the shares of image 0 add up to 2: divide them so that it is 1"),
        ({"test_labels": soft(12) - 0.5}, "test_labels: labels hold what is no number, not finite, or negative"),
        ({"test_labels": soft(12, 4)}, "test labels share out 4 classes, the training labels hold 3"),
        ({"train_labels": soft(48) * 0 + np.eye(3)[0]}, "0 training images of class 1, at least two are needed"),
        ({"train_labels": np.array([None] * 48)}, "cannot be read as numpy's .npz"),
    ],
)
def test_arrays_that_cannot_be_used_are_said_by_name(tmp_path, arrays, change, said):
    path = write_npz(tmp_path / "own.npz", {key: value for key, value in (arrays | change).items() if value is not None})
    with pytest.raises(DataError, match=said):
        sources.check("npz", path)


def test_soft_labels_stay_with_their_images(tmp_path, arrays):
    """In every split: by the pixels of an image. Of the largest share are the classes, which divide the images and train."""
    train, test = soft(48), soft(12)
    train[:3] = np.eye(3)
    arrays = arrays | {"train_labels": train, "test_labels": test}
    data = loaded("npz", write_npz(tmp_path / "own.npz", arrays), test_size=9)
    pixels = np.concatenate([arrays["train_images"], arrays["test_images"]])
    shares = {image.tobytes(): share for image, share in zip(pixels, np.concatenate([train, test]), strict=True)}
    for split in data.splits.values():
        expected = np.array([shares[image.numpy().tobytes()] for image in split.images])
        assert np.allclose(split.truth, expected, atol=1e-7) and split.labels.tolist() == expected.argmax(1).tolist()
    floors = [stats.entropy(part.shares, axis=1).mean() for part in (data.validation, data.test)]
    assert (
        f"soft labels of validation (NLL at least {floors[0]:.3f}) and test (NLL at least {floors[1]:.3f}): NLL and Brier are "
        "against each class's share; accuracy, calibration errors and the detection of errors against the class of the "
        "largest; training takes the class of the largest share"
    ) in data.describe()
    (tmp_path / "labels.txt").write_text("0 1 2 " * 16)
    taught = loaded("npz", tmp_path / "own.npz", train_labels=tmp_path / "labels.txt", test_size=9)
    assert taught.train.shares is None and torch.equal(taught.validation.shares, data.validation.shares)


def test_soft_labels_are_part_of_what_data_are_known_by(tmp_path, arrays):
    hard, test = loaded("npz", write_npz(tmp_path / "own.npz", arrays)), soft(12)
    first, second = (
        loaded("npz", write_npz(tmp_path / "own.npz", arrays | {"test_labels": shares}))
        for shares in (test, test * 0.5 + 0.5 * np.eye(3)[test.argmax(1)])
    )
    assert torch.equal(first.test.labels, second.test.labels)
    assert len({data.test_fingerprint for data in (hard, first, second)}) == 3
    assert first.fingerprint == second.fingerprint == hard.fingerprint  # what training sees
    assert "; soft labels of test (NLL at least " in first.describe() and "training takes" not in first.describe()


def test_files_that_hold_no_arrays(tmp_path):
    for root, said in (
        (None, "--data-root is missing: it should name a file NAME.npz"),
        (tmp_path, "no such file; --data-root"),
    ):
        with pytest.raises(DataError, match=said):
            sources.check("npz", root)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("x")
    write_npz(tmp_path / "cut.npz", {"train_images": np.zeros((9, 9))})
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-30])
    for name in ("one.npy", "text.npz", "cut.npz"):
        with pytest.raises(DataError, match=rf"{name}: no .npz, or one that is cut; --data-root should name a file NAME.npz"):
            sources.check("npz", tmp_path / name)


@pytest.mark.parametrize(("place", "said"), [(8, "is encrypted"), (10, "compression method is not supported")])
def test_arrays_that_are_packed_in_another_way(tmp_path, arrays, place, said):
    """place: in a file's entry, of the flags or of the method; zipfile's errors are no errors of reading."""
    data = bytearray(write_npz(tmp_path / "own.npz", arrays).read_bytes())
    data[data.index(b"PK\1\2") + place] ^= 1
    (tmp_path / "own.npz").write_bytes(data)
    with pytest.raises(DataError, match=rf"own.npz: cannot be read as numpy's .npz \(.*{said}"):
        sources.check("npz", tmp_path / "own.npz")


def folder_of(place, splits):
    for split in splits:
        for label, grey in (("a", 10), ("b", 200)):
            (place / split / label).mkdir(parents=True)
            for index in range(4):
                Image.new("L", (8, 8), grey + len(split) + index).save(place / split / label / f"{index}.png")
    return place


@pytest.mark.parametrize(
    ("splits", "grey", "said"),
    [
        (("train", "val"), 13, "test images from val/"),
        (("train", "test"), 14, "test images from test/"),
        (("train", "val", "test"), 14, "test images from test/, val/ not used"),
    ],
)
def test_which_folder_holds_the_test_images(tmp_path, splits, grey, said):
    data = loaded("image_folder", folder_of(tmp_path, splits), image_size=8)
    assert int(data.test.images[0, 0, 0, 0]) == grey and data.describe().endswith(f"2 classes; {said}")


def test_no_folder_of_test_images(tmp_path):
    with pytest.raises(DataError, match=r"val: no such folder; it should hold train/<class>/\* and test/<class>/\* \(or val"):
        sources.check("image_folder", folder_of(tmp_path, ["train"]))


def test_every_kind_has_a_place_of_its_own_as_other_images(tmp_path, arrays):
    """Below the data's own, beside it where that is a file; the same place is refused, another one is another set."""
    path, other = write_npz(tmp_path / "own.npz", arrays), write_npz(tmp_path / "other.npz", arrays)
    files, images = write_idx(tmp_path / "files", arrays, True), folder_of(tmp_path / "images", ("train", "test"))
    several = "npz@other.npz,idx@files,image_folder@images"
    ood.check(several, path, "npz")
    found = [ood.load_other(name, path, channels=1, size=SIDE, count=5) for name in ood.names(several)]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:5]
    assert np.array_equal(found[0][:, 0].numpy(), arrays["test_images"][order]) and torch.equal(found[0], found[1])
    assert found[2].shape == (5, 1, SIDE, SIDE) and [ood.label(name) for name in ood.names(several)] == [
        "other.npz", "files", "images"
    ]  # fmt: skip
    for name, root in (("npz", path), (f"npz@{path}", path), ("npz@own.npz", path), (f"idx@{files}", files)):
        with pytest.raises(DataError, match="the networks are trained on"):
            ood.check(name, root, name.partition("@")[0])
    ood.check(f"npz@{other},image_folder@{images}", path, "npz")


@pytest.mark.parametrize("name", ["labels.npy", "labels.txt"])
def test_other_labels_train_and_the_own_ones_judge(tmp_path, arrays, name):
    root, path = write_npz(tmp_path / "own.npz", arrays), tmp_path / name
    own = arrays["train_labels"]
    noisy = np.where(np.arange(48) < 12, (own + 1) % 3, own)
    np.save(path, noisy) if name.endswith("npy") else path.write_text(", ".join(map(str, noisy)))
    clean, other = loaded("npz", root), loaded("npz", root, train_labels=path)
    for split in ("train", "validation", "test"):
        assert torch.equal(clean.splits[split].images, other.splits[split].images)
    for split in ("validation", "test"):
        assert torch.equal(clean.splits[split].labels, other.splits[split].labels)
    by_image = {image.tobytes(): label for image, label in zip(arrays["train_images"], noisy, strict=True)}
    expected = [by_image[image.numpy().tobytes()] for image in other.train.images]
    assert other.train.labels.tolist() == expected != clean.train.labels.tolist()
    share = float((other.train.labels != clean.train.labels).double().mean())
    assert f"the labels of {name}, {share:.1%} of them not the data set's own, which validation, temp" in other.describe()
    assert other.fingerprint != clean.fingerprint and other.whole_fingerprint != clean.whole_fingerprint
    half = loaded("npz", root, train_labels=path, train_size=18, test_split="development")
    assert [by_image[image.numpy().tobytes()] for image in half.train.images] == half.train.labels.tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 1 2", "labels.txt: 3 labels of 48 images"),
        ("0 1 2 3 " * 12, "a label is 3, the data set has 3 classes"),
        ("label\n" + "0\n" * 48, r"labels.txt: cannot be read \(invalid literal for int.*'label'\); it should hold a whole"),
        ("-1 " * 48, "labels from -1 to -1"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, arrays, text, said):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        loaded("npz", write_npz(tmp_path / "own.npz", arrays), train_labels=tmp_path / "labels.txt")


def test_several_arrays_in_place_of_labels(tmp_path, arrays):
    write_npz(tmp_path / "labels.npz", {"labels": np.zeros(48, int)}).rename(tmp_path / "labels.npy")
    with pytest.raises(DataError, match=r"labels.npy: <U6 of shape \[1\], expected one whole number for each image"):
        loaded("npz", write_npz(tmp_path / "own.npz", arrays), train_labels=tmp_path / "labels.npy")


def test_labels_whose_files_beginning_is_damaged(tmp_path, arrays):
    np.save(tmp_path / "labels.npy", np.zeros(48, int))
    data = bytearray((tmp_path / "labels.npy").read_bytes())
    data[10] ^= 1  # the brace that opens what numpy parses as Python
    (tmp_path / "labels.npy").write_bytes(data)
    with pytest.raises(DataError, match=r"labels.npy: cannot be read \(.*\); it should hold"):
        loaded("npz", write_npz(tmp_path / "own.npz", arrays), train_labels=tmp_path / "labels.npy")


def test_a_trial_is_known_by_what_the_file_of_labels_holds(tmp_path, arrays):
    root, path = write_npz(tmp_path / "own.npz", arrays), tmp_path / "labels.txt"
    path.write_text("0 1 2 " * 16)
    plain = TrialConfig(data="npz", data_root=str(root))
    named = plain.replace(train_labels=str(path), train_labels_hash=content_hash(path))
    assert named.id != plain.id and named.replace(train_labels="/elsewhere").id == named.id
    assert dataset(named).train.labels.tolist() != []
    path.write_text("0 2 1 " * 16)
    dataset(plain)  # what was read before is forgotten
    with pytest.raises(DataError, match=r"labels.txt: its contents have changed"):
        dataset(named)
    with pytest.raises(ConfigError, match="train_labels and train_labels_hash go together"):
        plain.replace(train_labels=str(path))


def test_no_validation_images(tmp_path, arrays):
    data = loaded("npz", write_npz(tmp_path / "own.npz", arrays), validation_size=0)
    assert (len(data.train), len(data.validation)) == (48, 0)
    folder = loaded("image_folder", folder_of(tmp_path, ("train", "val")), image_size=8, validation_size=0)
    assert (len(folder.train), len(folder.validation), len(folder.to(torch.device("cpu")).validation)) == (8, 0, 0)
    with pytest.raises(DataError, match="validation_size = 0 of 48 images cannot be taken"):
        loaded("npz", tmp_path / "own.npz", validation_fraction=0.001)
