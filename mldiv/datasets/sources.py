"""Reading data sets from their files, and saying clearly what is missing or damaged. Add one to DATASETS."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

#: Decoded images up to this many bytes are kept in memory; a larger folder is decoded batch by batch.
IN_MEMORY = 4 * 2**30


class DataError(ValueError):
    """Data that is missing or damaged; the message says which file, what was expected and how to get it."""


class FolderImages:
    """JPEG or PNG files, decoded to uint8 [channels, size, size] when asked for: shorter side resized, center cropped."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths = paths
        from torchvision.transforms import v2

        self.transform = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
        self.shape = torch.Size((len(paths), 3, size, size))
        self.loader: Any = None

    def __len__(self) -> int:
        return len(self.paths)

    def decoded(self, chunks: list[Tensor], pin: bool = False) -> Iterator[Tensor]:
        """The images of each chunk of indices, decoded a few chunks ahead by processes that stay for the next call.

        pin: in page-locked memory, from where a GPU copies them without waiting.
        """
        if self.loader is None:
            workers = max(1, len(os.sched_getaffinity(0)) - 1)
            self.loader = DataLoader(
                _Files(self.paths, self.transform), batch_sampler=_Chunks(), num_workers=workers, pin_memory=pin,
                persistent_workers=True,
            )  # fmt: skip
        self.loader.batch_sampler.chunks = [chunk.tolist() for chunk in chunks]
        yield from self.loader

    def described(self) -> bytes:
        """What identifies the images without reading them: their names below the folder and sizes in bytes."""
        rows = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in self.paths]
        return "\n".join([str(self.shape[-1]), *rows]).encode()


class _Chunks:
    """A batch sampler that yields what it was last given."""

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)


class _Files(Dataset):
    """What the decoding processes need of a `FolderImages`."""

    def __init__(self, paths: list[Path], transform: Callable) -> None:
        self.paths, self.transform = paths, transform

    def __getitem__(self, index: int) -> Tensor:
        try:
            with Image.open(self.paths[index]) as file:
                return self.transform(file.convert("RGB"))
        except OSError as error:
            raise DataError(f"{self.paths[index]}: not a readable JPEG or PNG image ({error}); replace or remove it") from None


Raw = tuple[Tensor | FolderImages, Tensor]


@dataclass(frozen=True)
class Source:
    """A data set's reader and habits. mean and std per channel, of values in [0, 1]; None: from its training images.

    read: (root, image_size) -> (training images and labels, test images and labels); check: raises DataError early;
    padding, flip: the augmentation; size: of the images; download: torchvision's class that fetches the files, by name.
    """

    read: Callable[[Path | None, int], tuple[Raw, Raw]]
    check: Callable[[Path | None], None]
    classes: int | None
    size: int
    padding: int
    flip: bool
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    download: str | None = None


def _read_digits(root: Path | None, size: int) -> tuple[Raw, Raw]:
    """scikit-learn's 1,797 digits of 8x8 pixels and 17 grey levels. It has no test set: ours is a fixed fifth, by class."""
    bunch = load_digits()
    images = torch.from_numpy((bunch.images * 255 / 16).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=bunch.target, random_state=0)
    return (images[train], labels[train]), (images[test], labels[test])


def _torchvision(name: str) -> Any:
    """A class of torchvision.datasets, which takes two seconds to import."""
    from torchvision import datasets

    return getattr(datasets, name)


def _read_fashion_mnist(root: Path | None, size: int) -> tuple[Raw, Raw]:
    train, test = (_torchvision("FashionMNIST")(root, train=train) for train in (True, False))
    return (train.data[:, None], train.targets), (test.data[:, None], test.targets)


def _read_cifar10(root: Path | None, size: int) -> tuple[Raw, Raw]:
    assert root is not None
    if (root / CIFAR10_BINARY).is_dir():
        parts = [_read_cifar10_binary(root / CIFAR10_BINARY / name) for name in CIFAR10_MD5]
        train = torch.cat([images for images, _ in parts[:5]]), torch.cat([labels for _, labels in parts[:5]])
        return train, parts[5]
    return _read_cifar(_torchvision("CIFAR10"), root)


def _read_cifar10_binary(path: Path) -> tuple[Tensor, Tensor]:
    """Records of 1 label byte and 3,072 pixel bytes (channel, row, column)."""
    records = torch.from_numpy(np.fromfile(path, np.uint8).reshape(-1, 3073))
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()


def _read_cifar100(root: Path | None, size: int) -> tuple[Raw, Raw]:
    assert root is not None
    return _read_cifar(_torchvision("CIFAR100"), root)


def _read_cifar(kind: Any, root: Path) -> tuple[Raw, Raw]:
    both = []
    for train in (True, False):
        data = kind(root, train=train)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        both.append((images, torch.tensor(data.targets)))
    return both[0], both[1]


