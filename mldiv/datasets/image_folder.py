"""List, check and decode a folder of one's own images, a class a folder; every fault is said by the file's name."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mldiv.datasets.files import LAYOUTS, DataError, existing_folder, say_taken

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
HINT = f"it should hold {LAYOUTS['image_folder']}"
#: Folders that may hold the test images; the first that is there is taken.
TESTED = ("test", "val")

#: Bytes above which a file is no image.
LARGEST_BYTES = 2**30
#: Files of a folder that is not kept in memory whose contents are part of its fingerprint.
HASHED_FILES = 1000
#: What a 16-bit value is divided by to make 8 bits of it.
WIDE_TO_BYTE = 257


class FolderImages:
    """JPEG or PNG files, decoded to uint8 [channels, size, size] when asked for: shorter side resized, center cropped."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths = paths
        self.transform = fitting(size)
        self.shape = torch.Size((len(paths), 3, size, size))
        self.loader: DataLoader | None = None
        self.chunks: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.paths)

    def decoded(self, chunks: list[Tensor], pin: bool = False) -> Iterator[Tensor]:
        """Decode the images of each chunk of indices, a few chunks ahead, by processes that stay for the next call.

        Once CUDA is in use here they are no copies of this process, in which its locks might be held for ever.

        pin: in page-locked memory, from where a GPU copies them without waiting.

        Raises: DataError, naming the first file that is no readable image.
        """
        if self.loader is None:
            workers = max(1, len(os.sched_getaffinity(0)) - 1)
            self.loader = DataLoader(
                _Files(self.paths, self.transform), batch_sampler=self.chunks, num_workers=workers, collate_fn=_stack,
                persistent_workers=True, multiprocessing_context="forkserver" if torch.cuda.is_initialized() else None,
            )  # fmt: skip
        self.chunks[:] = [chunk.tolist() for chunk in chunks]
        for images in self.loader:
            if isinstance(images, DataError):
                raise images
            batch = torch.from_numpy(images)
            yield batch.pin_memory() if pin else batch

    def described(self) -> bytes:
        """Return what identifies the images without reading them all: their names below the folder, their sizes in bytes, and
        the contents of every so manyth, HASHED_FILES in all."""
        rows = [os.fsencode(f"{path.parent.name}/{path.name} {path.stat().st_size}") for path in self.paths]
        for path in self.paths[:: max(1, len(self.paths) // HASHED_FILES)]:
            rows.append(hashlib.sha256(path.read_bytes()).digest())
        return b"\n".join([str(self.shape[-1]).encode(), *rows])


def fitting(size: int) -> Callable[[Image.Image], Tensor]:
    """Return what makes uint8 [channels, size, size] of an image: shorter side resized, center cropped; 0: as it is."""
    from torchvision.transforms import v2  # torchvision takes two seconds to import

    return v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()] if size else [v2.PILToTensor()])


class _Files(Dataset):
    """What the decoding processes need of a `FolderImages`. A file that cannot be read is answered with its error: raised in
    the process it would arrive as a traceback."""

    def __init__(self, paths: list[Path], transform: Callable) -> None:
        self.paths, self.transform = paths, transform

    def __getitem__(self, index: int) -> Tensor | DataError:
        try:
            return self.transform(read_image(self.paths[index]))
        except DataError as error:
            return error


def _stack(images: list[Tensor | DataError]) -> np.ndarray | DataError:
    """A batch as an array, which travels through a pipe: tensors would need shared memory, of which containers have little."""
    bad = next((item for item in images if isinstance(item, DataError)), None)
    return bad or np.stack([np.asarray(item) for item in images])


def read_image(path: Path) -> Image.Image:
    """Read a JPEG or PNG file as 8-bit RGB; 16 bits per channel are scaled.

    Raises: DataError, naming the file, whatever is wrong with it.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as file:
            return to_mode(file, "RGB")
    except Exception as error:  # Pillow's own are of a dozen kinds
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable JPEG or PNG image ({why[:200]}); replace or remove it") from None


def to_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Return a picture with 8 bits per channel, in Pillow's mode L (grey) or RGB; 16 bits are scaled, and what the camera has
    noted that it was turned by is turned back.

    Raises: ValueError for no pixels, for values beyond, for floats, which Pillow would cut off at whole numbers, and for what
    has 8 bits in a form of 32: scaled as 16 it would be black. A PNG file, in which Pillow 10 finds the same form, says that it
    has 16.
    """
    if not all(picture.size):
        raise ValueError("a picture without pixels")
    if picture.mode == "F":
        raise ValueError("a picture of floats, of which none says how far they go")
    if picture.mode == "I" and picture.format != "PNG" and 0 < (most := int(np.asarray(picture).max())) <= 255:
        raise ValueError(f"a picture of mode I, taken for 16 bits, whose values end at {most}")
    picture = ImageOps.exif_transpose(picture)
    return (_to_bytes(picture) if picture.mode.startswith("I") else picture).convert(mode)


