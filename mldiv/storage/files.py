"""Turn states of tensors into bytes and back, and write them whole or not at all."""

import io
from pathlib import Path
from typing import Any

import torch

from mldiv.records import write_atomically

#: Tensors and plain values by name.
State = dict[str, Any]


def save_atomically(path: Path, state: State) -> None:
    """Write ``state`` as `records.write_atomically` does."""
    write_atomically(path, dump(state))


def dump(state: State) -> bytes:
    """Return ``state`` as bytes, which `load` reads."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load(data: bytes, device: torch.device) -> State:
    """Read a state from its bytes, tensors on ``device``; nothing but tensors and plain values is allowed in it."""
    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
