"""Make pieces of a page as HTML. Everything given as plain text is escaped; HTML already says so by its type, Markup."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.markers import MarkerStyle

from analysis.figures.palette import Style

_BOX = Markup('<div class="box" tabindex="0" role="region" aria-label="table, scrolls sideways">')
_NUMBER = re.compile(r"[-+]?\d[\d.,e+±()%* -]*")
_HEADINGS = {"h1": "h3", "h2": "h3", "h3": "h4", "h4": "h5", "h5": "h6"}
_DASHES = {"-": "", "--": "6 3", ":": "2 2.5", "-.": "7 3 2 3"}


def markdown(text: str) -> Markup:
    """Turn Markdown into HTML below a heading, without raw HTML, images and links: names in it come from records."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink", "reference"])
    tokens = parser.parse(text)
    for token in tokens:
        token.tag = _HEADINGS.get(token.tag, token.tag)
    html = parser.renderer.render(tokens, parser.options, {})
    return Markup(html.replace("<table>", f'{_BOX}<table class="rigid">').replace("</table>", "</table></div>"))


def without_title(text: str) -> str:
    """Drop the first heading of Markdown, where the page has one already."""
    return re.sub(r"\A\s*# .*\n", "", text)


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], rigid: bool = False) -> Markup:
    """Make a table in a box that scrolls by itself; the first cell of a row names it. rigid: cells never wrap."""
    titles = Markup("").join(Markup('<th scope="col">{}</th>').format(title) for title in head)
    lines = [Markup('<tr><th scope="row">{}</th>{}</tr>').format(row[0], Markup("").join(map(_cell, row[1:]))) for row in rows]
    body = Markup("").join(lines)
    return Markup("{}<table{}><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>").format(
        _BOX, Markup(' class="rigid"') if rigid else "", titles, body
    )


def _cell(value: Any) -> Markup:
    """Put numbers to the right, text to the left."""
    text = "-" if value is None else value
    number = text == "-" or _NUMBER.fullmatch(str(value))
    return Markup("<td{}>{}</td>").format(Markup(' class="number"') if number else "", text)


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
    marker = MarkerStyle(style.marker)
    path = marker.get_path().transformed(marker.get_transform())
    polygons = path.to_polygons(closed_only=False)
    outlines: list[np.ndarray] = [np.asarray(polygon) * (7, -7) + (15, 6) for polygon in polygons]
    shapes = Markup("").join(
        Markup('<polygon points="{}"/>').format(" ".join(f"{x:.1f},{y:.1f}" for x, y in outline)) for outline in outlines
    )
    start = Markup('<svg class="swatch" viewBox="0 0 30 12" aria-hidden="true" style="color:{}">').format(style.color)
    return start + line + shapes + Markup("</svg>")
