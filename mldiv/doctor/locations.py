"""Check where a long sweep reads and writes: whether folders, object stores and data are there, writable, and have room.

Each check gives a `Finding`; what may be broken is imported inside it.
"""

import shutil
import tempfile
import uuid
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from mldiv.doctor.machine import FAILED, OK, SKIPPED, WARNING, Check, Finding, first_line
from mldiv.records.checked_files import existing

#: What records and Ray's logs need at least.
LEAST_BYTES = 10**9
#: Share of a disk above which Ray writes no more objects to it.
RAY_FULL_SHARE = 0.95


def temporary(flags: Namespace) -> Finding:
    """Check the room where Ray keeps its sessions and logs, and working copies of object stores are."""
    from mldiv.cluster.nodes import ray_folder

    if flags.in_process:
        return judge_folder(tempfile.gettempdir(), LEAST_BYTES)
    found = [judge_folder(place, LEAST_BYTES) for place in (str(ray_folder()), tempfile.gettempdir())]
    bad = [finding for finding in found if finding.verdict != OK]
    if bad:
        return Finding(bad[0].verdict, bad[0].what, "free some, or name another folder: export RAY_TMPDIR=... TMPDIR=...")
    disk = shutil.disk_usage(existing(ray_folder()))
    if disk.used > RAY_FULL_SHARE * (disk.used + disk.free):
        mend = "free some, or name another folder: export RAY_TMPDIR=..."
        return Finding(
            WARNING, f"the disk of Ray's folder is {100 * RAY_FULL_SHARE:.0f} % full: Ray writes no objects to it", mend
        )
    return found[0]


def judge_folder(place: str, least: float) -> Finding:
    """Judge whether a folder, or the nearest above it, can be written, lets files be locked and has ``least`` bytes free."""
    from filelock import FileLock, Timeout

    folder = existing(Path(place))
    probe = folder / f".writable-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"mldiv")
        with FileLock(probe, timeout=5):
            pass
    except Timeout:
        return Finding(FAILED, f"{place}: files cannot be locked", "mount it with locks (NFS: without nolock)")
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or error
        return Finding(FAILED, f"{place}: cannot be written ({why})", "choose another folder or mend its permissions")
    finally:
        with suppress(OSError):
            probe.unlink()
    free = shutil.disk_usage(folder).free
    if free < least:
        what = f"{place}: {free / 1e9:.1f} GB free, {least / 1e9:g} GB are needed"
        return Finding(FAILED, what, "free some or choose another")
    return Finding(OK, f"{place}: {free / 1e9:,.0f} GB free")


def results(flags: Namespace) -> Finding:
    """Check that records can be written to --out."""
    place = places(flags)["out"]
    return _judge_url(place) if "://" in place else judge_folder(place, LEAST_BYTES)


def store(flags: Namespace) -> Finding:
    """Check that first stages can be shared in --cache; a full disk there costs time only."""
    place = places(flags)["store"]
    if "://" in place:
        return _judge_url(place)
    found, need = judge_folder(place, 0), flags.cache_size * 1e9
    if found.verdict == OK and (free := shutil.disk_usage(existing(Path(place))).free) < need:
        mend = "free some, or lower --cache-size: what does not fit is trained again"
        return Finding(WARNING, f"{place}: {free / 1e9:.1f} GB free, the store may take {flags.cache_size:g}", mend)
    return found


def places(flags: Namespace) -> dict[str, str]:
    """Return where results ("out") and shared first stages ("store") are to be.

    Without --out it is the place above those of all studies.
    """
    from mldiv.cli.flags import places
    from mldiv.storage import object_store

    out, store = places(flags, "study")
    return {"out": out if flags.out else object_store.parent(out), "store": store}


def _judge_url(url: str) -> Finding:
    """Judge whether an object store answers, and lets its user write, list, read and remove."""
    from mldiv.storage.object_store import Remote

    try:
        remote = Remote(url)
        remote.try_writing()
        remote.files(deep=False)
    except (ValueError, OSError) as error:
        return Finding(FAILED, f"{url}: {first_line(error).removeprefix(f'{url}: ')}", _mend_url(str(error)))
    return Finding(OK, f"{url}: can be written, listed and read")


def _mend_url(error: str) -> str:
    if "NO_SUCH_BUCKET" in error:
        return "create the bucket or mend its name"
    if any(word in error for word in ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "403", "redentials")):
        return (
            "its user must be allowed to get, put, list and delete: look at AWS_ACCESS_KEY_ID, AWS_PROFILE, the machine's role"
        )
    return "look at the URL, AWS_ENDPOINT_URL and the network"


def data(flags: Namespace) -> Finding:
    """Check that the data set that the preset or --data names is complete on this machine."""
    from mldiv.datasets import sources

    chosen = dataset(flags)
    if chosen is None:
        return Finding(SKIPPED, "--preset auto asks the cluster, which was not joined: say --preset or --data")
    name, root = chosen
    try:
        sources.check(name, Path(root) if root else None)
    except sources.DataError as error:
        return Finding(FAILED, f"{name}: {error}")
    return Finding(OK, f"{name}{f' in {root}' if root else ''}")


def dataset(flags: Namespace) -> tuple[str, str | None] | None:
    """Return the data set's name and folder; None where the preset depends on a cluster that was not joined."""
    from mldiv.cli.flags import full_path
    from mldiv.presets import configure

    root = str(full_path("--data-root", flags.data_root)) if flags.data_root else None
    if (name := preset(flags)) is None and flags.data is None:
        return None
    return configure(name or "demo", {"data": flags.data, "data_root": root}).data, root


def preset(flags: Namespace) -> str | None:
    """Return the preset that studies would take; None where that depends on a cluster that was not joined.

    Raises: ConfigError for an unknown one.
    """
    from mldiv.cluster.nodes import has_gpus
    from mldiv.config import ConfigError, nearest
    from mldiv.presets import PRESETS

    if flags.preset == "auto":
        import ray

        if flags.address != "local" and not ray.is_initialized():
            return None
        return "paper" if has_gpus(flags.address) else "demo"
    if flags.preset not in PRESETS:
        raise ConfigError(f"--preset {flags.preset!r} is unknown{nearest(flags.preset, ['auto', *PRESETS])}")
    return flags.preset


#: What is looked at before Ray is started, in this order.
CHECKS: dict[str, Check] = {"temporary files": temporary, "--out": results, "--cache": store}
