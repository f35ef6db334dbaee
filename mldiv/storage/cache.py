"""Keep the work that trials share: entries addressed by content, published whole or not at all, verified when read.

Any number of processes, worker groups and studies may use one store at once. Its folder holds

    entries/<name>.pt          one line with the payload's SHA-256, then the payload
    locks/                     who computes which entry now; a lock ends with its holder, however that ends
    progress/                  from where an interrupted computation goes on
    references/<study>.json    which entries a study still needs

What goes wrong here costs time and never a number: a damaged entry counts as missing and is renamed to <name>.pt.damaged, and
a disk that is full leaves the entry out. Both are told in ``messages``, for the trial's record.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout

from mldiv import distributed
from mldiv.records.checked_files import Damaged, read_bytes, set_aside, write_atomically
from mldiv.records.contents import trial_id
from mldiv.storage import object_store
from mldiv.storage.files import State, dump, load

#: What entries may take before those that no study references are deleted, the longest unused first.
LIMIT_BYTES = 20 * 2**30
#: When a half-written file counts as abandoned.
ABANDONED_SECONDS = 3600.0
#: Between two looks at an entry that another process computes.
LOOK_SECONDS = 0.1

_SEAL = b"mldiv-store 1 "
_DIGEST = 64


#: Looks at a state that was read. Raises: Damaged where it is not what was asked for.
Check = Callable[[State], None]


def accept(state: State) -> None:
    """Accept any state."""


def seal(state: State) -> bytes:
    """Return ``state`` as the bytes of an entry."""
    payload = dump(state)
    return _SEAL + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def unseal(data: bytes) -> bytes:
    """Return the payload of an entry's bytes.

    Raises: Damaged when they are cut short, changed, or no entry.
    """
    start = len(_SEAL) + _DIGEST + 1
    if not data.startswith(_SEAL) or len(data) < start:
        raise Damaged("not an entry of a store")
    payload = data[start:]
    if hashlib.sha256(payload).hexdigest().encode() != data[len(_SEAL) : start - 1]:
        raise Damaged("its checksum does not fit its content")
    return payload


class Entry(NamedTuple):
    """An entry's size in bytes and when it was last used, in seconds since 1970."""

    size: int
    used: float