def _to_bytes(picture: Image.Image) -> Image.Image:
    """A grey image of 16 bits, which Pillow would cut off at 255, in 8."""
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 255 * WIDE_TO_BYTE:
        raise ValueError("more than 16 bits per channel")
    return Image.fromarray(((values + WIDE_TO_BYTE // 2) // WIDE_TO_BYTE).astype(np.uint8))


def class_folders(folder: Path) -> list[Path]:
    """Return a split's class folders by name; hidden ones (.ipynb_checkpoints) are none."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def class_names(root: Path | None) -> list[str]:
    """Return the classes' names, in the order of their numbers."""
    assert root is not None
    return [path.name for path in class_folders(root / "train")]


def image_files(folder: Path) -> list[Path]:
    """Return a class's files by name, folders and links below it included; hidden ones, and what they hold, are left out."""
    seen: set[tuple[int, int]] = set()
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        # Of a folder and a link to it the first counts, the same one on every machine.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link back up
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        found += [(place, name) for name in names if not name.startswith(".")]
    return [Path(place) / name for place, name in sorted(found)]


def read(root: Path | None, size: int) -> tuple[tuple[FolderImages, Tensor], tuple[FolderImages, Tensor]]:
    """Return training and test images with their labels, numbers of the class folders in the order of their names."""
    assert root is not None
    train, test = (_read_split(root / split, size) for split in ("train", tested(root)))
    return train, test


def pictures(root: Path | None, size: int) -> FolderImages:
    """Return the test images of a data set; of a folder without train/ those of its test/ or val/, or all below it.

    Raises: DataError, naming the file or folder.
    """
    folder = existing_folder(root, f"{HINT}, or pictures alone")
    if (folder / "train").is_dir():
        check(folder)
        return read(folder, size)[1][0]
    there = folder / tested(folder) if (folder / tested(folder)).is_dir() else folder
    found = [path for path in image_files(there) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise DataError(f"{there}: no JPEG or PNG file in it or below")
    for path in found:
        _check_file(path)
    return FolderImages(found, size)


def tested(root: Path) -> str:
    """Return the name of the folder of the test images; the last of TESTED where there is none."""
    return next((name for name in TESTED if (root / name).is_dir()), TESTED[-1])


def taken(root: Path | None) -> str:
    """Say which folder the test images are from, and which one is not used."""
    found = [name for name in TESTED if root is not None and (root / name).is_dir()]
    return say_taken(f"{found[0]}/", [f"{name}/" for name in found[1:]])


def _read_split(folder: Path, size: int) -> tuple[FolderImages, Tensor]:
    by_class = [image_files(path) for path in class_folders(folder)]
    labels = [label for label, files in enumerate(by_class) for _ in files]
    return FolderImages([path for files in by_class for path in files], size), torch.tensor(labels)


def check(root: Path | None) -> None:
    """Look at a folder's layout and at every file's kind and size, without decoding any.

    Raises: DataError, naming the file or folder.
    """
    classes, root = [], existing_folder(root, HINT)
    for split in ("train", test := tested(root)):
        folder = root / split
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; {HINT}")
        if stray := [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]:
            raise DataError(f"{stray[0]}: a picture in no class folder; {HINT}")
        classes.append({path.name for path in class_folders(folder)})
        for path in class_folders(folder):
            _check_class(path, least=2 if split == "train" else 1)
    if len(classes[0]) < 2:
        raise DataError(f"{root}: {len(classes[0])} classes in train, at least 2 are needed; {HINT}")
    if odd_classes := sorted(classes[0] ^ classes[1]):
        raise DataError(f"{root}: class {odd_classes[0]} is in only one of train and {test}; {HINT}")


def _check_class(folder: Path, least: int) -> None:
    files = image_files(folder)
    if not files:
        raise DataError(f"{folder}: an empty class folder; add images or remove it")
    if len(files) < least:
        raise DataError(f"{folder}: a class of one image, and at least two are needed: one of them validates; add images")
    for path in files:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{path}: not a JPEG or PNG file, but in a class folder; remove it")
        _check_file(path)


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); replace or remove it") from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: not a file, but called like a picture; remove it")
    if not 0 < status.st_size <= LARGEST_BYTES:
        raise DataError(f"{path}: {status.st_size:,} bytes are no image; replace or remove it")
