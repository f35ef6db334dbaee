"""Find what in this machine's installation would make a long sweep fail: a function per question, each giving a `Finding`.

Whatever may be broken is imported inside its check, so that a broken one is a finding and no traceback.
"""

import os
import resource
import shutil
import sys
import tomllib
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from mldiv.environment.extras import version
from mldiv.environment.terminal import first_few

ROOT = Path(__file__).resolve().parents[2]
OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
#: The extras without which no study runs.
EXTRAS = ("analysis", "studies")
AS_LOCKED = (
    "install as locked: make .venv, or pip install -r requirements.lock"
    if (ROOT / "requirements.lock").exists()
    else "pip install 'mldiv[studies]'"
)

#: Files open at once that Ray warns below.
OPEN_FILES = 4096
#: Shared memory below which processes that decode images die by "bus error"; Docker gives 64 MiB.
SHARED_MEMORY_BYTES = 2**28
#: What a worker of a small network takes on a processor, and what Ray Train keeps for its group where the driver runs: the
#: controller and three helpers (benchmarks/trials.md).
WORKER_BYTES, GROUP_BYTES = 0.6e9, 0.75e9
#: The files that say what a container may take.
CONTAINER = Path("/sys/fs/cgroup")
#: Names the first few things, and says how many more there are.
some = partial(first_few, most=3, between="; ")


@dataclass(frozen=True)
class Finding:
    """The result of a check: a verdict (OK, WARNING, FAILED or SKIPPED), what was found, and how to mend it."""

    verdict: str
    what: str
    mend: str = ""


Check = Callable[[Namespace], Finding]


def packages(flags: Namespace) -> Finding:
    """Check that Python and every package that mldiv names are in their ranges, and as in requirements.lock where it lies."""
    from packaging.specifiers import SpecifierSet

    python, lines = _wanted()
    here = ".".join(map(str, sys.version_info[:3]))
    wrong = [] if SpecifierSet(python).contains(here) else [f"Python {here}, {python} is needed"]
    wrong += [
        f"{name} is missing" if found is None else f"{name} {found}, {versions} is needed"
        for name, versions, found in _unmet(lines)
    ]
    if wrong:
        return Finding(FAILED, some(wrong), AS_LOCKED)
    named = f"Python {here}, torch {version('torch')}, Ray {version('ray')}, Optuna {version('optuna')}"
    if not (lock := ROOT / "requirements.lock").exists():
        return Finding(OK, named)
    locked = [line for line in lock.read_text(encoding="utf-8").splitlines() if line and line[0] not in "# "]
    others = [
        f"{name} {found} ({versions.removeprefix('==')} locked)"
        for name, versions, found in _unmet(locked)
        if found is not None
    ]
    if others:
        return Finding(WARNING, f"not as in requirements.lock: {some(others)}", AS_LOCKED)
    return Finding(OK, f"{named}, all as locked")


def _unmet(lines: list[str]) -> list[tuple[str, str, str | None]]:
    """Return name, versions wanted and version found of each requirement that applies here and is not met."""
    unmet = []
    for requirement in _applying(lines):
        found = version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            unmet.append((requirement.name, str(requirement.specifier), found))
    return unmet


def _applying(lines: list[str]) -> Iterator[Any]:
    """Yield the requirements of studies here."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if requirement.name != "mldiv" and (marker is None or any(marker.evaluate({"extra": of}) for of in ("", *EXTRAS))):
            yield requirement


def _wanted() -> tuple[str, list[str]]:
    """Return Python's range and the requirements of studies, from the checkout or else from what is installed."""
    if (path := ROOT / "pyproject.toml").exists():
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        optional = project.get("optional-dependencies", {})
        return project["requires-python"], sum((optional.get(extra, []) for extra in EXTRAS), project["dependencies"])
    return metadata.metadata("mldiv")["Requires-Python"], metadata.requires("mldiv") or []


def dependencies() -> list[str]:
    """Name the packages that studies require."""
    return [requirement.name for requirement in _applying(_wanted()[1])]


def torch_and_torchvision(flags: Namespace) -> Finding:
    """Check that both load, and that torchvision's own operators run on this torch."""
    both = f"torch {version('torch')} and torchvision {version('torchvision')}"
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        mend = "take both from one index (torchvision has no CPU-only build on the package index), as requirements.lock does"
        return Finding(FAILED, f"{both} do not fit each other ({first_line(error)})", mend)
    return Finding(OK, f"{both} fit each other")


