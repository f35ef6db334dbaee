"""Write a file whole or not at all, and turn states of tensors into bytes and back."""

import io
import os
import uuid
from pathlib import Path
from typing import Any

import torch

#: Tensors and plain values by name.
State = dict[str, Any]


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that a reader, or a crash, sees the old file or the new one and nothing between.

    Raises: OSError, with no trace left, when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_atomically(path: Path, state: State) -> None:
    """Write ``state`` as `write_atomically` does."""
    write_atomically(path, dump(state))


def dump(state: State) -> bytes:
    """Return ``state`` as bytes, which `load` reads."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load(data: bytes, device: torch.device) -> State:
    """Read a state from its bytes, tensors on ``device``; nothing but tensors and plain values is allowed in it."""
    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
