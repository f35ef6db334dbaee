"""What besides the settings can change a number: of a GPU and its libraries, set alike for every trial; variables; recorded."""

import os
import subprocess
import warnings
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch

#: Environment variables by which libraries compute other numbers: of oneDNN (instructions; bfloat16 in the place of float32),
#: MKL, cuBLAS and torch. On a processor with AMX each of the first six changed the bits of a small network's output and
#: gradients (torch 2.15); the seventh, even the random start; those of GPUs are by their documentation.
VARIABLES = (
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG",
)  # fmt: skip

#: Whether TF32, which has 10 of float32's 23 bits, computes float32 convolutions, as is torch's default, and matrix products:
#: not these, since the feature KL is made of differences between products of vectors that are nearly alike [chosen].
CONVOLUTIONS_TF32, PRODUCTS_TF32 = True, False

#: Of a processor, beside its vectors' width, what libraries choose their algorithms by: instructions for products of matrices,
#: as oneDNN does for bfloat16, and the sizes of caches, by which they cut matrices into blocks.
MATRIX_INSTRUCTIONS, CACHES = ("amx", "bf16", "fp16", "vnni", "i8mm", "sme"), ("l1d_cache_size", "l2_cache_size")

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
    """Return a GPU's versions and switches or what a processor has, and which of VARIABLES are set: as a record holds it."""
    found = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    variables = {"variables": found} if found else {}
    if device.type != "cuda":
        return {"processor": processor(), **variables}
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32": {"convolutions": CONVOLUTIONS_TF32, "products": PRODUCTS_TF32},
        **variables,
    }


def processor() -> str:
    """Return what of this processor changes last digits beside its vectors' width: "avx512_vnni, caches 48 KiB, 2048 KiB"."""
    known = torch.cpu.get_capabilities()
    has = sorted(name for name, on in known.items() if on is True and any(part in name for part in MATRIX_INSTRUCTIONS))
    caches = [f"{known[name] // 1024} KiB" for name in CACHES if name in known]
    return ", ".join([" ".join(has) or "no matrix instructions", *(["caches " + ", ".join(caches)] if caches else [])])


@lru_cache(maxsize=1)
def driver() -> str:
    """Return the version of NVIDIA's driver, or "unknown"."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(ask, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True).stdout.split()
        return said[0] if said else "unknown"
    return "unknown"
