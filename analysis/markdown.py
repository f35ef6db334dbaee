"""Write tables as Markdown."""

from collections.abc import Iterable, Sequence

from tabulate import tabulate

from mldiv.environment.terminal import plain


def table(head: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table; whatever its names hold, each is one cell."""
    return tabulate([list(map(_cell, row)) for row in rows], list(map(_cell, head)), "pipe", disable_numparse=True)


def _cell(value: object) -> str:
    return plain(str(value)).replace("|", r"\|")