def _read_image_folder(root: Path | None, size: int) -> tuple[Raw, Raw]:
    assert root is not None
    return _read_folder(root / "train", size), _read_folder(root / "val", size)


def _read_folder(folder: Path, size: int) -> Raw:
    files = _torchvision("ImageFolder")(str(folder))
    images = FolderImages([Path(path) for path, _ in files.samples], size)
    return images, torch.tensor(files.targets)


def _check_nothing(root: Path | None) -> None:
    """digits come with scikit-learn."""


def _root(root: Path | None, what: str) -> Path:
    if root is None:
        raise DataError(f"--data-root is missing: {what}")
    if not root.exists():
        raise DataError(f"{root}: no such folder; {what}")
    if not root.is_dir():
        raise DataError(f"{root}: a file, where a folder was expected; {what}")
    return root


def _check_fashion_mnist(root: Path | None) -> None:
    hint = "it should hold FashionMNIST/raw (--download fetches it)"
    for name, size in FASHION_MNIST_SIZES.items():
        _check_file(_root(root, hint) / "FashionMNIST" / "raw" / name, size, None, hint)


def _check_cifar10(root: Path | None) -> None:
    hint = f"it should hold {CIFAR10_BINARY} or {_torchvision('CIFAR10').base_folder} (--download fetches the latter)"
    folder = _root(root, hint) / CIFAR10_BINARY
    if not folder.is_dir():
        return _check_pickles(_torchvision("CIFAR10"), root)
    for name, md5 in CIFAR10_MD5.items():
        _check_file(folder / name, 30_730_000, md5, "take the official binary version again")
    return None


def _check_cifar100(root: Path | None) -> None:
    _check_pickles(_torchvision("CIFAR100"), root)


def _check_pickles(kind: Any, root: Path | None) -> None:
    hint = f"it should hold {kind.base_folder} (--download fetches it)"
    folder = _root(root, hint) / kind.base_folder
    for name, md5 in (*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])):
        _check_file(folder / name, None, md5, "--download fetches it anew")


def _check_file(path: Path, size: int | None, md5: str | None, hint: str) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such file; {hint}")
    if size is not None and path.stat().st_size != size:
        raise DataError(
            f"{path}: {path.stat().st_size:,} bytes where {size:,} were expected, truncated or not this data; {hint}"
        )
    if md5 is not None and _md5(path) != md5:
        raise DataError(f"{path}: its md5 is {_md5(path)}, expected {md5}: damaged or not this data; {hint}")


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _check_image_folder(root: Path | None) -> None:
    hint = "it should hold train/<class>/*.jpeg and val/<class>/*.jpeg, the same classes in both"
    classes = []
    for split in ("train", "val"):
        folder = _root(root, hint) / split
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; {hint}")
        classes.append({path.name for path in folder.iterdir() if path.is_dir()})
        for name in sorted(classes[-1]):
            files = [path for path in (folder / name).rglob("*") if path.is_file()]
            if not files:
                raise DataError(f"{folder / name}: an empty class folder; add images or remove it")
            if odd := [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]:
                raise DataError(f"{odd[0]}: not a JPEG or PNG file, but in a class folder; remove it")
    if len(classes[0]) < 2:
        raise DataError(f"{root}: {len(classes[0])} classes in train, at least 2 are needed; {hint}")
    if odd_classes := sorted(classes[0] ^ classes[1]):
        raise DataError(f"{root}: class {odd_classes[0]} is in only one of train and val; {hint}")


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
CIFAR10_BINARY = "cifar-10-batches-bin"
#: md5 of the official files; the last is the test set.
CIFAR10_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
FASHION_MNIST_SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}

DATASETS: dict[str, Source] = {
    "digits": Source(_read_digits, _check_nothing, 10, 8, padding=1, flip=False),
    "fashion_mnist": Source(
        _read_fashion_mnist, _check_fashion_mnist, 10, 28, 2, True, (0.2860,), (0.3530,), "FashionMNIST"
    ),
    "cifar10": Source(
        _read_cifar10, _check_cifar10, 10, 32, 4, True, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "CIFAR10"
    ),
    "cifar100": Source(
        _read_cifar100, _check_cifar100, 100, 32, 4, True, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), "CIFAR100"
    ),
    "image_folder": Source(
        _read_image_folder, _check_image_folder, None, 64, 8, True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ),
}  # fmt: skip


def check(name: str, root: Path | None, *, download: bool = False) -> None:
    """Look at the files before any work starts; with ``download``, let torchvision fetch what is not there.

    Raises: DataError for what is missing, truncated, damaged or of the wrong kind.
    """
    source = DATASETS[name]
    if download and name == "image_folder":
        raise DataError("--download: a folder of your own images cannot be downloaded; put train/ and val/ into --data-root")
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
