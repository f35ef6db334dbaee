"""Every public name says in its first sentence what it does or is."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: With these begins what names a thing and does nothing.
NO_VERBS = {"The", "A", "An", "This", "What", "Whether", "How", "Where", "All", "Every", "Each"}

SOURCES = [path for path in sorted([*(ROOT / "mldiv").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]) if path.read_text()]


def wrong(source: str) -> list[str]:
    """What is wrong with the docstrings of a module, its public functions and classes and their public methods."""
    module = ast.parse(source)
    found = [_sentence("module", ast.get_docstring(module))]
    for node, name in _public(module.body):
        prefix = f"{name}, line {node.lineno}"
        found.append(_sentence(prefix, ast.get_docstring(node)))
        if not isinstance(node, ast.ClassDef) and not _is_property(node):
            first = (ast.get_docstring(node) or "").split(" ")[0]
            found.append(f"{prefix}: begins with {first!r}, no verb" if first in NO_VERBS else None)
    return [problem for problem in found if problem is not None]


def _public(body, prefix=""):
    """Yield every public function and class with its name, methods with their class's."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node, prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{node.name}.")


def _is_property(node) -> bool:
    return any(ast.unparse(decorator) in ("property", "cached_property") for decorator in node.decorator_list)


def _sentence(name: str, docstring: str | None) -> str | None:
    """Say what is wrong with the first paragraph; None if it begins with a whole sentence."""
    if not docstring:
        return f"{name}: no docstring"
    paragraph = docstring.split("\n\n")[0]
    if not re.match(r"[A-Z`]", paragraph):
        return f"{name}: does not begin with a capital: {paragraph!r}"
    return None if re.search(r"\.(\s|$)", paragraph) else f"{name}: the first paragraph holds no whole sentence: {paragraph!r}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_has_a_sentence(path):
    assert not wrong(path.read_text())


def test_what_is_wrong_is_found():
    source = '''"""Read things."""
def silent(): pass
def whether():
    """Whether it is so."""
def unended():
    """Return what is there"""
def over_lines():
    """Return what
    is there. And
    more"""
class Thing:
    """A thing that is there."""
    @property
    def size(self):
        """The number of parts."""
    def parts(self):
        """All its parts."""
    def _hidden(self): pass
class Other:
    """size: of it."""
'''
    assert [problem.split(",")[0].split(":")[0] for problem in wrong(source)] == [
        "silent", "whether", "unended", "Thing.parts", "Other",
    ]  # fmt: skip
    assert wrong("x = 1") == ["module: no docstring"]
