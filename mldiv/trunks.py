"""The store of work that trials share, addressed by content: today the pretrained deterministic networks.

An entry's key is everything that can influence it; two trials that need the same entry at once compute it once.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from mldiv import world
from mldiv.records import trial_id

State = dict[str, Any]


def save_atomically(path: Path, state: State) -> None:
    """Save ``state`` so that a reader, or a crash, sees the old file or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, device: torch.device) -> State:
    """What `save_atomically` wrote: tensors and plain values only."""
    return torch.load(path, map_location=device, weights_only=True)


class Store:
    """A folder of entries ``<key>.pt``. All ranks of a group call it together; rank 0 holds the entry's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def get(self, content: dict[str, Any], compute: Callable[[Path], State], device: torch.device) -> State:
        """The entry for ``content``, computed and published if it is missing.

        compute: called on every rank with a path where it may keep its progress; its result is rank 0's to publish.
        A second group that needs the entry waits for the first, and computes it if that one dies (the lock dies with it).
        """
        key = trial_id(content)
        path = self.folder / f"{key}.pt"
        if world.from_first(path.exists()):
            return load(path, device)
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f"{key}.lock")
        if world.rank() == 0:
            lock.acquire()
        try:
            if not world.from_first(path.exists()):
                progress = self.folder / f"{key}.progress"
                state = compute(progress)
                if world.rank() == 0:
                    save_atomically(path, state)
                    progress.unlink(missing_ok=True)
                world.from_first(None)  # no rank reads before rank 0 has published
            return load(path, device)
        finally:
            lock.release()
