"""Tell which plug-ins can change what is trained before the diversity terms act: others leave stored first stages of use.

A file is read for that, not run. What is not known to be harmless may do anything: where that is too strict, it costs time.
"""

import ast
import sys
import uuid
from collections.abc import Iterator

from mldiv.plugins.loading import REGISTRIES, is_own, loaded

#: The registries of what acts after the switch alone, or trains nothing.
LATER = frozenset(".".join(REGISTRIES[kind]) for kind in ("kernel", "distance", "transform", "fusion", "column", "study"))

#: Packages of ours, whose classes only keep what they are given, and all whose import by a plug-in changes nothing.
OURS = frozenset({"mldiv", "analysis"})
HARMLESS = OURS | {"torch", "numpy"} | sys.stdlib_module_names

#: What may decorate, and what may be called, while a file runs: none of it calls a function that it is given.
DECORATORS = frozenset(
    {"functools.cache", "functools.lru_cache", "dataclasses.dataclass", "property", "staticmethod", "torch.no_grad"}
)
CALLED = DECORATORS | {"functools.partial", "itertools.product", "torch.finfo", "torch.tensor"}
CALLED |= {"dict", "enumerate", "float", "int", "len", "list", "range", "round", "set", "str", "tuple", "zip"}
METHODS = frozenset({"format", "items", "join", "keys", "split", "values"})

#: Statements of a file that runs, or of a class in it; of a function they run later.
STATEMENTS = ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.Expr | ast.FunctionDef | ast.ClassDef | ast.Pass


#: Stands for what a process has entered by hand, whose source nobody knows.
PROCESS = uuid.uuid4().hex


def before_switch() -> dict[str, str]:
    """Return the hash of each loaded plug-in that can change numbers before the switch, by name.

    All can but files that enter kernels, distances, transforms, fusions, columns or studies, and do nothing else when they run.
    A network that was entered without a plug-in is another one in every process: it may have been edited meanwhile.
    """
    found = {plugin.name: plugin.hash for plugin in loaded() if plugin.text is None or not enters_alone(plugin.text)}
    return found | {f"network {name}": PROCESS for name in _by_hand()}


def _by_hand() -> list[str]:
    """Return the names of networks that are neither the package's nor a plug-in's."""
    networks = sys.modules.get(REGISTRIES["network"][0])
    stock = getattr(networks, "STOCK", {})
    entries = getattr(networks, REGISTRIES["network"][1], {})
    return [name for name, made in entries.items() if stock.get(name) is not made and not is_own("network", name)]


def enters_alone(text: str) -> bool:
    """Tell whether a file only imports what changes nothing, defines, and enters what acts later by the registries' names.

    Nor may its functions change anything outside: they run before the switch of the trials that the same process trains next.
    """
    tree = ast.parse(text)
    origins = _origins(tree)
    run = all(_is_harmless(node, origins) for node in _run(tree))
    return run and not any(_reaches_out(node, origins) for node in ast.walk(tree))


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs with a node: all that it holds, but for the bodies of functions."""
    yield node
    for name, value in ast.iter_fields(node):
        if name != "body" or not isinstance(node, ast.FunctionDef | ast.Lambda):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    yield from _run(part)


def _origins(tree: ast.Module) -> dict[str, str]:
    """Return where each name comes from that is imported anywhere, or built in, and that the file does not make itself."""
    origins = {name: name for name in CALLED if "." not in name}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            of = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = alias.name if of or alias.asname else alias.name.partition(".")[0]
                origins[alias.asname or name] = of + name
    for node in _run(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)):
            origins.pop(node.id if isinstance(node, ast.Name) else node.name, None)
    return origins


def _origin(node: ast.expr, origins: dict[str, str]) -> str:
    """Return the full name of what is imported or built in, "" of anything else."""
    if isinstance(node, ast.Attribute):
        of = _origin(node.value, origins)
        return of and f"{of}.{node.attr}"
    return origins.get(node.id, "") if isinstance(node, ast.Name) else ""


def _is_harmless(node: ast.AST, origins: dict[str, str]) -> bool:
    """Tell whether a node that runs with its file changes nothing but names of the file's and entries of what acts later."""
    match node:
        case ast.Call(func=func):
            return _may_be_called(func, origins)
        case ast.Attribute(ctx=ast.Store()):
            return False
        case ast.Subscript(value=value, ctx=ast.Store()):
            return _origin(value, origins) in LATER
        case ast.Expr(value=value):
            return isinstance(value, ast.Constant)
        case ast.ClassDef(bases=bases, keywords=keywords) if keywords or not all(_origin(base, origins) for base in bases):
            return False
        case ast.FunctionDef(decorator_list=decorators) | ast.ClassDef(decorator_list=decorators):
            called = [item.func if isinstance(item, ast.Call) else item for item in decorators]
            return all(_origin(item, origins) in DECORATORS for item in called)
    return isinstance(node, STATEMENTS) or not isinstance(node, ast.stmt)


def _may_be_called(func: ast.expr, origins: dict[str, str]) -> bool:
    package, _, name = _origin(func, origins).partition(".")
    if (package in OURS and name.rpartition(".")[2][:1].isupper()) or package == "math":
        return True
    return _origin(func, origins) in CALLED or (isinstance(func, ast.Attribute) and func.attr in METHODS)


def _reaches_out(node: ast.AST, origins: dict[str, str]) -> bool:
    """Tell whether a node, whenever it runs, imports what may do anything, or changes what others use too."""
    match node:
        case ast.Import(names=names):
            return any(alias.name.partition(".")[0] not in HARMLESS for alias in names)
        case ast.ImportFrom(module=module, level=level):
            return level > 0 or str(module).partition(".")[0] not in HARMLESS
        case ast.Attribute(value=value, ctx=ast.Store() | ast.Del()) | ast.Subscript(value=value, ctx=ast.Store() | ast.Del()):
            origin = _origin(value, origins)
            return bool(origin) and origin not in LATER
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name == "setattr" or name.startswith("set_")
    return False
