"""A study with the example plug-in, and plug-ins taken out again: a process that is no test keeps what it has loaded."""

from pathlib import Path

from helpers.small_study import TINY
from mldiv.plugins import loading
from mldiv.study import Study

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"
STUDY = Study(
    name="own", question="Is the own kernel of use?", scientific="kernel", searched=(), baseline="rbf",
    arms={"rbf": {"kernel": "rbf"}, "cauchy": {"kernel": "cauchy"}},
)  # fmt: skip
FLAGS = [
    "--preset", "demo", "--seeds", "1", "--trials", "0", "--data", "stripes", "--arch", "two_layers",
    "--plugin", str(EXAMPLE / "cauchy.py"), *(f"--set={setting}" for setting in TINY),
]  # fmt: skip


def forget(name):
    """Take a plug-in's entries back out of the registries."""
    for kind, names in loading._ENTERED.pop(name, {}).items():
        for key in names:
            loading._registry(kind).pop(key, None)
    loading._LOADED.pop(name, None)


def forget_all():
    for plugin in loading.loaded():
        forget(plugin.name)