class Store:
    """A store in a folder. All ranks of a group call `read` and `get` together; rank 0 alone touches the files.

    limit: bytes that its entries may take.
    """

    def __init__(self, folder: Path, limit: int = LIMIT_BYTES) -> None:
        self.folder, self.limit = Path(folder), limit
        self.messages: list[str] = []
        #: Whether there was an answer when `has` was last asked, as a folder always gives.
        self.answers = True

    @property
    def place(self) -> str:
        """The entries' place, for people and other processes."""
        return str(self.folder)

    def path(self, name: str) -> Path:
        """Return the path of an entry's file."""
        return self.folder / "entries" / f"{name}.pt"

    def has(self, name: str) -> bool:
        """Return whether there is an entry of that name."""
        return self.path(name).exists()

    def names(self, folder: str) -> list[str]:
        """Return what follows ``folder`` in the names of the entries directly in it."""
        return [path.stem for path in (self.folder / "entries" / folder).glob("*.pt")]

    def read(self, name: str, device: torch.device, check: Check = accept) -> State | None:
        """Return the entry, or None when there is none; one that is damaged, or that ``check`` refuses, is set aside first."""
        return self._read(self.path(name), device, check)

    def read_progress(self, name: str, device: torch.device, check: Check = accept) -> State | None:
        """Return how far an interrupted computation of the entry came; None when it left nothing that ``check`` accepts."""
        return self._read(self._progress(name), device, check)

    def keep_progress(self, name: str, state: State) -> None:
        """Note how far a computation of the entry has come; without room, an interrupted one begins anew. Rank 0's call."""
        try:
            self._write(self._progress(name), seal(state))
        except OSError as error:
            self._tell(f"progress of {name} could not be saved ({error.strerror or error})")

    def publish(self, name: str, state: State) -> bool:
        """Store ``state`` under ``name`` and keep to the limit; return whether it is there now. Rank 0's call."""
        self._sweep()
        try:
            self._write(self.path(name), seal(state))
            self._remove(self._progress(name))
            self.evict(keep=name)
        except OSError as error:
            self._tell(f"{name} could not be stored ({error.strerror or error}); training goes on without it")
            return self.has(name)
        return True

    def get(self, name: str, compute: Callable[[], State], device: torch.device, check: Check = accept) -> State:
        """Return the entry, computed on every rank and published if it is missing, damaged, or refused by ``check``.

        Who needs it meanwhile waits, and computes it if this one dies.
        """
        with self.hold([name]):
            state = self.read(name, device, check)
            if state is None:
                state = compute()
                if distributed.rank() == 0:
                    self.publish(name, state)
            return state

    @contextlib.contextmanager
    def hold(self, names: Collection[str], wait: bool = True) -> Iterator[None]:
        """Hold the lock of every missing entry, as the process that computes it; wait for others to publish or to end.

        Locks are taken in the order of their names, so that two processes cannot wait for each other. A disk that holds no
        locks (full, or a mount without them) makes nobody wait: two processes may then do the same work. So they may without
        ``wait``: what another process holds is left to it.
        """
        locks: list[FileLock] = []
        if distributed.rank() == 0:
            locks = [lock for name in sorted(names) if (lock := self._lock(name, wait)) is not None]
        distributed.from_first(None)
        try:
            yield
        finally:
            for lock in locks:
                with contextlib.suppress(OSError):
                    lock.release()

    def _lock(self, name: str, wait: bool) -> FileLock | None:
        path = self.folder / "locks" / f"{name.replace('/', '-')}.lock"
        while not self.has(name):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(path, fallback_to_soft=False)  # a marker file would outlive its holder
                lock.acquire(timeout=0)
            except Timeout:
                if not wait or not self.answers:
                    return None
                time.sleep(LOOK_SECONDS)
            except (OSError, NotImplementedError) as error:
                self._tell(f"{path} could not be locked ({error}); others may compute the same entry meanwhile")
                return None
            else:
                return lock
        return None

    def _progress(self, name: str) -> Path:
        return self.folder / "progress" / f"{name}.pt"

    def _read(self, path: Path, device: torch.device, check: Check) -> State | None:
        """Return on all ranks what rank 0 reads of a file."""
        payload = distributed.from_first(self._payload(path) if distributed.rank() == 0 else None)
        if payload is None:
            return None
        try:
            state = load(payload, device)
            check(state)
        except Damaged as error:
            if distributed.rank() == 0:
                self._replace(path, error)
            return None
        return state

    def _payload(self, path: Path) -> bytes | None:
        name = path.relative_to(self.folder)
        try:
            return unseal(self._bytes(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(f"{name} could not be read ({error.strerror or error}) and is computed anew")
        except Damaged as error:
            self._replace(path, error)
        return None

    def _replace(self, path: Path, error: Damaged) -> None:
        """Tell of a damaged file and set it aside."""
        self._tell(f"{path.relative_to(self.folder)} was damaged ({error}) and is computed anew")
        with contextlib.suppress(OSError):
            self._set_aside(path)

    # Files, which a store elsewhere keeps in its own way

    def _bytes(self, path: Path) -> bytes:
        data = read_bytes(path, None)
        with contextlib.suppress(OSError):  # another user's, or deleted just now
            os.utime(path)  # the time of last use, for eviction
        return data

    def _write(self, path: Path, data: bytes) -> None:
        write_atomically(path, data)

    def _set_aside(self, path: Path) -> None:
        set_aside(path)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    # Size and references

    def entries(self) -> dict[str, Entry]:
        """Return every entry by its name; one that another process deletes meanwhile is left out."""
        root, found = self.folder / "entries", {}
        for path in root.rglob("*.pt"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found[str(path.relative_to(root).with_suffix(""))] = Entry(status.st_size, status.st_mtime)
        return found

    def refer(self, study: str | Path, patterns: Collection[str]) -> None:
        """Note which entries ``study`` still needs: regular expressions of whole names; empty: it needs none."""
        path = self.folder / "references" / f"{trial_id({'study': str(study)})}.json"
        if patterns:
            reference = {"study": str(study), "entries": sorted(patterns)}
            self._write(path, json.dumps(reference, indent=1).encode())
        else:
            self._remove(path)

    def referenced(self) -> list[re.Pattern[str]]:
        """Return the names, as expressions, of what studies that still exist need."""
        patterns = []
        for text in self._references():
            with contextlib.suppress(ValueError, re.error, KeyError, TypeError):  # damaged: it refers to nothing
                reference = json.loads(text)
                if object_store.is_there(reference["study"]):
                    patterns += [re.compile(entry) for entry in reference["entries"]]
        return patterns

    def _references(self) -> Iterator[bytes]:
        for path in (self.folder / "references").glob("*.json"):
            with contextlib.suppress(OSError):
                yield path.read_bytes()

    def evict(self, keep: str = "") -> list[str]:
        """Delete the longest unused entries that no study references, but ``keep``, until the rest fits; return their names."""
        self._sweep()
        entries, evicted = self.entries(), []
        excess = sum(entry.size for entry in entries.values()) - self.limit
        patterns = self.referenced() if excess > 0 else []
        for name, entry in sorted(entries.items(), key=lambda item: item[1].used):
            if excess > 0 and name != keep and not any(pattern.fullmatch(name) for pattern in patterns):
                self._remove(self.path(name))
                evicted.append(name)
                excess -= entry.size
        return evicted

    def _sweep(self) -> None:
        """Remove what writers that were killed left half-written."""
        for path in itertools.chain.from_iterable((self.folder / part).rglob(".*.pt.*") for part in ("entries", "progress")):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()

    def _tell(self, message: str) -> None:
        if message not in self.messages:
            self.messages.append(message)
