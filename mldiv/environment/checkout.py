"""Know this copy of mldiv: its version, and where analysis/ and studies/ are: beside the package, or carried by a wheel in it.

Names as general as these may not stand at the top of site-packages. ``import analysis`` works anywhere after `use_analysis`.
"""

import importlib
import sys
from pathlib import Path

#: As pyproject.toml has it.
VERSION = "0.5.0"

#: Where a wheel has them (setup.py); in a checkout there is no such folder.
CARRIED = Path(__file__).resolve().parents[1] / "carried"
#: The folder of analysis/ and studies/.
ROOT = CARRIED if CARRIED.is_dir() else Path(__file__).resolve().parents[2]
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
