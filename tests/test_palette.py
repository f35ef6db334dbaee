import pytest

from analysis.palette import COLORS, style

PAGES = ("#ffffff", "#15181c")


def luminance(color):
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    """WCAG 2's ratio, 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_on_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("page", PAGES)
def test_colours_stand_out_from_light_and_dark_pages(color, page):
    assert contrast(color, page) >= 3


def test_twenty_arms_look_different():
    assert len({(one.color, one.linestyle, one.marker) for one in map(style, range(20))}) == 20
    assert len({style(place).color for place in range(8)}) == 8
