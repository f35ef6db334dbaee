"""Know this copy of mldiv: its version, commit and sources, and where analysis/ and studies/ are.

They lie beside the package, or a wheel carries them in it. Names as general as these may not stand at the top of
site-packages. ``import analysis`` works anywhere after `use_analysis`.
"""

import hashlib
import importlib
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

#: As pyproject.toml has it.
VERSION = "0.5.0"

#: Where a wheel has them (setup.py); in a checkout there is no such folder.
CARRIED = PACKAGE / "carried"
#: The folder of analysis/ and studies/.
ROOT = CARRIED if CARRIED.is_dir() else PACKAGE.parent
STUDIES = ROOT / "studies"


def use_analysis() -> None:
    """Let ``import analysis`` give the package that belongs to this mldiv.

    Raises: ImportError where another one of this name is imported already.
    """
    if "analysis" not in sys.modules:
        sys.path.insert(0, str(ROOT))
        try:
            importlib.import_module("analysis")
        finally:
            sys.path.remove(str(ROOT))
    found = Path(sys.modules["analysis"].__file__ or "").resolve().parent
    if found != ROOT / "analysis":
        raise ImportError(f"another package called analysis is imported, from {found}: mldiv's is in {ROOT}")


@lru_cache
def commit() -> str:
    """Return the checkout's short commit, with a note when it has uncommitted changes; "unknown" where mldiv is in none."""
    with suppress(OSError, subprocess.CalledProcessError):
        ask = ["git", "-C", str(PACKAGE.parent), "rev-parse", "--show-toplevel", "--short", "HEAD"]
        top, name = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()
        if Path(top) != PACKAGE.parent:  # installed inside somebody's repository
            return "unknown"
        changed = subprocess.run(["git", "-C", str(PACKAGE.parent), "status", "--porcelain"], capture_output=True, text=True)
        return name + (" (with uncommitted changes)" if changed.stdout.strip() else "")
    return "unknown"


@lru_cache
def code() -> str:
    """Return the first 12 hex digits of SHA-256 over the package's sources, which say more than a commit does."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(CARRIED):  # a wheel's is as its checkout's
            continue
        digest.update(path.relative_to(PACKAGE.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
