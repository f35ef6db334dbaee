"""Keep the store on an object store: the same entries, with a copy on each machine's disk of what was used there.

Objects cannot be locked. Processes of one machine still wait for each other; on two machines both may compute the same entry,
bit for bit the same on one kind of processor, and the later one stays. A plan hands out trials so that this is rare.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from mldiv.records.checked_files import Damaged, set_aside, write_atomically
from mldiv.storage.cache import LIMIT_BYTES, Entry, Store, unseal
from mldiv.storage.object_store import Object, Remote, is_url

T = TypeVar("T")


class RemoteStore(Store):
    """A store at a URL. ``folder`` is this machine's copy, which keeps to the same limit.

    Raises: ValueError for a URL that cannot be.
    """

    def __init__(self, url: str, limit: int = LIMIT_BYTES) -> None:
        copies = Path(tempfile.gettempdir()) / f"mldiv-stores-{os.getuid()}"
        super().__init__(copies / hashlib.sha256(url.encode()).hexdigest()[:16], limit)
        self.remote = Remote(url)

    @property
    def place(self) -> str:
        """The entries' URL."""
        return self.remote.url

    def has(self, name: str) -> bool:
        """Return whether there is an entry of that name; none where the object store does not answer."""
        return self._asked(lambda: self.remote.exists(self._object(self.path(name))), False)

    def names(self, folder: str) -> list[str]:
        """Return what follows ``folder`` in the names of the entries directly in it."""
        files = self._asked(lambda: self.remote.files(f"entries/{folder}", deep=False), dict[str, Object]())
        return [file.removesuffix(".pt") for file in files if file.endswith(".pt")]

    def entries(self) -> dict[str, Entry]:
        """Return every entry by its name; the time of its writing stands for that of its use, which is not known."""
        return {file.removesuffix(".pt"): Entry(*found) for file, found in self.remote.files("entries").items()}

    def evict(self, keep: str = "") -> list[str]:
        """Keep to the limit on this machine's disk and on the object store; return the names deleted there."""
        Store(self.folder, self.limit).evict(keep)
        return super().evict(keep)

    def _asked(self, ask: Callable[[], T], otherwise: T) -> T:
        """Return the object store's answer, or ``otherwise`` where there is none, which is told once."""
        try:
            answer, self.answers = ask(), True
        except OSError as error:
            answer, self.answers = otherwise, False
            silent = f"{self.place} does not answer"
            if not any(message.startswith(silent) for message in self.messages):
                self._tell(f"{silent} ({error.strerror or error}); training goes on without it")
        return answer

    def _object(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def _kept_here(self, path: Path) -> bool:
        """Return whether a copy serves: entries never change, progress and references do."""
        return self._object(path).startswith("entries/")

    def _bytes(self, path: Path) -> bytes:
        if self._kept_here(path) and path.exists():
            try:
                unseal(data := super()._bytes(path))
                return data
            except Damaged as error:
                self._tell(f"{self._object(path)} was damaged on this machine ({error}) and is fetched anew")
                set_aside(path)
        data = self.remote.read(self._object(path))
        if self._kept_here(path):
            with contextlib.suppress(OSError):  # a full disk: the next reader fetches it again
                write_atomically(path, data)
        return data

    def _write(self, path: Path, data: bytes) -> None:
        self.remote.write(self._object(path), data)
        if self._kept_here(path):
            with contextlib.suppress(OSError):
                write_atomically(path, data)

    def _set_aside(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # there is a copy here of what is kept here
            super()._set_aside(path)
        self.remote.remove(self._object(path))

    def _remove(self, path: Path) -> None:
        super()._remove(path)
        self.remote.remove(self._object(path))

    def _references(self) -> Iterator[bytes]:
        for file in self.remote.files("references"):
            with contextlib.suppress(OSError):
                yield self.remote.read(f"references/{file}")


def open_store(place: str | Path, limit: int = LIMIT_BYTES) -> Store:
    """Open the store at a path or URL, whose entries may take ``limit`` bytes.

    Raises: ValueError for a URL that cannot be.
    """
    return RemoteStore(str(place), limit) if is_url(place) else Store(Path(place), limit)
