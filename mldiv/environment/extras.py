"""The optional parts of an installation: the library alone trains pairs, studies and reports need more."""

from importlib import metadata

#: By module that may be missing, the extra in pyproject.toml that brings it.
EXTRAS: dict[str, str] = {
    "jinja2": "analysis",
    "markdown_it": "analysis",
    "markupsafe": "analysis",
    "matplotlib": "analysis",
    "tabulate": "analysis",
    "optuna": "studies",
    "ray": "studies",
    "rich": "studies",
    "yaml": "studies",
}


def install_hint(error: ModuleNotFoundError) -> str:
    """Return which extra brings the module that is missing.

    Raises: the error itself where it is of none.
    """
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    return f"{module} is not installed: pip install 'mldiv[{EXTRAS[module]}]'"


def version(package: str) -> str | None:
    """Return the installed version of a package; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
