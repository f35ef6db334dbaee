"""Which environment variables let libraries compute other numbers from the same settings."""

import os

#: Of oneDNN (instructions; bfloat16 in the place of float32), MKL, cuBLAS and torch. On a processor with AMX each of the first
#: six changed the bits of a small network's output and gradients (torch 2.15); those of GPUs are by their documentation.
VARIABLES = (
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG",
)  # fmt: skip


def variables() -> dict[str, dict[str, str]]:
    """Return those that are set, as ``{"variables": {name: value}}``, the form of a trial's record; {} where none is."""
    found = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    return {"variables": found} if found else {}
