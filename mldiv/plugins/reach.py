"""Tell which plug-ins can change what is trained before the diversity terms act: others leave stored first stages of use."""

import ast
import sys

from mldiv.plugins.loading import Plugin, entered, loaded

#: What acts after the switch alone, or trains nothing.
LATER = frozenset({"kernel", "distance", "transform", "fusion", "column", "study"})

#: Packages whose import by a plug-in changes nothing.
HARMLESS = frozenset({"mldiv", "analysis", "torch", "numpy", "math"}) | sys.stdlib_module_names


def before_switch() -> dict[str, str]:
    """Return the hash of each loaded plug-in that can change numbers before the switch, by name.

    All can but files that enter kernels, distances, transforms, fusions, columns or studies, and do nothing else when they run.
    """
    return {plugin.name: plugin.hash for plugin in loaded() if not _acts_later(plugin)}


def _acts_later(plugin: Plugin) -> bool:
    return plugin.text is not None and entered(plugin.name).keys() <= LATER and enters_alone(plugin.text)


def enters_alone(text: str) -> bool:
    """Tell whether a file only imports what changes nothing, defines, and puts entries into dictionaries by their names."""
    return all(_is_entering(statement) for statement in ast.parse(text).body)


def _is_entering(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import(names=names):
            return all(_is_harmless(alias.name) for alias in names)
        case ast.ImportFrom(module=str(module), level=0):
            return _is_harmless(module)
        case ast.Assign(targets=targets):
            return all(_is_own(target) for target in targets)
        case ast.Expr(value=value):
            return isinstance(value, ast.Constant)
    return isinstance(statement, ast.FunctionDef | ast.ClassDef)


def _is_harmless(module: str) -> bool:
    return module.partition(".")[0] in HARMLESS


def _is_own(target: ast.expr) -> bool:
    """Tell whether an assignment goes to a name of the file's, or to a key of a dictionary that has a name there."""
    if isinstance(target, ast.Tuple):
        return all(map(_is_own, target.elts))
    return isinstance(target, ast.Name) or (isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name))
