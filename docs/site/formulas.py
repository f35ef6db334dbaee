"""Formulas of docstrings as MathML, which browsers show without scripts."""

import re
from typing import Any

from griffe import Extension, Object
from latex2mathml.converter import convert

#: From the directive to the next empty line.
FORMULA = re.compile(r"\.\. math:: (.*?)(?=\n\s*\n|\Z)", re.DOTALL)


class Formulas(Extension):
    """Turn `.. math::` of every docstring into MathML."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object just read."""
        if obj.docstring is not None:
            formula = obj.docstring.value
            obj.docstring.value = FORMULA.sub(lambda match: _drawn(" ".join(match[1].split())), formula)


def _drawn(formula: str) -> str:
    return f"<div>{convert(formula, display='block')}</div>"
