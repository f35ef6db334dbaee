"""Colours, lines and markers of methods: by an arm's place in its study, the same in every figure.

The colours are those of Okabe and Ito, which people with any of the common colour-vision deficiencies tell apart, with yellow,
orange and sky blue darkened so that each stands out from a white page and from a dark one (contrast of at least 3).
"""

from dataclasses import dataclass

#: The first is the baseline's.
COLORS = ("#7f7f7f", "#0072B2", "#D55E00", "#009E73", "#C070A0", "#B98500", "#3A9AD9", "#8A8A2A")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")


@dataclass(frozen=True)
class Style:
    """How matplotlib draws an arm."""

    color: str
    linestyle: str
    marker: str


def style(place: int) -> Style:
    """Of the arm at ``place``, counted from 0, the baseline: colours first, then other lines and markers with the same."""
    again, color = divmod(place, len(COLORS))
    return Style(COLORS[color], LINES[again % len(LINES)], MARKERS[(color + again) % len(MARKERS)])
