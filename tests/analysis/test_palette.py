from itertools import combinations

import numpy as np
import pytest

from analysis.figures.palette import COLORS, DARK, style, variable

#: What people without one kind of cone see, on linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]

#: Colours by the page that they stand on, and the least contrast there: all of them, the baseline's.
PAGES = {"#ffffff": (COLORS, 3, 5), "#15171b": (DARK, 4.5, 12)}


def linear(color):
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    return [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]


def luminance(color):
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear(color), strict=True))


def lab(color, sight):
    """CIELAB of a colour as seen, D65."""
    seen = np.clip(np.array(SIGHT[sight]) @ linear(color), 0, 1)
    x, y, z = (
        np.cbrt(t) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in XYZ @ seen / [0.95047, 1, 1.08883]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(first, second):
    """WCAG 2's ratio, 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_on_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("page", PAGES)
def test_colours_stand_out_from_light_and_dark_pages(page):
    colors, least, baseline = PAGES[page]
    assert min(contrast(color, page) for color in colors) >= least and contrast(colors[0], page) >= baseline


def test_every_colour_has_its_like_in_the_dark():
    assert len(DARK) == len(COLORS) and [variable(color) for color in COLORS] == [f"var(--arm-{i})" for i in range(8)]
    assert variable("#000000") == "currentColor"


def test_lab_of_red():
    assert lab("#ff0000", "normal") == pytest.approx([53.24, 80.09, 67.20], abs=0.02)


@pytest.mark.parametrize("colors", [COLORS, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("sight", SIGHT)
def test_colours_stay_apart(sight, colors):
    assert min(np.linalg.norm(lab(a, sight) - lab(b, sight)) for a, b in combinations(colors, 2)) > 19


def test_many_arms_look_different():
    assert len({(look.color, look.linestyle, look.marker) for look in map(style, range(57))}) == 57
    assert [style(place).color for place in range(9)] == [*COLORS, COLORS[1]]
    assert [style(place).linestyle for place in (0, 1, 7, 8, 14, 15)] == ["-", "-", "-", "--", "--", ":"]
    assert COLORS[0] not in {style(place).color for place in range(1, 57)}
    assert len({style(place).color for place in range(8)}) == 8
