"""An entry that a store's tests write, what they compare it by, and who waits for it."""

import time
from types import SimpleNamespace

import torch

from mldiv.storage import cache

CPU = torch.device("cpu")
NAME = "trunks/0123456789abcdef-fedcba9876543210/00002"
STATE = {
    "float": torch.tensor([0.1, -0.0, float("nan"), float("inf"), 1e-45]),
    "half": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "whole": {"deep": torch.tensor([[2**62 - 1, -1]])},
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "empty": torch.empty(0, 3),
    "flags": torch.tensor([True, False]),
    "plain": [1, 0.1, None, "text", True],
}


def same(first, second):
    """Equal bit for bit, NaN included."""
    if isinstance(first, torch.Tensor):
        alike = first.dtype == second.dtype and first.shape == second.shape
        return alike and first.reshape(-1).view(torch.uint8).tolist() == second.reshape(-1).view(torch.uint8).tolist()
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[name], second[name]) for name in first)
    return type(first) is type(second) and first == second


def never():
    raise AssertionError("computed although it is stored")


def temporaries(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


def note_waiting(path):
    """From now on this process touches ``path`` whenever it waits for an entry that another computes."""

    def wait(seconds):
        path.touch()
        time.sleep(seconds)

    cache.time = SimpleNamespace(sleep=wait, time=time.time)
