"""Make pieces of a page as HTML. Everything given as plain text is escaped; HTML already says so by its type, Markup."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup
from matplotlib.markers import MarkerStyle

from analysis.figures.palette import Style, variable

_BOX = Markup('<div class="box" tabindex="0" role="region" aria-label="table">')
_NUMBER = re.compile(r"[-+<>]?\s?\d[\d.,e+±()\[\]%* -]*")
#: By the letters that a table is wide when its cells wrap: its class, by which a narrower page turns its rows into cards.
NARROW, WIDE = 44, 80
_HEADINGS = {"h1": "h3", "h2": "h3", "h3": "h4", "h4": "h5", "h5": "h6"}
_DASHES = {"-": "", "--": "6 3", ":": "2 2.5", "-.": "7 3 2 3"}


def markdown(text: str) -> Markup:
    """Turn Markdown into HTML below a heading, without raw HTML, images and links: names in it come from records."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink", "reference"])
    renderer = RendererHTML(parser)
    parts: list[str] = []
    between: list[Token] = []
    rows: list[list[Markup]] | None = None
    for token in parser.parse(text):
        token.tag = _HEADINGS.get(token.tag, token.tag)
        for child in token.children or []:
            child.content = unbroken(child.content)
        if token.type == "table_open":
            parts.append(renderer.render(between, parser.options, {}))
            between, rows = [], []
        elif token.type == "table_close" and rows:
            parts.append(table(rows[0], rows[1:]))
            rows = None
        elif rows is None:
            between.append(token)
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(Markup(renderer.renderInline(token.children or [], parser.options, {})))
    return Markup("".join([*parts, renderer.render(between, parser.options, {})]))


def line(text: str) -> Markup:
    """Turn a sentence of Markdown into HTML without a paragraph around it."""
    return Markup(str(markdown(text)).strip().removeprefix("<p>").removesuffix("</p>"))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Markup:
    """Make a table; the first cell of a row names it, the others bear their column's title for where it stands alone."""
    rows = list(rows)
    titles = Markup("").join(Markup('<th scope="col">{}</th>').format(title) for title in head)
    lines = [
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            row[0], Markup("").join(_cell(title, cell) for title, cell in zip(head[1:], row[1:], strict=True))
        )
        for row in rows
    ]
    return Markup('{}<table class="{}"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(
        _BOX, _kind(list(zip(head, *rows, strict=True))), titles, Markup("").join(lines)
    )


def _cell(title: Any, value: Any) -> Markup:
    text = "-" if value is None else value
    number = "number" if text == "-" or _NUMBER.fullmatch(_words(text)) else "words"
    shown = text if isinstance(text, Markup) else unbroken(str(text))
    return Markup('<td data-label="{}" class="{}">{}</td>').format(_words(title), number, shown)


def _words(cell: Any) -> str:
    return cell.striptags() if isinstance(cell, Markup) else str(cell)


def _kind(columns: Iterable[Sequence[Any]]) -> str:
    """Return a table's class: narrow, wide or wider, by the longest piece of each column that does not wrap."""
    letters = sum(2 + max(len(piece) for cell in column for piece in unbroken(_words(cell)).split(" ")) for column in columns)
    return "narrow" if letters <= NARROW else "wide" if letters <= WIDE else "wider"


def unbroken(text: str) -> str:
    """Keep an error with its sign, and an interval with its ends, on one line."""
    return re.sub(r"± |\[[^\[\]]*\]", lambda found: found[0].replace(" ", "\u00a0"), text)


def figure(panels: Sequence[Markup], caption: str, legend: Markup | None = None, kind: str = "pairs") -> Markup:
    """Put panels side by side where there is room, below each other where not.

    kind: "pairs" (two abreast at most), "threes" or "many" (small, the caption above them).
    """
    cells = Markup("").join(Markup('<div class="panel">{}</div>').format(panel) for panel in panels)
    drawn = Markup('{}<div class="panels">{}</div>').format(legend or "", cells)
    words = Markup("<figcaption>{}</figcaption>").format(caption)
    return Markup('<figure class="{}">{}{}</figure>').format(kind, *((words, drawn) if kind == "many" else (drawn, words)))


def details(summary: str, body: Markup) -> Markup:
    """Hide a body until a click on its summary."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, body)


def paragraph(text: str) -> Markup:
    """Make a paragraph of plain text."""
    return Markup("<p>{}</p>").format(text)


def items(lines: Iterable[Any]) -> Markup:
    """Make a list with bullets."""
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(line) for line in lines))


def legend(styles: Mapping[str, Style]) -> Markup:
    """List names with their line and marker; the list wraps."""
    entries = [Markup("<li>{}<span>{}</span></li>").format(_swatch(style), name) for name, style in styles.items()]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


def _swatch(style: Style) -> Markup:
    line = Markup('<line x1="0" y1="6" x2="30" y2="6" stroke-dasharray="{}"/>').format(_DASHES[style.linestyle])
    start = Markup('<svg class="swatch" viewBox="0 0 30 12" aria-hidden="true" style="color:{}">').format(variable(style.color))
    return start + line + _shapes(style, 7, 15) + Markup("</svg>")


def marker(style: Style, hollow: bool = False) -> Markup:
    """Draw an arm's marker alone, filled or hollow."""
    start = Markup('<svg viewBox="0 0 12 12" aria-hidden="true" class="marker{}" style="color:{}">').format(
        " hollow" * hollow, variable(style.color)
    )
    return start + _shapes(style, 9, 6) + Markup("</svg>")


def _shapes(style: Style, size: float, center: float) -> Markup:
    marker = MarkerStyle(style.marker)
    polygons = marker.get_path().transformed(marker.get_transform()).to_polygons(closed_only=False)
    outlines: list[np.ndarray] = [np.asarray(polygon) * (size, -size) + (center, 6) for polygon in polygons]
    return Markup("").join(
        Markup('<polygon points="{}"/>').format(" ".join(f"{x:.1f},{y:.1f}" for x, y in outline)) for outline in outlines
    )
