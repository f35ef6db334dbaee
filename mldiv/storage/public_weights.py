"""Read a network's weights from a file that others have made, and say what of them fits a network."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mldiv.datasets.files import DataError
from mldiv.environment.terminal import first_few
from mldiv.storage.files import UNREADABLE, State

#: Where a checkpoint may hold its network's state, and what wrappers put before the names of its tensors.
WITHIN = ("state_dict", "model_state_dict", "model", "net")
WRAPPERS = ("module.", "_orig_mod.")
#: Of a network's values, the least share that makes it one that starts from a file.
LEAST_TAKEN = 0.5
#: How many names a sentence lists.
_some = partial(first_few, most=6)


def located(given: str) -> Path | None:
    """Return the file of torchvision's weights of this name, fetched where it is not there yet; None where it names a file.

    Raises: DataError for weights that there are not, or that cannot be fetched.
    """
    if "_Weights." not in given or Path(given).exists():
        return None
    from torchvision.models import get_weight  # torchvision takes two seconds to import

    try:
        weights = get_weight(given)
    except (ValueError, AttributeError, KeyError) as error:
        raise DataError(f"--pretrained {given}: torchvision knows no such weights ({error})") from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"--pretrained {given}: cannot be fetched ({error}); put {weights.url} into {path.parent}") from None
    return path


def fitted(path: Path, own: Mapping[str, Tensor]) -> tuple[State, str]:
    """Return ``own``, a network's state, with every tensor that a file has of that name and shape; say what does not fit.

    Raises: DataError, naming the file, where it cannot be read, less than LEAST_TAKEN of the network fits, or what fits is not
    finite.
    """
    found = _read(path)
    fits = {
        name: found[name].to(value.dtype) for name, value in own.items() if name in found and found[name].shape == value.shape
    }
    if not any(value.is_floating_point() for value in fits.values()):
        raise DataError(
            f"{path}: none of its tensors is of this network; there: {_some(list(found))}; here: {_some(list(own))}"
        )
    if bad := [name for name, value in fits.items() if not value.isfinite().all()]:
        raise DataError(f"{path}: {bad[0]} is not finite")
    left = [
        f"{name} ({list(found[name].shape)} there, {list(value.shape)} here)" if name in found else f"{name} (not there)"
        for name, value in own.items()
        if name not in fits
    ]
    taken, weights = (sum(value.numel() for value in of.values() if value.is_floating_point()) for of in (fits, own))
    if taken < LEAST_TAKEN * weights:
        raise DataError(
            f"{path}: is of another network: {taken:,} of {weights:,} values fit, and a peer would be called pretrained that "
            f"starts at random; not there, or of another shape: {_some(left)}"
        )
    said = f"{path.name}: {len(fits)} of {len(own)} tensors"
    said += f"; left at their random start: {_some(left)}" if left else ""
    unknown = [name for name in found if name not in own]
    return dict(own) | fits, said + (f"; not used: {_some(unknown)}" if unknown else "")


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, whatever they are wrapped in."""
    try:
        found = _safetensors(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except UNREADABLE as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(
            f"{path}: no file of tensors alone ({why}); torch.save(network.state_dict(), FILE) writes one"
        ) from None
    while isinstance(found, Mapping) and (key := next((key for key in WITHIN if isinstance(found.get(key), Mapping)), None)):
        found = found[key]
    tensors = found.items() if isinstance(found, Mapping) else ()
    return {_bare(name): value for name, value in tensors if isinstance(name, str) and isinstance(value, Tensor)}


def _bare(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise DataError(f"{path}: safetensors reads it: pip install safetensors (the extra mldiv[huggingface])") from None
    try:
        return load_file(path)
    except Exception as error:  # the library's own
        raise DataError(f"{path}: safetensors cannot read it ({' '.join(str(error).split())[:200]})") from None
