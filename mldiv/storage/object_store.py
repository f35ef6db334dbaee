"""Work in folders on an object store: a local copy, pulled before work and pushed after every step of it.

A place is a folder's path, or a URL that pyarrow knows (s3://bucket/folder, gs://..., hdfs://...), as Ray's storage_path is.
Objects cannot be appended to, renamed or locked, so work goes on in a copy on the local disk. Files travel in the order in
which they were written: what a crash leaves on the store is what a crash a moment earlier would have left on a disk.
"""

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType

from mldiv.environment.terminal import hide_secrets
from mldiv.records.checked_files import write_atomically

#: Downloads and uploads side by side: each is mostly waiting.
SIDE_BY_SIDE = 16
#: What the analysis reads in a trial's folder, under the study's own labels.
OF_ANALYSIS = ("trial.json", "metrics.jsonl", "predictions.parquet")
#: Between two tries of a push that must not be lost.
RETRY_SECONDS = 2.0

Location = str


class Object(NamedTuple):
    """A file's size in bytes, and when it was written, in seconds since 1970."""

    size: int
    written: float


def is_url(place: str | Path) -> bool:
    """Return whether a place is a URL, and no path."""
    return "://" in str(place)


def check_no_secret(place: str | Path) -> None:
    """Refuse a URL with a secret in it: places are printed, recorded, and seen by whoever lists the machine's processes.

    Raises: ValueError, which does not hold the secret.
    """
    if is_url(place) and (shown := hide_secrets(str(place))) != str(place):
        raise ValueError(
            f"{shown}: a URL must hold no secret, since places are recorded and printed; leave it out, and name the keys in "
            "~/.aws/credentials or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
        )


def join(place: Location, *names: str) -> Location:
    """Return the place of something in the folder at ``place``; a URL keeps its query."""
    if not is_url(place):
        return str(Path(place, *names))
    address, mark, query = place.partition("?")
    return "/".join([address.rstrip("/"), *names]) + mark + query


def parent(place: Location) -> Location:
    """Return the place of the folder above; a URL keeps its query."""
    if not is_url(place):
        return str(Path(place).parent)
    address, mark, query = place.partition("?")
    return address.rstrip("/").rpartition("/")[0] + mark + query


def is_there(place: Location) -> bool:
    """Return whether a folder exists; one on an object store that does not answer counts as existing."""
    if not is_url(place):
        return Path(place).exists()
    try:
        return bool(Remote(place).exists("study.json"))
    except (ValueError, OSError):
        return True


def name(place: Location) -> str:
    """Return the folder's own name."""
    return PurePosixPath(place.partition("?")[0]).name


class Remote:
    """A folder on an object store; one of this machine, by its full path, is another to pyarrow.

    Raises: ValueError, naming the URL, when it holds a secret or a #, which pyarrow would cut it at, or pyarrow knows no such
    file system or cannot reach it. Its methods raise OSError.
    """

    def __init__(self, url: str) -> None:
        check_no_secret(url)
        if is_url(url) and "#" in url:
            raise ValueError(f"{url}: what follows a # is no part of a URL's path: write %23")
        self.url = url
        try:
            self.system, path = FileSystem.from_uri(url)
        except (ArrowException, ValueError, OSError) as error:
            raise ValueError(f"{url}: no storage that pyarrow knows ({error})") from None
        self.path = path.rstrip("/")

    def try_writing(self) -> None:
        """Write a file and remove it.

        Raises: OSError when that is not allowed.
        """
        probe = f".writable-{uuid.uuid4().hex}"
        self.write(probe, b"mldiv")
        self.remove(probe)

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return self.system.get_file_info(f"{self.path}/{name}").type == FileType.File

    def files(self, folder: str = "", deep: bool = True) -> dict[str, Object]:
        """List every file below ``folder``, or directly in it (not ``deep``), by its name relative to it."""
        root = f"{self.path}/{folder}".rstrip("/")
        found = self.system.get_file_info(FileSelector(root, recursive=deep, allow_not_found=True))
        return {
            entry.path.removeprefix(f"{root}/"): Object(entry.size, (entry.mtime_ns or 0) / 1e9)
            for entry in found
            if entry.type == FileType.File
        }

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with self.system.open_input_stream(f"{self.path}/{name}") as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Write a file; readers see the old one or the new one. Folders are made where the store has such."""
        path = f"{self.path}/{name}"
        if self.system.type_name != "s3":  # which has none
            self.system.create_dir(path.rpartition("/")[0], recursive=True)
        with self.system.open_output_stream(path) as file:
            file.write(data)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is left so."""
        if self.exists(name):
            self.system.delete_file(f"{self.path}/{name}")

    def remove_folder(self, name: str) -> None:
        """Remove a folder with all in it; one that is not there is left so."""
        if self.files(name):
            self.system.delete_dir(f"{self.path}/{name}")


