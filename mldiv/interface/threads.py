"""Run with as many threads as a study's trials have, and give the caller his own back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mldiv.interface.given import whole


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads on the processor, afterwards as many as before.

    A step of small networks is made of short operations: threads wait for each other longer than they compute
    (docs/python.md has figures). Sums differ in their last digits with the number of threads.

    Raises: ConfigError for what is no such number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(whole("threads", count, 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
