"""What is shown: at 80 columns nothing wraps; without a terminal a line a minute, and at once what did not finish."""

import collections
import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from mldiv.cli.screen import display
from mldiv.cli.screen.display import Display, about, clock

NAMES = {"a": "inverse_multiquadric, search 12/20, seed 2 of 3", "b": "rbf, seed 1"}
EPOCHS = collections.defaultdict(lambda: 300, b=150)
REPORT = {"epoch": 119, "stage": 1, "nll": 0.1234, "accuracy": 0.9721, "ece": 0.03, "status": "running"}


class Known:
    """A forecast that knows."""

    start = staticmethod(lambda: None)
    update = staticmethod(lambda trial, result: None)
    share = staticmethod(lambda: 0.28)
    remaining = staticmethod(lambda: 7250.0)


@pytest.fixture
def shown(request):
    found = Display("kernel_sweep")
    terminal = getattr(request, "param", True)
    found.console = Console(file=io.StringIO(), width=80, height=8, force_terminal=terminal, color_system=None)
    found.live.console = found.console
    found.follow(SimpleNamespace(answered=12, trials=lambda: 42, labels=NAMES, epochs=EPOCHS), Known())
    return found


def lines(shown):
    shown.console.print(shown._draw())
    return [line.rstrip() for line in shown.console.file.getvalue().splitlines()]


def test_one_bar_and_a_line_a_trial(shown):
    for trial in NAMES:
        shown.update(trial, REPORT)
    bar, first, second, last = lines(shown)
    assert bar.startswith("kernel_sweep ━") and bar.endswith(" 12/42 trials, 28 %, about 2 h 00 min left")
    assert first.startswith("  inverse_multiquadr") and "…  epoch 120/300  validation NLL 0.123, accuracy 97.2 %" in first
    assert second.split("  ")[1] == "rbf, seed 1" and last == ""
    assert "  epoch 120/150  " in second, "each trial's own: arms may have other epochs than the study"
    assert max(map(len, (bar, first, second))) <= 80


def test_of_many_trials_as_many_as_there_is_room_for(shown):
    for number in range(20):
        shown.update(str(number), REPORT)
    assert len(lines(shown)) == 1 + 4 + 1 + 1 and lines(shown)[-2] == "  and 16 more"


def test_the_start_counts_groups_and_seconds(shown, monkeypatch):
    monkeypatch.setattr(display.time, "monotonic", lambda: 100.0)
    shown.phase("Ray is up, 0 of 2 worker groups")
    monkeypatch.setattr(display.time, "monotonic", lambda: 123.0)
    shown.groups(1, 2)
    assert lines(shown)[0] == "kernel_sweep: Ray is up, 1 of 2 worker groups, 23 s, about 2 h 00 min left"
    shown.groups(2, 2)
    assert lines(shown)[-2].startswith("kernel_sweep ━")


def test_where_no_group_has_a_place_it_waits_for_nodes(shown):
    """It counted 0 of 0 groups for as long as none came."""
    shown.phase("Ray is up, 0 of 2 worker groups")
    shown.groups(0, 0)
    assert lines(shown)[0].startswith("kernel_sweep: Ray is up, waiting for nodes, 0 s")


@pytest.mark.parametrize(
    ("terminal", "environment", "moves"),
    [(True, {"TERM": "xterm"}, True), (True, {"TERM": "dumb"}, False), (False, {"TERM": "xterm", "FORCE_COLOR": "1"}, False)],
)
def test_lines_where_none_can_be_drawn_over(monkeypatch, terminal, environment, moves):
    """On a dumb terminal nothing was seen, and with FORCE_COLOR a log was full of codes."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Display("kernel_sweep").console.is_terminal == moves


@pytest.mark.parametrize("shown", [False], indirect=True)
def test_without_a_terminal_a_line_a_minute(shown, monkeypatch):
    waits = iter([False, True])
    shown.over = SimpleNamespace(wait=lambda seconds: next(waits), set=lambda: None)
    shown.phase("starting Ray")
    shown.update("b", REPORT)
    shown.update("a", {"ended": True, "status": "failed", "reason": "OSError: full\nmore"})
    shown.update("b", REPORT | {"ended": True, "status": "finished"})
    shown._tell()
    state = "kernel_sweep: 12/42 trials, 28 %, about 2 h 00 min left"
    assert shown.console.file.getvalue().splitlines() == [
        "kernel_sweep: starting Ray ...",
        state,
        f"kernel_sweep: {NAMES['a']}: failed (OSError: full)",
        f"{state}; last: rbf, seed 1, validation NLL 0.123, accuracy 97.2 %",
    ]


@pytest.mark.parametrize(
    ("seconds", "exact", "rounded"),
    [(0.2, "0 s", "1 s"), (7.4, "7 s", "7 s"), (58, "58 s", "1 min"), (143, "2 min 23 s", "2 min 20 s"),
     (1390, "23 min 10 s", "23 min"), (4000, "1 h 06 min", "1 h 10 min")],
)  # fmt: skip
def test_times(seconds, exact, rounded):
    assert (clock(seconds), about(seconds)) == (exact, rounded)