class SyncedFolder:
    """A folder on the local disk that stands for the one at ``remote``; the folder itself where there is none."""

    def __init__(self, local: Path, remote: Remote | None = None) -> None:
        self.local, self.remote = local, remote
        self.pushed: dict[str, tuple[int, int]] = {}
        self.pulled: dict[str, Object] = {}

    @property
    def place(self) -> Location:
        """The folder's place: the URL where there is one."""
        return self.remote.url if self.remote is not None else str(self.local)

    def remove(self, folder: str) -> None:
        """Remove a folder in it, here and there.

        Raises: OSError when the store does not let it.
        """
        shutil.rmtree(self.local / folder, ignore_errors=True)
        if self.remote is not None:
            self.remote.remove_folder(folder)

    def pull(self, wanted: Callable[[str], bool] = lambda name: True, folder: str = "", deep: bool = True) -> None:
        """Fetch the remote files in ``folder`` whose names are ``wanted`` and that have changed since they were last fetched.

        What was written here and is not sent yet stays: it is newer. deep: those in its folders too.

        Raises: OSError.
        """
        if self.remote is None:
            return
        there = {join(folder, file) if folder else file: found for file, found in self.remote.files(folder, deep).items()}
        changed = [file for file, found in there.items() if wanted(file) and self.pulled.get(file) != found]
        changed = [file for file in changed if not self._unsent(file)]
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            list(pool.map(self._fetch, changed))
        self.pulled |= {file: there[file] for file in changed}

    def pull_study(self, of_trials: tuple[str, ...] = OF_ANALYSIS) -> None:
        """Fetch a study's own files and, of every trial, those whose names end so.

        Raises: OSError.
        """
        self.pull(deep=False)
        self.pull(lambda name: name.endswith(of_trials), folder="trials")

    def push(self, folders: bool = True, patience: float = 0.0) -> None:
        """Send every file that was written since it was last sent or fetched, the first written first.

        folders: those in folders too. patience: seconds for which a failure is tried again.

        Raises: OSError when it still fails.
        """
        if self.remote is None:
            return
        deadline = time.monotonic() + patience
        while True:
            try:
                changed = self._changed(folders)
                for file in sorted(changed, key=lambda file: (changed[file][0], _among_equals(file))):
                    self.remote.write(file, (self.local / file).read_bytes())
                    self.pushed[file] = changed[file]
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)

    def _changed(self, folders: bool) -> dict[str, tuple[int, int]]:
        """Return time of writing and size of every file to send; half-written ones begin with a dot and are left out."""
        paths = [path for path in self.local.glob("**/*" if folders else "*") if not path.name.startswith(".")]
        found = {str(path.relative_to(self.local)): _stamp(path) for path in paths if path.is_file()}
        return {file: stamp for file, stamp in found.items() if self.pushed.get(file) != stamp}

    def _unsent(self, file: str) -> bool:
        """Return whether a file was written here since it was last sent or fetched."""
        path = self.local / file
        return path.is_file() and self.pushed.get(file) != _stamp(path)

    def _fetch(self, file: str) -> None:
        assert self.remote is not None
        path = self.local / file
        write_atomically(path, self.remote.read(file))
        self.pushed[file] = _stamp(path)


def _stamp(path: Path) -> tuple[int, int]:
    """Return when a file was written, in nanoseconds, and its size."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _among_equals(file: str) -> int:
    """Order files written within a tick of the clock: an epoch's line before its checkpoint, a record after all else."""
    return {"metrics.jsonl": 0, "checkpoint.pt": 2, "trial.json": 3}.get(PurePosixPath(file).name, 1)


@contextmanager
def working_copy(place: Location, fetch: bool = True) -> Iterator[SyncedFolder]:
    """Give a folder to work in: the one at ``place`` itself, or a temporary copy that its user pushes.

    fetch: begin with what is there.

    Raises: ValueError for a URL that cannot be; OSError.
    """
    if not is_url(place):
        yield SyncedFolder(Path(place))
        return
    with tempfile.TemporaryDirectory(prefix="mldiv-", ignore_cleanup_errors=True) as root:
        copy = SyncedFolder(Path(root) / name(place), Remote(place))
        copy.local.mkdir()
        if fetch:
            copy.pull()
        yield copy
