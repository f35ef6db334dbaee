"""What of a GPU and its libraries can change a number: set alike for every trial, and recorded."""

import subprocess
import warnings
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch

#: Whether TF32, which has 10 of float32's 23 bits, computes float32 convolutions, as is torch's default, and matrix products:
#: not these, since the feature KL is made of differences between products of vectors that are nearly alike [chosen].
CONVOLUTIONS_TF32, PRODUCTS_TF32 = True, False

#: Seconds in which the driver must say its version.
ANSWER_SECONDS = 10


def prepare(device: torch.device) -> None:
    """Let cuDNN time its algorithms for every new shape and keep the fastest, and fix where TF32 is used; on a GPU alone."""
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has newer names, after whose use its own compiler refuses to work (2.9 to 2.11)
        torch.backends.cudnn.allow_tf32 = CONVOLUTIONS_TF32
        torch.backends.cuda.matmul.allow_tf32 = PRODUCTS_TF32


def described(device: torch.device) -> dict[str, Any]:
    """Return the versions and switches as a trial's record holds them; nothing on a processor."""
    if device.type != "cuda":
        return {}
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32": {"convolutions": CONVOLUTIONS_TF32, "products": PRODUCTS_TF32},
    }


@lru_cache(maxsize=1)
def driver() -> str:
    """Return the version of NVIDIA's driver, or "unknown"."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(ask, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True).stdout.split()
        return said[0] if said else "unknown"
    return "unknown"
