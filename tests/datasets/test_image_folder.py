"""Folders of images: depth of colours, broken files, links, hidden folders, names; each fault is said by the file's name."""

import io
import os
import shutil
import struct
import zlib
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from mldiv.datasets import image_folder
from mldiv.datasets.files import DataError
from mldiv.datasets.image_folder import FolderImages, read_image
from mldiv.datasets.splits import load

CPU = torch.device("cpu")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes in both splits, eight and four images of each."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label in "ab":
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 256, (16, 16, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / label / f"{index}.png")
    return tmp_path / "images"


def loaded(folder, **more):
    image_folder.check(folder)
    return load("image_folder", folder, seed=0, validation_fraction=0.25, image_size=16, **more)


def png(width, height, depth, colour, rows):
    """A PNG file by hand: Pillow writes no colours of 16 bits."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_grey_of_16_bits_is_that_of_8(tmp_path, pixels):
    grey = pixels[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "16.png")), np.repeat(grey[..., None], 3, -1))


@pytest.mark.parametrize(
    ("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["grey", "rgb", "grey alpha", "rgb alpha"]
)
def test_every_kind_of_16_bits_is_that_of_8(tmp_path, pixels, colour, channels):
    values = np.random.default_rng(1).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    for depth, scale in ((8, 1), (16, 257)):
        wide = (values.astype(np.uint16) * scale).astype(">u2" if depth == 16 else np.uint8)
        rows = b"".join(b"\0" + row.tobytes() for row in wide)
        (tmp_path / f"{depth}.png").write_bytes(png(7, 5, depth, colour, rows))
    narrow, wide = (np.asarray(read_image(tmp_path / f"{depth}.png")) for depth in (8, 16))
    assert np.array_equal(narrow, wide)
    assert wide.std() > 30


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_photograph_lies_as_its_camera_was_held(tmp_path, pixels, suffix):
    """A phone stores what it was turned by; viewers and Hugging Face's reader turn it back."""
    note = Image.Exif()
    for number, turned in ((6, Image.Transpose.ROTATE_270), (3, Image.Transpose.ROTATE_180), (1, None)):
        note[274] = number
        Image.fromarray(pixels).save(tmp_path / f"x.{suffix}", exif=note)
        Image.fromarray(pixels).save(tmp_path / f"plain.{suffix}")
        plain, found = (read_image(tmp_path / f"{name}.{suffix}") for name in ("plain", "x"))
        assert np.array_equal(found, plain if turned is None else plain.transpose(turned))


def truncated(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()[:-60]


def long_text(pixels):
    file, note = io.BytesIO(), PngImagePlugin.PngInfo()
    note.add_text("note", "x" * 3 * 2**20, zip=True)
    Image.fromarray(pixels).save(file, "PNG", pnginfo=note)
    return file.getvalue()


BROKEN = {
    "truncated": truncated,
    "of another kind": lambda pixels: b"GIF89a" + bytes(40),
    "with a text too long": long_text,
    "without its chunks": lambda pixels: b"\x89PNG\r\n\x1a\n",
    "with a damaged header": lambda pixels: b"\x89PNG\r\n\x1a\n" + bytes(200),
    "gigantic": lambda pixels: png(60_000, 60_000, 8, 2, b""),
    "of a wrong length": lambda pixels: png(7, 5, 8, 2, b"\0\0\0"),
    "a jpeg's beginning": lambda pixels: b"\xff\xd8\xff\xe0" + bytes(30),
}


def assert_one_line(error, path):
    assert str(error.value).startswith(f"{path}: not a readable JPEG or PNG image")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 300


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_line_with_its_name(tmp_path, pixels, kind):
    (tmp_path / "x.png").write_bytes(BROKEN[kind](pixels))
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "x.png")
    assert_one_line(error, tmp_path / "x.png")


@pytest.mark.parametrize("in_memory", [True, False])
def test_so_it_is_where_other_processes_decode(folder, pixels, in_memory, monkeypatch):
    path = folder / "train" / "b" / "3.png"
    path.write_bytes(truncated(pixels))
    monkeypatch.setattr("mldiv.datasets.splits.IN_MEMORY_BYTES", 2**30 if in_memory else 0)
    with pytest.raises(DataError) as error:
        data = loaded(folder)
        for split in data.splits.values():
            list(split.images.decoded([torch.arange(len(split))]))
    assert_one_line(error, path)


def test_an_empty_file_is_refused_at_once(folder):
    (folder / "val" / "a" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"val/a/0.png: 0 bytes are no image"):
        image_folder.check(folder)


