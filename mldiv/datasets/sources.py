"""Read data sets from their files, and say clearly what is missing or damaged. Add one to DATASETS, its layout to LAYOUTS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from mldiv.datasets import image_folder
from mldiv.datasets.files import LAYOUTS, DataError, check_file, existing_folder, packed_or_not
from mldiv.datasets.formats import huggingface, idx, npz
from mldiv.datasets.image_folder import FolderImages

#: Decoded images up to this size are kept in memory; a larger folder is decoded batch by batch.
IN_MEMORY_BYTES = 4 * 2**30

Raw = tuple[Tensor | FolderImages, Tensor]


@dataclass(frozen=True)
class Source:
    """A data set's reader and habits.

    read: (root, image size in pixels, 0: as they are) -> (training images and labels, test images and labels); check: raises
    DataError early; classes: None to count them, of data that are another set in every place; size: pixels a side, None: as
    they are; padding, flip: the augmentation, shifts by so many pixels (of images as they are: by an eighth of a side); mean,
    std: per channel, of values in [0, 1], None to take them from the training images; download: torchvision's class that
    fetches the files, by name; layout: what --data-root should hold, or be; taken: says which test images were found there;
    names: of the classes, from the root; pictures: (root, image size in pixels) -> images alone, as `read`'s test images, from
    a place that need hold no training images and no labels, or DataError; None: of `read`, after `check`.
    """

    read: Callable[[Path | None, int], tuple[Raw, Raw]]
    check: Callable[[Path | None], None]
    classes: int | None
    size: int | None
    padding: int
    flip: bool
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    download: str | None = None
    layout: str = ""
    taken: Callable[[Path | None], str] = lambda root: ""
    names: Callable[[Path | None], Sequence[str]] | None = None
    pictures: Callable[[Path | None, int], Tensor | FolderImages] | None = None

    def augmented_by(self, size: int) -> int:
        """Return the largest shift of images of ``size`` pixels, as large a share of them as of those of the set's own size."""
        return -(-self.padding * size // self.size) if self.size else -(-size // 8)


def _read_digits(root: Path | None, size: int) -> tuple[Raw, Raw]:
    """scikit-learn's 1,797 digits of 8x8 pixels and 17 grey levels. It has no test set: ours is a fixed fifth, by class."""
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * 255 / 16).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=bunch.target, random_state=0)
    return (images[train], labels[train]), (images[test], labels[test])


def _torchvision(name: str) -> Any:
    """A class of torchvision.datasets, which takes two seconds to import."""
    from torchvision import datasets

    return getattr(datasets, name)


def _fashion_mnist_folder(root: Path | None) -> Path:
    """Where the files lie: where torchvision puts them, or in the folder itself, as they are downloaded by hand."""
    folder = existing_folder(root, FASHION_MNIST_HINT)
    below = folder / "FashionMNIST" / "raw"
    return below if below.is_dir() or not any(folder.glob(f"{idx.FILES[0]}*")) else folder


def _read_cifar10(root: Path | None, size: int) -> tuple[Raw, Raw]:
    assert root is not None
    if (root / CIFAR10_BINARY).is_dir():
        parts = [_read_cifar10_binary(root / CIFAR10_BINARY / name) for name in CIFAR10_MD5]
        train = torch.cat([images for images, _ in parts[:5]]), torch.cat([labels for _, labels in parts[:5]])
        return train, parts[5]
    return _read_cifar("CIFAR10", root, size)


def _read_cifar10_binary(path: Path) -> tuple[Tensor, Tensor]:
    """Records of 1 label byte and 3,072 pixel bytes (channel, row, column)."""
    records = torch.from_numpy(np.fromfile(path, np.uint8).reshape(-1, 3073))
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()


def _read_cifar(name: str, root: Path | None, size: int) -> tuple[Raw, Raw]:
    both = []
    for train in (True, False):
        data = _torchvision(name)(root, train=train)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        both.append((images, torch.tensor(data.targets)))
    return both[0], both[1]


def _check_own(root: Path | None) -> NoReturn:
    raise DataError(
        "data = 'own': those are images that mldiv.train was given in Python, and no files; take a data set of files"
    )


