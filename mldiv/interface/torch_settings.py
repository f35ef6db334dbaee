"""Compute with torch set as a study's trials have it, and give the caller his own settings back."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch

from mldiv.interface.given import whole

#: What a product, and a convolution, of float32 on the processor may be made of without loss.
EXACT = ("none", "ieee")


@contextmanager
def torch_settings(threads: int | None = None) -> Iterator[None]:
    """Set torch as in a study's trials; threads: on the processor, None for the caller's own number.

    A step of small networks is made of short operations: threads wait for each other longer than they compute
    (docs/python.md has figures). Sums differ in their last digits with the number of threads. A notebook may ask for less
    precise products, another default type or device: trials would differ from those of the same settings elsewhere, with
    which they share first stages.

    Raises: ConfigError for what is no such number.
    """
    count = torch.get_num_threads() if threads is None else whole("threads", threads, 1)
    with ExitStack() as stack:
        _set(stack, torch.get_num_threads(), torch.set_num_threads, count)
        _set(stack, torch.get_default_dtype(), torch.set_default_dtype, torch.float32)
        with suppress(RuntimeError):  # where it was set by the newer names below
            _set(stack, torch.get_float32_matmul_precision(), torch.set_float32_matmul_precision, "highest")
        for kind in (getattr(torch.backends.mkldnn, name) for name in ("matmul", "conv")):
            if kind.fp32_precision not in EXACT:
                _set(stack, kind.fp32_precision, partial(setattr, kind, "fp32_precision"), EXACT[1])
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def _set(stack: ExitStack, before: Any, change: Callable[[Any], None], value: Any) -> None:
    """Change a setting where it is another, until the stack ends."""
    if before != value:
        stack.callback(change, before)
        change(value)
