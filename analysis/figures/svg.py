"""Turn a matplotlib figure into inline SVG with its page's font, its light or dark colours and unique ids."""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.figures import palette
from analysis.figures.palette import Style
from analysis.records.load import StudyData
from mldiv.records.checked_files import write_atomically

#: Colours of a figure that the page replaces by its own; on paper they are what they say.
INK, PAPER, FAINT = "#000000", "#ffffff", "#d4d5d6"
THEME = {INK: "currentColor", PAPER: "var(--paper)", FAINT: "var(--line)"} | {
    color: palette.variable(color) for color in palette.COLORS
}

#: Figures are drawn under these, both for the page and for files. Units are points, which the page scales to its width.
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "axes.titlesize": 10, "axes.labelsize": 9.5, "xtick.labelsize": 9,
    "ytick.labelsize": 9, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": FAINT, "grid.linewidth": 0.6, "axes.linewidth": 0.8, "lines.linewidth": 1.4,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "axes.formatter.useoffset": False,
}  # fmt: skip
WIDTH_POINTS = 290.0

_NUMBER = re.compile(r"-?\d+\.\d{3,}(?![\de])")
_GEOMETRY = ("d", "x", "y", "width", "height", "transform", "points")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def style() -> AbstractContextManager[None]:
    """Draw figures in this page's style within. Colours count where artists are made, so make and draw them inside."""
    return rc_context(STYLE)


def canvas(height: float, width: float = WIDTH_POINTS, **options: Any) -> Figure:
    """Make an empty figure for a panel, sizes in points; panels are small, so on a phone they stack and keep their text."""
    return Figure(figsize=(width / 72, height / 72), **({"layout": "constrained"} | options))


def panel(name: str, label: str, draw: Callable[[Axes], None], height: float = 200) -> Markup:
    """Make a panel of the page, whose axes ``draw`` fills; name, label: as of `svg`; height: in points."""
    with style():
        figure = canvas(height)
        draw(figure.add_subplot())
        return svg(figure, name, label)


def files(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write the figure into ``out`` as name.png and name.pdf, the same bytes for the same figure; return both paths."""
    png, pdf = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    figure.set_layout_engine("none")  # both as laid out for the first
    FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    paths = [out / f"{name}.png", out / f"{name}.pdf"]
    for path, buffer in zip(paths, (png, pdf), strict=True):
        write_atomically(path, buffer.getvalue())
    return paths


def svg(figure: Figure, name: str, label: str) -> Markup:
    """Turn the figure into an <svg> element; ``label`` says to a screen reader what it shows.

    name: unique on the page; ids are made from it, so the same figure gives the same bytes. Black, white, FAINT and the
    arms' colours become the page's own (what is to stay white in the dark says #fefefe); text stays text in the page's font.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())
    view = root.get("viewBox", "")
    _clean(root)
    root.attrib = {
        "class": "plot", "role": "img", "aria-label": label, "viewBox": view,
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }  # fmt: skip
    _rename(root, name)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree has escaped every text in it


def _clean(element: Element) -> None:
    """Drop what serves a file of its own (namespaces, metadata, global style, fonts), and digits that nobody sees."""
    for child in list(element):
        child.tag = child.tag.partition("}")[2]
        if child.tag in ("metadata", "style") or (child.tag == "defs" and child.find("{*}style") is not None):
            element.remove(child)
        else:
            _clean(child)
    element.tag = element.tag.rpartition("}")[2]
    element.tail = None
    if element.tag != "text" and element.tag != "tspan":
        element.text = None
    element.attrib = {key.rpartition("}")[2]: _short(key, value) for key, value in element.attrib.items()}
    if css := element.get("style"):
        element.set("style", _themed(css))


def _short(key: str, value: str) -> str:
    if key not in _GEOMETRY:
        return value
    rounded = _NUMBER.sub(lambda found: f"{round(float(found[0]), 2):g}", value)
    return " ".join(rounded.split()) if key == "d" else rounded


def _themed(css: str) -> str:
    kept = [part.strip() for part in css.split(";") if not part.strip().startswith(("font-family", "font:"))]
    text = ";".join(kept)
    for color, own in THEME.items():
        text = text.replace(color, own)
    return text


def _rename(root: Element, name: str) -> None:
    """Keep only ids that something refers to, named after the figure."""
    values = [(key, value) for element in root.iter() for key, value in element.attrib.items()]
    used = {old for _, value in values for old in _REFERENCE.findall(value)}
    used |= {value[1:] for key, value in values if key == "href" and value.startswith("#")}
    new = {old: f"{name}-{place}" for place, old in enumerate(sorted(used))}
    for element in root.iter():
        old = element.attrib.pop("id", "")
        for key, value in element.attrib.items():
            if key == "href" and value.startswith("#"):
                value = f"#{new[value[1:]]}"
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{new[found[1]]})", value))
        if old in new:
            element.set("id", new[old])


def logarithmic(axes: Axes, low: float, high: float) -> None:
    """Give the figure a log axis from ``low`` to ``high`` whose labels are plain text and never absent."""
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(low / 1.3, high * 1.3)
    subs: Sequence[float] = (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 10 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def arm_styles(study: StudyData) -> dict[str, Style]:
    """Choose each arm's style, the same in every figure: the baseline first, then the others in the study's order."""
    others = [arm for arm in study.arms if arm != study.baseline]
    places = {arm: place for place, arm in enumerate(others, 1)} | ({study.baseline: 0} if study.baseline else {})
    return {arm: palette.style(places[arm]) for arm in study.arms}
