"""Find what would keep plug-ins from being loaded, on this machine and on every node of a cluster."""

from argparse import Namespace

from mldiv.doctor import cluster
from mldiv.doctor.machine import FAILED, OK, Finding, some
from mldiv.plugins import loading
from mldiv.plugins.loading import Plugin, PluginError


def here(flags: Namespace) -> Finding:
    """Check that the plug-ins of installed packages and of --plugin can be loaded on this machine."""
    try:
        loading.load_named(flags.plugin)
    except PluginError as error:
        return Finding(FAILED, str(error), "mldiv check-plugin FILE says more once it loads")
    return Finding(OK, ", ".join(f"{name} ({hash})" for name, hash in loading.hashes().items()) or "none")


def load_there(plugins: list[Plugin]) -> dict[str, str]:
    """Load plug-ins on a node, in a process that the next task may find used; their hashes by name.

    Raises: PluginError, also for a module that has another source there.
    """
    loading.load(plugins)
    return loading.hashes()


def everywhere(flags: Namespace) -> Finding:
    """Check that every node can load what this machine has loaded, from the same source."""
    if not (plugins := loading.loaded()):
        return Finding(OK, "none")
    answers, wrong = cluster.ask_all(flags, load_there, plugins)
    for node, there in answers.items():
        if differing := sorted(dict(there.items() ^ loading.hashes().items())):
            wrong.append(f"{node}: another source of {', '.join(differing)}")
    if wrong:
        return Finding(
            FAILED, some(wrong), "a module: install the same on every node; a file may import installed modules only"
        )
    return Finding(OK, f"the same on {cluster.count(answers)}")
