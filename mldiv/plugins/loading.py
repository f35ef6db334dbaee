"""Load plug-ins: files or modules that enter their own kernels, networks, data sets and so on into the registries.

Only the standard library is used here, so that the analysis can load plug-ins too: a registry is looked at only where its
module has been imported, or a plug-in names it. A file travels with its text and is run from that: no node needs its folder.
"""

import hashlib
import importlib
import importlib.util
import linecache
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

from mldiv.environment.checkout import use_analysis

#: How plug-ins are named.
Names = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

#: The group of entry points by which an installed package names its plug-in modules; they are always loaded.
GROUP = "mldiv.plugins"

#: What a plug-in may enter: the module and the name of each registry.
REGISTRIES: dict[str, tuple[str, str]] = {
    "kernel": ("mldiv.method.kernels", "KERNELS"),
    "distance": ("mldiv.method.losses", "PARAM_DISTANCES"),
    "transform": ("mldiv.method.losses", "TRANSFORMS"),
    "fusion": ("mldiv.method.fusion", "FUSIONS"),
    "network": ("mldiv.method.networks", "MODELS"),
    "data set": ("mldiv.datasets.sources", "DATASETS"),
    "metric": ("mldiv.evaluation.metrics", "METRICS"),
    "column": ("analysis.records.columns", "COLUMNS"),
    "study": ("mldiv.study", "STUDIES"),
}


class PluginError(ValueError):
    """A plug-in that cannot be loaded; the message says which, and why."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in, as it travels to whoever trains.

    name: of its module, or its file without .py; hash: first 12 hex digits of SHA-256 over its source; text: of a file, None
    for a module, which every node must have; path: where the file was found.
    """

    name: str
    hash: str
    text: str | None = None
    path: str = ""


#: What this process has loaded, by name; and what each has entered, by kind.
_LOADED: dict[str, Plugin] = {}
_ENTERED: dict[str, dict[str, list[str]]] = {}


def loaded() -> list[Plugin]:
    """Return the plug-ins of this process, in the order in which they were loaded."""
    return list(_LOADED.values())


def hashes() -> dict[str, str]:
    """Return the hash of each loaded plug-in by name, as study.json records it."""
    return {plugin.name: plugin.hash for plugin in loaded()}


def files() -> dict[str, str]:
    """Return the full path of each loaded plug-in that is a file, by name, as study.json records it."""
    return {plugin.name: str(Path(plugin.path).expanduser().absolute()) for plugin in loaded() if plugin.path}


def entered(name: str) -> dict[str, list[str]]:
    """Return the names that a loaded plug-in has entered, by kind, a key of REGISTRIES."""
    return _ENTERED.get(name, {})


def is_own(kind: str, entry: str) -> bool:
    """Say whether an entry of a kind is a loaded plug-in's, not the package's."""
    return any(entry in names.get(kind, ()) for names in _ENTERED.values())


def load_named(names: Names) -> None:
    """Load the plug-ins of installed packages, then those named, several or one: a file, or the dotted name of a module.

    Raises: PluginError.
    """
    installed = sorted({point.value for point in metadata.entry_points(group=GROUP)})
    named = names if isinstance(names, Iterable) and not isinstance(names, str) else [names]
    load(find(str(name)) for name in [*installed, *named])


def load_recorded(recorded: Mapping[str, str], places: Mapping[str, str], kind: str) -> list[str]:
    """Load the plug-ins of a study that name the registry of a kind; return a word on each that is not as it was.

    recorded, places: their hashes and files by name, as study.json has them. One that was named by hand is taken as it is.
    """
    words = []
    for name, before in recorded.items():
        there = _LOADED.get(name)
        try:
            plugin = there or find(places.get(name, name))
            if plugin.hash != before:
                words.append(f"plug-in {plugin.path or name}: not as the study had it ({plugin.hash}, {before} in study.json)")
            elif there is None and REGISTRIES[kind][0] in _source(plugin):
                load([plugin])
        except PluginError as error:
            words.append(str(error))
    return [f"{word}; what it enters is left out unless --plugin names it" for word in words]


