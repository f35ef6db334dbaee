"""What is given beside settings and images: refused in words, before any work."""

from numbers import Integral
from typing import Any

import numpy as np
import torch

from mldiv.config import ConfigError


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number from ``least`` on. Raises: ConfigError for anything else."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} = {value!r}: expected a whole number from {least} on")
    return int(value)


def yes_or_no(name: str, value: Any) -> bool:
    """Return True or False. Raises: ConfigError for anything else, such as a word, which Python takes for True."""
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name} = {value!r:.80}: expected True or False")
    return bool(value)


def device_of(device: str | torch.device | None) -> torch.device:
    """Return the device, for None the GPU, where there is one. Raises: ConfigError for one not here or of another kind."""
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device = {device!r}: {str(error).partition(chr(10))[0]}") from None
    if found.type not in ("cpu", "cuda"):
        raise ConfigError(f"device = {str(device)!r}: pairs are trained on 'cpu' and 'cuda'")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no GPU here: device='cpu'")
    return found
