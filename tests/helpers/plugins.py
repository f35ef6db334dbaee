"""Plug-ins taken out again: a process that is no test keeps what it has loaded."""

from mldiv.plugins import loading


def forget(name):
    """Take a plug-in's entries back out of the registries."""
    for kind, names in loading._ENTERED.pop(name, {}).items():
        for key in names:
            loading._registry(kind).pop(key, None)
    loading._LOADED.pop(name, None)


def forget_all():
    for plugin in loading.loaded():
        forget(plugin.name)