def test_a_picture_of_no_class_is_refused(folder):
    """It was left out without a word; a text beside the classes says nothing of images."""
    (folder / "train" / "read me.txt").write_text("two classes")
    image_folder.check(folder)
    stray = folder / "train" / "stray.PNG"
    stray.write_bytes(next(folder.glob("train/*/*.png")).read_bytes())
    with pytest.raises(DataError, match=r"train/stray.PNG: a picture in no class folder; it should hold"):
        image_folder.check(folder)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a pipe", "a device"])
def test_what_is_no_file_is_refused_at_once(folder, make):
    make(folder / "train" / "a" / "x.png")
    with pytest.raises(DataError, match=r"x.png: not a file"):
        image_folder.check(folder)


def test_a_link_to_nowhere_is_refused_at_once(folder):
    (folder / "train" / "a" / "x.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"x.png: cannot be read"):
        image_folder.check(folder)


def test_links_to_folders_are_followed_once(folder, tmp_path):
    expected = loaded(folder)
    linked = tmp_path / "linked"
    for split in ("train", "val"):
        for label in "ab":
            (linked / split / label).mkdir(parents=True)
            (linked / split / label / "part").symlink_to(folder / split / label)
    (linked / "train" / "a" / "loop").symlink_to(linked / "train" / "a")
    data = loaded(linked)
    assert torch.equal(data.train.images, expected.train.images)
    assert torch.equal(data.test.labels, expected.test.labels)


def test_of_a_folder_and_links_to_it_the_first_name_counts_however_a_disk_lists_them(folder):
    for number in range(8):
        name, link = (f"a{number}", f"b{number}") if number % 2 else (f"b{number}", f"a{number}")
        (folder / "train" / "a" / name).mkdir()
        (folder / "train" / "a" / name / "0.png").touch()
        (folder / "train" / "a" / link).symlink_to(name)
    found = [path.parent.name for path in image_folder.image_files(folder / "train" / "a")]
    assert found[-8:] == [f"a{number}" for number in range(8)]


def test_hidden_folders_and_files_are_no_classes_and_no_images(folder):
    expected = loaded(folder)
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "a" / ".DS_Store").write_bytes(b"x")
    for name in (".thumbnails", ".ipynb_checkpoints"):
        (folder / "train" / "a" / name).mkdir()
    shutil.copy(folder / "train" / "a" / "0.png", folder / "train" / "a" / name / "0-checkpoint.png")
    data = loaded(folder)
    assert data.classes == 2
    assert torch.equal(data.train.images, expected.train.images)


def test_names_that_are_not_utf8(folder, monkeypatch):
    name = os.fsencode(folder / "train" / "a") + b"/\xff.png"
    os.rename(os.fsencode(folder / "train" / "a" / "0.png"), name)
    monkeypatch.setattr("mldiv.datasets.splits.IN_MEMORY_BYTES", 0)
    assert loaded(folder).fingerprint
    with open(name, "wb") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="not a readable"):
        list(FolderImages(image_folder.image_files(folder / "train" / "a"), 16).decoded([torch.arange(8)]))


def test_a_class_with_one_image_is_said(folder):
    for path in sorted((folder / "train" / "a").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match=r"train/a: a class of one image"):
        loaded(folder)


@pytest.mark.slow
def test_images_travel_without_shared_memory(folder, monkeypatch):
    """Containers have 64 MB of it."""

    def refuse(tensor):
        raise OSError("no shared memory")

    monkeypatch.setitem(ForkingPickler._extra_reducers, torch.Tensor, refuse)
    monkeypatch.setattr("mldiv.datasets.splits.IN_MEMORY_BYTES", 0)
    data = loaded(folder)
    (batch,) = data.train.images.decoded([torch.arange(6)])
    assert batch.shape == (6, 3, 16, 16)


def test_another_folders_contents_have_another_fingerprint(folder, tmp_path, monkeypatch):
    """Also where only names and sizes can be told apart cheaply."""
    monkeypatch.setattr("mldiv.datasets.splits.IN_MEMORY_BYTES", 0)
    before = loaded(folder).fingerprint
    path = folder / "train" / "a" / "0.png"
    held = bytearray(path.read_bytes())
    held[-20] ^= 1
    path.write_bytes(held)
    assert loaded(folder).fingerprint != before


@pytest.mark.slow
def test_once_cuda_is_up_no_process_is_a_copy_of_this_one(folder, monkeypatch):
    """It would have the locks of threads that it has not; started anew it decodes the same."""
    paths = sorted(folder.glob("train/*/*.png"))
    (expected,) = FolderImages(paths, 16).decoded([torch.arange(4)])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    (found,) = (images := FolderImages(paths, 16)).decoded([torch.arange(4)])
    assert torch.equal(found, expected) and images.loader.multiprocessing_context.get_start_method() == "forkserver"
