"""Find out what makes pairs of Bayesian networks teach each other better."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mldiv.environment.checkout import VERSION
from mldiv.environment.extras import install_hint

if TYPE_CHECKING:
    from mldiv.config import TrialConfig
    from mldiv.interface.loading import load
    from mldiv.interface.own.predictions import add_predictions
    from mldiv.interface.pair import Predictions, TrainedPair
    from mldiv.interface.results import Results, reliability_diagram, results
    from mldiv.interface.study import Study
    from mldiv.interface.training import train

__version__ = VERSION

__all__ = [
    "Predictions", "Results", "Study", "TrainedPair", "TrialConfig", "__version__",
    "add_predictions", "load", "reliability_diagram", "results", "train",
]  # fmt: skip

#: Where each name of the Python interface (docs/python.md) is: its module, and torch, are imported when it is first asked for.
_HOMES = {
    "Predictions": "mldiv.interface.pair",
    "Results": "mldiv.interface.results",
    "Study": "mldiv.interface.study",
    "TrainedPair": "mldiv.interface.pair",
    "TrialConfig": "mldiv.config",
    "add_predictions": "mldiv.interface.own.predictions",
    "load": "mldiv.interface.loading",
    "reliability_diagram": "mldiv.interface.results",
    "results": "mldiv.interface.results",
    "train": "mldiv.interface.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mldiv' has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"mldiv.{name}: {install_hint(error)}") from error
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
