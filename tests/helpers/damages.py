"""Ways in which a file of a study can be wrong."""

import io
import json
import os
import zipfile
from pathlib import Path


def flip(path: Path, place: float, bit: int = 0) -> None:
    """Turn a bit around; place: from 0, the first byte, to 1, the last."""
    data = bytearray(path.read_bytes())
    data[round(place * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)


def flip_tensor(path: Path) -> None:
    """Turn a bit of the largest tensor around; between the parts of such a file lies padding, which says nothing."""
    with zipfile.ZipFile(path) as file:
        part = file.read(max(file.infolist(), key=lambda item: item.file_size))
    data = bytearray(path.read_bytes())
    data[data.index(part) + len(part) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path, place: float) -> None:
    """Keep so much of a file."""
    path.write_bytes(path.read_bytes()[: round(place * path.stat().st_size)])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def gigabytes(path: Path) -> None:
    """A file of 2 TiB, of which the disk holds nothing."""
    os.truncate(path, 2**41)


def packed(path: Path) -> None:
    """The same parts, one of them a gigabyte of zeros, packed."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as file:
        parts = {item.filename: file.read(item) for item in file.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in parts.items():
            file.writestr(name, data)
        with file.open("archive/more", "w", force_zip64=True) as part:
            for _ in range(64):
                part.write(bytes(2**20))


#: What stands in place of any file and must not be read to its end.
NO_FILES = {"a pipe": pipe, "a folder": folder, "a device": device, "2 TiB": gigabytes}


def rewrite(path: Path, change) -> None:
    """Change a JSON file; change: takes the object and returns another."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
