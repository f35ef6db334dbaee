"""What a person sees while a study runs: a line per trial in training; plain lines where there is no terminal."""

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mldiv.sweep.plan import Plan


class Display:
    """Shows progress of a study as its trials report it. Use as a context manager.

    plan: which trial belongs to which arm and how many are answered; epochs: of a trial.
    """

    def __init__(self, study: str, plan: Plan, epochs: int) -> None:
        self.console = Console(stderr=True)
        self.study, self.plan, self.epochs = study, plan, epochs
        self.trained = 0
        self.running: dict[str, dict[str, Any]] = {}
        self.began = time.monotonic()
        self.first: float | None = None
        self.live = Live(self._draw(), console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()

    def update(self, trial: str, result: dict[str, Any]) -> None:
        """Take a report of a trial, or its end (``ended``)."""
        self.first = self.first or time.monotonic()
        if result.get("ended"):
            self.trained += self.epochs - (self.running.pop(trial, {"epoch": -1})["epoch"] + 1)
            self._print_end(trial, result)
        elif result.get("epoch", -1) >= 0:
            before = self.running.get(trial, {"epoch": -1})["epoch"]
            self.trained += max(0, result["epoch"] - before)
            self.running[trial] = result
        if self.console.is_terminal:
            self.live.update(self._draw())

    def remaining(self) -> float | None:
        """Return the seconds to go at the pace since the first report; None before there is a pace."""
        if self.first is None or self.trained <= 0:
            return None
        left = (self.plan.trials() - self.plan.recorded) * self.epochs - self.trained
        return (time.monotonic() - self.first) / self.trained * max(0, left)

    def label(self, trial: str) -> str:
        """Return what a person calls the trial: arm, phase, seed or number."""
        return self.plan.labels.get(trial, trial)

    def _print_end(self, trial: str, result: dict[str, Any]) -> None:
        if not self.console.is_terminal:
            scores = _scores(result) if result.get("status") in ("finished", "stopped") else _end(result)
            left = clock(self.remaining())
            count = f"{self.plan.answered}/{self.plan.trials()}"
            text = f"{self.study}  {count}  {self.label(trial)}: {scores}; {left} left"
            self.console.print(text, soft_wrap=True, highlight=False)

    def _draw(self) -> Group:
        if self.first is None:
            waited = time.monotonic() - self.began
            head = f"{self.study}: starting worker groups ({waited:.0f} s; half a minute is usual)"
        else:
            head = f"{self.study}: {self.plan.answered} of {self.plan.trials()} trials, {clock(self.remaining())} left"
        table = Table.grid(padding=(0, 2))
        for trial, result in list(self.running.items()):
            epoch = f"epoch {result['epoch'] + 1}/{self.epochs}, stage {result['stage']}"
            table.add_row("  " + self.label(trial), epoch, "validation " + _scores(result))
        return Group(Text(head, style="bold"), table)


def _scores(result: dict[str, Any]) -> str:
    if result.get("nll") is None:
        return "-"
    return f"accuracy {100 * result['accuracy']:.1f} %, NLL {result['nll']:.3f}, ECE {100 * result['ece']:.1f} %"


def _end(result: dict[str, Any]) -> str:
    """How a trial without scores ended, and why if it says so."""
    reason = (result.get("reason") or "").strip().splitlines()
    return f"{result.get('status', 'ended')} ({reason[0]})" if reason else result.get("status", "ended")


def clock(seconds: float | None) -> str:
    """Return a time as a person says it; "-" where it is not known."""
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