def _check_fashion_mnist(root: Path | None) -> None:
    folder = _fashion_mnist_folder(root)
    for name, (size, md5) in FASHION_MNIST_FILES.items():
        check_file(packed_or_not(folder / name, FASHION_MNIST_HINT), size, md5, FASHION_MNIST_HINT)


def _check_cifar10(root: Path | None) -> None:
    hint = f"it should hold {CIFAR10_BINARY} or {_torchvision('CIFAR10').base_folder} (--download fetches the latter)"
    folder = existing_folder(root, hint) / CIFAR10_BINARY
    if not folder.is_dir():
        return _check_pickles("CIFAR10", root)
    for name, md5 in CIFAR10_MD5.items():
        check_file(folder / name, 30_730_000, md5, "take the official binary version again")
    return None


def _check_pickles(name: str, root: Path | None) -> None:
    kind = _torchvision(name)
    hint = f"it should hold {kind.base_folder} (--download fetches it)"
    folder = existing_folder(root, hint) / kind.base_folder
    for name, md5 in (*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])):
        check_file(folder / name, None, md5, "--download fetches it anew")


FASHION_MNIST_HINT = f"it should hold {LAYOUTS['fashion_mnist']} (--download fetches them)"
CIFAR10_BINARY = "cifar-10-batches-bin"
CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
#: md5 of the official files; the last is the test set.
CIFAR10_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
#: Sizes in bytes and md5 of the unpacked official files.
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte": (60_008, "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte": (7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte": (10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
}

DATASETS: dict[str, Source] = {
    "digits": Source(
        _read_digits, lambda root: None, 10, 8, 1, False, layout=LAYOUTS["digits"], names=lambda root: "0123456789",
    ),
    "fashion_mnist": Source(
        lambda root, size: idx.read(_fashion_mnist_folder(root), size), _check_fashion_mnist, 10, 28, 2, True, (0.2860,),
        (0.3530,), "FashionMNIST", LAYOUTS["fashion_mnist"], names=lambda root: _torchvision("FashionMNIST").classes,
    ),
    "cifar10": Source(
        _read_cifar10, _check_cifar10, 10, 32, 4, True, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "CIFAR10",
        LAYOUTS["cifar10"], names=lambda root: CIFAR10_NAMES.split(),
    ),
    "cifar100": Source(
        partial(_read_cifar, "CIFAR100"), partial(_check_pickles, "CIFAR100"), 100, 32, 4, True, (0.5071, 0.4867, 0.4408),
        (0.2675, 0.2565, 0.2761), "CIFAR100", LAYOUTS["cifar100"],
        names=lambda root: _torchvision("CIFAR100")(root, train=False).classes,
    ),
    "image_folder": Source(
        image_folder.read, image_folder.check, None, 64, 8, True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
        layout=LAYOUTS["image_folder"], taken=image_folder.taken, names=image_folder.class_names,
        pictures=image_folder.pictures,
    ),
    "idx": Source(idx.read, idx.check, None, None, 0, False, layout=LAYOUTS["idx"], pictures=idx.pictures),
    "npz": Source(
        npz.read, npz.check, None, None, 0, False, layout=LAYOUTS["npz"], taken=npz.taken, pictures=npz.pictures
    ),
    "huggingface": Source(
        huggingface.read, huggingface.check, None, None, 0, False, layout=LAYOUTS["huggingface"], taken=huggingface.taken
    ),
    "own": Source(lambda root, size: _check_own(root), _check_own, None, 32, 0, False),
}  # fmt: skip


def check(name: str, root: Path | None, *, download: bool = False) -> None:
    """Look at the files before any work starts; with ``download``, let torchvision fetch what is not there.

    Raises: DataError for what is missing, truncated, damaged or of the wrong kind.
    """
    source = DATASETS[name]
    if download and source.classes is None:
        raise DataError(f"--download: images of your own cannot be downloaded; --data-root names them: {source.layout}")
    if download and source.download is not None:
        if root is None:
            raise DataError("--download needs --data-root, the folder to put the data into")
        try:
            _torchvision(source.download)(root, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{name} could not be downloaded into {root} ({error}); fetch it by hand and put it there"
            ) from None
    source.check(root)
