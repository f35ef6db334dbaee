"""What a person sees while a study runs: what is done, one bar, the trials in training; without a terminal plain lines."""

import threading
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mldiv.environment.terminal import can_redraw, plain

if TYPE_CHECKING:  # with torch seconds, before which the first line stands
    from mldiv.cli.screen.forecast import Forecast
    from mldiv.sweep.plan import Plan

#: How long between two lines where there is no terminal.
LINE_SECONDS = 60.0
#: Lines that bar and prompt take of a terminal.
OWN_LINES = 4


class Display:
    """Shows what a study does. Use as a context manager.

    `phase` says what is done before a plan trains, and after; `follow` takes the plan, `train` and its reports begin the bar.
    """

    def __init__(self, study: str) -> None:
        self.console = Console(stderr=True, force_terminal=can_redraw(), highlight=False, markup=False, emoji=False)
        self.study, self.doing, self.since = study, "", time.monotonic()
        self.plan: Plan | None = None
        self.forecast: Forecast | None = None
        self.running: dict[str, dict[str, Any]] = {}
        self.last = ""
        self.over = threading.Event()
        self.live = Live(get_renderable=self._draw, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.start()
        else:
            threading.Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Show nothing more that moves."""
        self.over.set()
        self.live.stop()

    def stopping(self) -> None:
        """Answer Ctrl-C."""
        self.stop()
        self.say("stopping; everything up to the last epoch is safe")

    def say(self, text: str) -> None:
        """Tell the user a line that stays."""
        self.console.print(plain(f"{self.study}: {text}"), soft_wrap=not self.console.is_terminal)

    def phase(self, doing: str) -> None:
        """Begin with something; its seconds are counted from now on."""
        self.doing, self.since = doing, time.monotonic()
        self._line(f"{doing} ...")
        self.live.refresh()  # what comes next may keep the interpreter for a second

    def report(self) -> None:
        """Begin with what follows the training, of which no forecast tells."""
        self.forecast = None
        self.phase("writing the tables and the report")

    def follow(self, plan: "Plan", forecast: "Forecast") -> None:
        """Take the plan that is trained next."""
        self.plan, self.forecast, self.running, self.last = plan, forecast, {}, ""

    def groups(self, ready: int, wanted: int) -> None:
        """Hear how many worker groups, of those that have a place in the cluster, can train."""
        if self.forecast is not None and ready:
            self.forecast.start()
        if self.doing and ready and ready >= wanted:
            self.train()
        elif self.doing:
            self.doing = "Ray is up, " + (f"{ready} of {wanted} worker groups" if wanted else "waiting for nodes")

    def train(self) -> None:
        """Show the training, from now on."""
        self.doing = ""
        self._line(self._state())

    def update(self, trial: str, result: dict[str, Any]) -> None:
        """Take a report of a trial, or its end (``ended``)."""
        if self.forecast is not None:
            self.forecast.update(trial, result)
        if self.doing:
            self.train()
        if result.get("ended"):
            self.running.pop(trial, None)
            self._note_end(trial, result)
        elif result.get("epoch", -1) >= 0:
            self.running[trial] = result

    def _note_end(self, trial: str, result: dict[str, Any]) -> None:
        """Say at once how a trial ended that did not finish; of the others, the next line names the last."""
        if result.get("status") in ("finished", "stopped"):
            self.last = f"; last: {self.label(trial)}, {_scores(result)}"
        else:
            self.say(f"{self.label(trial)}: {_end(result)}")

    def label(self, trial: str) -> str:
        """Return what a person calls the trial: arm, phase, seed or number."""
        return trial if self.plan is None else self.plan.labels.get(trial, trial)

    def _line(self, text: str) -> None:
        """Print a line where there is no terminal."""
        if not self.console.is_terminal:
            self.say(text)

    def _tell(self) -> None:
        """Say every minute how far the study is."""
        while not self.over.wait(LINE_SECONDS):
            self.say(self._waiting() if self.doing else self._state() + self.last)

    def _waiting(self) -> str:
        """Say what is being done, for how long, and how long the training will take."""
        return f"{self.doing}, {time.monotonic() - self.since:.0f} s{self._left()}"

    def _state(self) -> str:
        """Say how many trials are done, the share of the work, and how long the rest takes."""
        assert self.plan is not None and self.forecast is not None
        return f"{self.plan.answered}/{self.plan.trials()} trials, {100 * self.forecast.share():.0f} %{self._left()}"

    def _left(self) -> str:
        """Say how long the training still takes; nothing where that is not known."""
        left = self.forecast.remaining() if self.forecast is not None else None
        return "" if left is None else f", about {about(left)} left" if left >= 1 else ", almost done"

    def _draw(self) -> Group:
        parts: list[RenderableType] = [Text("")]  # where the cursor waits, and the terminal says ^C
        if self.doing:
            parts.insert(0, Text(f"{self.study}: {self._waiting()}", no_wrap=True, overflow="ellipsis"))
        elif self.plan is not None and self.forecast is not None:
            parts[:0] = [self._bar(self.forecast.share()), self._trials(self.plan.epochs)]
        return Group(*parts)

    def _bar(self, share: float) -> Table:
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis")
        head.add_column(ratio=1)
        head.add_column(no_wrap=True)
        head.add_row(Text(self.study, style="bold"), ProgressBar(completed=100 * share), self._state())
        return head

    def _trials(self, epochs: dict[str, int]) -> Table:
        """A line for each trial in training, as many as there is room for; epochs: of each trial."""
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        running, room = list(self.running.copy().items()), max(1, self.console.height - OWN_LINES)
        for trial, result in running[:room]:
            table.add_row(f"  {self.label(trial)}", f"epoch {result['epoch'] + 1}/{epochs[trial]}", _scores(result))
        if running[room:]:
            table.add_row(f"  and {len(running) - room} more", "", "")
        return table


def _scores(result: dict[str, Any]) -> str:
    """Say what of a report's scores fits beside its trial."""
    if result.get("nll") is None:
        return "validation -"
    return f"validation NLL {result['nll']:.3f}, accuracy {100 * result['accuracy']:.1f} %"


def _end(result: dict[str, Any]) -> str:
    """How a trial without scores ended, and why if it says so."""
    reason = (result.get("reason") or "").strip().splitlines()
    return f"{result.get('status', 'ended')} ({reason[0]})" if reason else result.get("status", "ended")


def clock(seconds: float) -> str:
    """Return a time as a person says it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes and seconds else f"{minutes} min" if minutes else f"{seconds} s"


def about(seconds: float) -> str:
    """Return an estimated time, to as many digits as an estimate has."""
    step = next((step for most, step in ((10, 1), (60, 5), (600, 10), (3600, 60)) if seconds < most), 600)
    return clock(step * max(1, round(seconds / step)))