def find(name: str) -> Plugin:
    """Find a plug-in, without running it. Raises: PluginError where it is not there."""
    if name.endswith(".py"):
        try:
            content = Path(name).expanduser().read_bytes()
            return Plugin(Path(name).stem, _hash(content), content.decode("utf-8-sig"), name)
        except (OSError, ValueError) as error:
            raise PluginError(f"plug-in {name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return Plugin(name, _hash(*_sources(name)))


def _sources(name: str) -> list[bytes]:
    """Return the source files of a module, or of all of a package."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None or spec.origin is None:
        raise PluginError(f"plug-in {name}: no module of this name can be imported here; a file's name ends in .py")
    path = Path(spec.origin)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return [file.read_bytes() for file in files]


def _hash(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:12]


def load(plugins: Iterable[Plugin]) -> None:
    """Run plug-ins, each once in a process.

    Raises: PluginError for one that raises, whose source here is another than its hash says, that replaces an entry which was
    there before, or of whose name another one is loaded.
    """
    for plugin in plugins:
        before = _LOADED.get(plugin.name)
        if before is not None and before.hash != plugin.hash:
            raise PluginError(f"plug-in {plugin.name}: another one of this name is loaded ({before.hash}, not {plugin.hash})")
        if before is None:
            _load(plugin)


def _load(plugin: Plugin) -> None:
    if plugin.text is None and (here := _hash(*_sources(plugin.name))) != plugin.hash:
        raise PluginError(f"plug-in {plugin.name}: the module here ({here}) is not the one of the study ({plugin.hash})")
    _import_registries(plugin)
    there = {kind: dict(_registry(kind)) for kind in REGISTRIES}
    try:
        _run(plugin)
        for kind, entries in there.items():
            if changed := [key for key, value in entries.items() if _registry(kind).get(key) is not value]:
                raise PluginError(f"replaces the {kind} {changed[0]!r}, which is there: choose another name")
    except (Exception, SystemExit) as error:
        for kind, entries in there.items():
            if entries:  # what was first imported meanwhile is left
                registry = _registry(kind)
                registry.clear()
                registry.update(entries)
        said = str(error) if isinstance(error, PluginError) else described(error, _file(plugin))
        raise PluginError(f"plug-in {plugin.path or plugin.name}: {said}") from error
    new = {kind: [name for name in _registry(kind) if name not in entries] for kind, entries in there.items()}
    _LOADED[plugin.name], _ENTERED[plugin.name] = plugin, {kind: names for kind, names in new.items() if names}


def described(error: BaseException, *files: str) -> str:
    """Say an error in a line, with which of the files' lines raised it, where it is no SyntaxError, which says so itself."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    line = f" (line {lines[-1]})" if lines and not isinstance(error, SyntaxError) else ""
    said, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {said}{line}"


def _import_registries(plugin: Plugin) -> None:
    """Import the registries that a plug-in may import, so that what they held before is known.

    Those of torch where it is there, or the plug-in names them; that of the analysis where its source has the word.
    """
    source = _source(plugin)
    if "analysis" in source:
        with suppress(ImportError):
            use_analysis()
    for module, _ in REGISTRIES.values():
        of_analysis = module.startswith("analysis.")
        if "analysis" in source if of_analysis else "torch" in sys.modules or all(part in source for part in module.split(".")):
            with suppress(ImportError):  # the plug-in's own import says why
                importlib.import_module(module)


def _source(plugin: Plugin) -> str:
    return plugin.text if plugin.text is not None else b"\n".join(_sources(plugin.name)).decode(errors="replace")


def _run(plugin: Plugin) -> None:
    """Import the module, or make one of the text; its lines are known to tracebacks wherever it runs."""
    if plugin.text is None:
        importlib.import_module(plugin.name)
        return
    module, where = ModuleType(f"mldiv_plugin_{plugin.name}"), _file(plugin)
    module.__file__ = plugin.path
    code = compile(plugin.text, where, "exec")
    linecache.cache[where] = len(plugin.text), None, plugin.text.splitlines(True), where
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise


def _file(plugin: Plugin) -> str:
    """Name a plug-in's file, as tracebacks have it."""
    return f"{plugin.path} ({plugin.hash})"


def own_files() -> list[str]:
    """Return the files of the loaded plug-ins, as tracebacks have them."""
    return [_file(plugin) for plugin in loaded()]


def _registry(kind: str) -> dict[str, object]:
    """Return a registry as it is; nothing where its module is not imported, and so has its own entries yet to come."""
    module, name = REGISTRIES[kind]
    return getattr(sys.modules.get(module), name, {})
