"""Turn states of tensors into bytes and back, and write them whole or not at all."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mldiv.records.checked_files import Damaged, write_atomically

#: Tensors and plain values by name.
State = dict[str, Any]
#: What torch and zipfile raise at bytes that are no state.
UNREADABLE = (
    ValueError, TypeError, AttributeError, OSError, EOFError, LookupError, RuntimeError, MemoryError, AssertionError,
    pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


def save_atomically(path: Path, state: State) -> None:
    """Write ``state`` as `checked_files.write_atomically` does."""
    write_atomically(path, dump(state))


def dump(state: State) -> bytes:
    """Return ``state`` as bytes, which `load` reads."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load(data: bytes, device: torch.device) -> State:
    """Read a state from its bytes, tensors on ``device``; nothing but tensors and plain values is allowed in it.

    Raises: Damaged for what is cut short, changed, packed (which may unpack to anything) or no state.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            if any(item.compress_type != zipfile.ZIP_STORED for item in file.infolist()):
                raise Damaged("it is packed")
            if (part := file.testzip()) is not None:
                raise Damaged(f"the checksum of its part {part} does not fit")
        state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except (torch.OutOfMemoryError, Damaged):
        raise
    except UNREADABLE as error:
        raise Damaged(f"not a whole file of tensors: {type(error).__name__}") from None
    if not isinstance(state, dict):
        raise Damaged(f"a {type(state).__name__}, where tensors by name were expected")
    return state


def fill(module: nn.Module, state: Any) -> None:
    """Give a module the tensors of a state dict. Raises: Damaged, with the module as it was, where they are not its own."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, LookupError):
        module.load_state_dict(before)
        raise Damaged("its tensors are not those of this network") from None


def check_form(found: Any, like: Mapping[str, Tensor]) -> None:
    """Compare tensors with others, by name, shape and type. Raises: Damaged where they are not of that form."""
    if not isinstance(found, Mapping) or found.keys() != like.keys():
        raise Damaged("its tensors are not those of this network")
    for name, tensor in like.items():
        value = found[name]
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (tensor.shape, tensor.dtype):
            raise Damaged(f"{name} is not a tensor of this network")


def check_optimizer(found: Any, optimizer: torch.optim.Optimizer) -> None:
    """Compare an optimiser's state dict with the tensors that it optimises. Raises: Damaged where it cannot be theirs."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    states = found.get("state") if isinstance(found, Mapping) else None
    if not isinstance(states, Mapping) or not set(states) <= set(range(len(parameters))):
        raise Damaged("its optimiser's state is missing or another network's")
    for number, values in states.items():
        shapes = (torch.Size(), parameters[number].shape)
        if (
            not isinstance(values, Mapping)
            or not values
            or not all(value is None or (isinstance(value, Tensor) and value.shape in shapes) for value in values.values())
        ):
            raise Damaged("its optimiser's state is another network's")
