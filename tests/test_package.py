"""What an installation brings: the wheel holds every module of mldiv, and each can be imported from it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mldiv.export.command import TOOLS  # whose modules need what is no dependency

ROOT = Path(__file__).parent.parent
MODULES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "mldiv").rglob("*.py"))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, unpacked. Built from a copy: what was built before would hide what is missing."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in ("mldiv", "analysis"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    zipfile.ZipFile(next(out.glob("*.whl"))).extractall(out / "unpacked")
    return out / "unpacked"


def test_the_wheel_holds_every_module_and_what_pages_are_made_of(wheel):
    held = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*.*")}
    assert set(MODULES) <= held


@pytest.mark.slow
def test_every_module_can_be_imported_from_the_wheel(wheel, tmp_path):
    names = [module.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for module in MODULES]
    names = [name for name in names if not name.endswith("__main__") and name not in TOOLS.values()]
    script = f"import importlib, mldiv; assert mldiv.__file__.startswith({str(wheel)!r}), mldiv.__file__\n"
    script += f"for name in {names!r}: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(wheel), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
