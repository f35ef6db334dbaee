import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from analysis.figures.palette import style
from analysis.report.searches import draw_front, pareto


def slow(points):
    """Every row against every other."""
    found = []
    for row in points:
        beaten = any(all(o <= r for o, r in zip(other, row, strict=True)) and tuple(other) != tuple(row) for other in points)
        found.append(not beaten)
    return found


@given(
    st.integers(1, 3).flatmap(lambda k: st.lists(st.lists(st.integers(0, 6), min_size=k, max_size=k), min_size=1, max_size=30))
)
def test_against_a_slow_loop(points):
    assert pareto(np.array(points, float)).tolist() == slow(points)


def test_by_hand_with_nan_and_equals():
    points = [[1, 5], [2, 2], [2, 2], [5, 1], [3, 3], [np.nan, 0], [1, 6], [np.inf, 0]]
    assert pareto(np.array(points)).tolist() == [True, True, True, True, False, False, False, False]


def test_drawing_steps_along_the_front():
    first, second = np.array([1.0, 2, 3, 3, np.nan]), np.array([5.0, 2, 1, 4, 0])
    axes = Figure().add_subplot()
    draw_front(axes, first, second, labels=["a", "b", "a", "b", "a"], styles={"a": style(0), "b": style(1)})
    line = axes.lines[0]
    assert line.get_xydata().tolist() == [[1, 5], [2, 2], [3, 1], [3, 1]] and line.get_drawstyle() == "steps-post"
    drawn = [(len(markers.get_offsets()), len(markers.get_facecolors()) > 0) for markers in axes.collections]
    assert drawn == [(1, False), (2, True), (1, False), (1, True)]


def test_large_fronts_are_quick():
    angles = np.random.default_rng(0).uniform(0, np.pi / 2, 3000)
    on = np.stack([1 - np.sin(angles), 1 - np.cos(angles)], 1)
    assert pareto(on).all() and pareto(np.vstack([on, on + 0.5])).sum() == 3000
