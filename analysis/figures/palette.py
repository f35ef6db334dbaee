"""Choose an arm's colour, line and marker by its place in its study, the same in every figure.

The hues are those of Okabe and Ito, their shades shifted until each colour stands out from a white page (WCAG contrast of at
least 3), its like for dark pages from a dark one (4.5, the baseline's 12), and any two of either stay apart to normal sight and
without one kind of cone: at least 19 units of CIELAB, more than the 16 of the original, by the simulation of Machado et al.
(2009).
"""

from dataclasses import dataclass

#: The first is the baseline's, and nobody else's.
COLORS = ("#656565", "#4764a4", "#ac460b", "#00a875", "#d471a7", "#b88e00", "#6789ff", "#7b9b4c")
#: The same hues on a dark page, the baseline near white.
DARK = ("#d3d6da", "#6588fb", "#b77000", "#35efa2", "#b26baf", "#f7bc45", "#d8a1ff", "#8db459")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")


@dataclass(frozen=True)
class Style:
    """The colour, line and marker that matplotlib draws an arm with."""

    color: str
    linestyle: str
    marker: str


def variable(color: str) -> str:
    """Return what a page calls one of COLORS, which it shows as it is or, in the dark, as its like of DARK; others stay."""
    return f"var(--arm-{COLORS.index(color)})" if color in COLORS else "currentColor"


def style(place: int) -> Style:
    """Return the style of the arm at ``place``, counted from 0, the baseline; the first 57 are all different.

    Colours change first, then lines and markers with the same colours.
    """
    if place == 0:
        return Style(COLORS[0], LINES[0], MARKERS[0])
    again, color = divmod(place - 1, len(COLORS) - 1)
    return Style(COLORS[1 + color], LINES[again % len(LINES)], MARKERS[(1 + color + again) % len(MARKERS)])
