"""How long a study still takes: what is left to train, by the estimate of its plan until it has a pace of its own."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from mldiv.sweep.plan import Plan
from mldiv.training.pretraining import pretraining_ids
from mldiv.training.step_cost import Cost, Work

#: The share of a study's work after which its pace counts as much as the estimate.
TRUST_SHARE = 0.1
#: Costs in relation to each other, where none could be timed.
NOMINAL = Cost(stage_1=1.0, stage_2=1.2, pretraining=0.5, test=3.0)
#: Seconds between two counts of what is left, at least, and what a count may take of the time.
COUNT_SECONDS, COUNT_SHARE = 20.0, 0.05


class Forecast:
    """What is left of a plan to train, as seconds of one worker, and how fast that becomes less.

    count: counts what is left, given the epochs that trials under way have behind them. That is done again now and then, in a
    thread, since searches decide what follows them.
    """

    def __init__(self, plan: Plan, count: Callable[[Mapping[str, int]], Work]) -> None:
        self.plan, self.count = plan, count
        self.cost: Cost | None = None
        self.left: Work | None = None
        self.done, self.groups, self.wait = 0.0, 1, 0.0
        self.begun: dict[str, int] = {}
        self.pretrained: set[str] = set()
        self.started = False
        self.since = self.counted = time.monotonic()
        self.elapsed = 0.0
        self.counting = threading.Lock()
        self.pause = COUNT_SECONDS

    def expect(self, cost: Cost | None, groups: int, wait: float = 0.0) -> None:
        """Estimate by the ``cost`` of work, on so many workers, that begin after ``wait`` seconds; cost: None if not known."""
        self.groups, self.wait, self.since = max(1, groups), wait, time.monotonic()
        self._count()
        self.cost = cost

    def start(self) -> None:
        """Measure the pace from now on."""
        if not self.started:
            self.started, self.since = True, time.monotonic()

    def update(self, trial: str, result: Mapping[str, Any]) -> None:
        """Take a trial's report, or its end. Of the first epoch that it reports all before were there already."""
        self.start()
        epoch, costs = result.get("epoch", -1) + 1, self.cost or NOMINAL
        if result.get("ended"):
            self.begun.pop(trial, None)
            self._subtract("trials", 1, costs.test)
        elif epoch:
            before = self.begun.get(trial)
            if epoch == 1 and before is None:
                self._subtract("pretraining", self._pretraining(trial), costs.pretraining)
            new, self.begun[trial] = epoch - (epoch - 1 if before is None else before), epoch
            if result.get("stage") == 2:
                self._subtract("second_stage", new, costs.stage_2)
            else:
                self._subtract("first_stage", new, costs.stage_1)
        now = time.monotonic()
        self.elapsed, self.since = self.elapsed + now - self.since, now
        if now - self.counted > self.pause and self.counting.acquire(blocking=False):
            threading.Thread(target=self._count_anew, daemon=True).start()

    def share(self) -> float:
        """Return the share of the work that is done, of what there was when this began."""
        left = self._seconds_left()
        return 0.0 if left is None else self.done / max(1e-9, self.done + left)

    def remaining(self) -> float | None:
        """Return the seconds to go; None where nothing is known of the pace."""
        left = self._seconds_left()
        if left is None or (self.cost is None and not self.done):
            return None
        trust = TRUST_SHARE * (self.done + left) if self.cost is not None else 0.0
        pace = (trust / self.groups + self.elapsed) / max(1e-9, trust + self.done)
        passed, further = time.monotonic() - self.since, left * pace
        return max(further - passed, further / 2) if self.started else further + max(0.0, self.wait - passed)

    def _seconds_left(self) -> float | None:
        return None if self.left is None else (self.cost or NOMINAL).seconds(self.left)

    def _subtract(self, kind: str, epochs: int, seconds: float) -> None:
        """Note that so many epochs, or trials, of a kind are done, each of so many seconds."""
        self.done += epochs * seconds
        if self.left is not None:
            setattr(self.left, kind, max(0, getattr(self.left, kind) - epochs))

    def _pretraining(self, trial: str) -> int:
        """Return the epochs of pretraining that a trial has trained, or another before it: only what was left counts."""
        config = self.plan.queue.under_way.get(trial)
        needed = {} if config is None else pretraining_ids(config)
        new = needed.keys() - self.pretrained
        self.pretrained |= new
        return min(sum(needed[name] for name in new), self.left.pretraining if self.left is not None else 0)

    def _count(self) -> None:
        began = time.monotonic()
        self.left = self.count(dict(self.begun))
        self.counted = time.monotonic()
        self.pause = max(COUNT_SECONDS, (self.counted - began) / COUNT_SHARE)

    def _count_anew(self) -> None:
        """Count anew; what cannot be counted now (a record that is being moved, say) stays as it was."""
        try:
            with suppress(Exception):
                self._count()
        finally:
            self.counted = time.monotonic()
            self.counting.release()