def gpus(flags: Namespace) -> Finding:
    """Check that torch can use the NVIDIA GPUs of this machine."""
    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return _try_gpus(count)
    if not has_gpu():
        if flags.preset == "paper" and flags.address == "local":
            return Finding(WARNING, "none on this machine, and the paper's size wants GPUs", "take --preset small or demo")
        return Finding(OK, "none on this machine")
    build = f"torch {version('torch')}"
    if torch.version.cuda is None:
        return Finding(FAILED, f"there is an NVIDIA GPU, but {build} is built without CUDA", AS_LOCKED)
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return Finding(WARNING, "there is an NVIDIA GPU, hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")
    why = first_line(told[-1].message) if told else "torch.cuda.is_available() is false"
    mend = f"update the driver (nvidia-smi names the CUDA that it can), or take a torch built for an older CUDA than {build}'s"
    return Finding(FAILED, f"{build}, built for CUDA {torch.version.cuda}, cannot use this machine's NVIDIA GPU ({why})", mend)


def _try_gpus(count: int) -> Finding:
    """Do a step's kind of work on every GPU: a torch without kernels for it fails only here."""
    import torch

    for index in range(count):
        try:
            ones = torch.ones(8, 8, device=f"cuda:{index}")
            (ones @ ones).sum().item()
        except RuntimeError as error:
            mend = "free it if it is full or taken (nvidia-smi), else take a torch that is built for it"
            return Finding(FAILED, f"GPU {index} does not compute ({first_line(error)})", mend)
    return Finding(OK, f"{count} x {torch.cuda.get_device_name(0)}")


def has_gpu() -> bool:
    """Return whether the driver of an NVIDIA GPU, or its device, is on this machine."""
    return Path("/proc/driver/nvidia/version").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def memory(flags: Namespace) -> Finding:
    """Check that a worker on each processor finds room, and its group; on a cluster the nodes are asked later."""
    if flags.in_process:
        return judge_memory(free_memory(), 1, WORKER_BYTES)
    workers = len(os.sched_getaffinity(0)) if flags.address == "local" else 0
    return judge_memory(free_memory(), workers, WORKER_BYTES + GROUP_BYTES)


def judge_memory(free: float, workers: int, each: float) -> Finding:
    """Judge whether ``free`` bytes are enough for so many workers of ``each`` bytes."""
    said = f"{free / 1e9:.1f} GB free"
    if free < workers * each:
        mend = "end other programs, or start fewer workers (--parallel-trials): Ray kills workers when memory runs out"
        return Finding(WARNING, f"{said} for up to {workers} workers of about {each / 1e9:g} GB each", mend)
    return Finding(OK, said)


def free_memory() -> float:
    """Return the bytes that new processes may take: what the machine has left, or its container if that is less."""
    import psutil

    free = float(psutil.virtual_memory().available)
    try:
        limit, taken = (float((CONTAINER / f"memory.{name}").read_text(encoding="utf-8")) for name in ("max", "current"))
        parts = dict(line.split() for line in (CONTAINER / "memory.stat").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):  # no limit
        return free
    return min(free, limit - taken + float(parts["inactive_file"]))  # files read, which make way


def limits(flags: Namespace) -> Finding:
    """Check how many files may be open, and how much memory shared."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)  # Ray raises its own to the hard one
    if 0 <= files < OPEN_FILES and not flags.in_process:
        what = f"a process may open {files} files only, Ray wants {OPEN_FILES}"
        return Finding(WARNING, what, "raise it: ulimit -Hn, limits.conf")
    if Path("/dev/shm").exists() and (free := shutil.disk_usage("/dev/shm").free) < SHARED_MEMORY_BYTES:
        mend = "raise it: docker run --shm-size=2g; processes that decode images die without it"
        return Finding(WARNING, f"/dev/shm has {free / 2**20:.0f} MiB free", mend)
    return Finding(OK, f"open files {files if files >= 0 else 'unlimited'}, /dev/shm wide enough")


def first_line(error: Any) -> str:
    """Return the first line of an error or warning that is not empty, or its type's name."""
    lines: Iterator[str] = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


#: What is looked at first, in this order.
CHECKS: dict[str, Check] = {
    "packages": packages,
    "torch": torch_and_torchvision,
    "GPUs": gpus,
    "memory": memory,
    "limits": limits,
}
