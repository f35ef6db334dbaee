"""Hands trials to worker groups and passes their reports back. Plain asyncio; `worker_groups` makes it a Ray actor.

A client submits a trial and polls for its reports; a group asks for the next trial, reports each epoch and finishes it.
An early stop is the answer to a report: nothing is killed. A group that asks for work while it still holds a trial has
been restarted: it is handed the same trial again, a bounded number of times without an epoch in between. A trial whose
client has fallen silent leaves its group at its next report, as it is, and waits in no line, until the client polls again: its
driver may only have slept. What a worker says before it ends by an error of its own is the reason: at once where trying again
cannot help, else when that was in vain.

A group that steps several trials at once asks for each of its places (`places`), one for each trial that it holds.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mldiv.records.contents import TrialTask

#: How often a trial is handed out without reporting an epoch before the deaths of its worker group count as its failure.
#: Each epoch allows as many again: machines that are taken away, and not the trial, end groups that get on.
ATTEMPTS = 3
#: What is said of a group whose workers have died so often before they asked for work, and said nothing.
SILENT = "its worker processes died, each time before they asked for work, without a word; Ray's logs may say more"
#: How long without a poll until a client counts as dead.
SILENCE_SECONDS = 300.0

#: Ray namespace of the broker actor.
NAMESPACE = "mldiv"
#: What `next` answers when the study is over.
END = "end"


def places(group: str, count: int) -> list[str]:
    """Return the names under which a group asks for so many trials at once; its own for one."""
    return [group] if count == 1 else [f"{group}/{number}" for number in range(count)]


def _group(place: str) -> str:
    return place.partition("/")[0]


class Outcome(NamedTuple):
    """How a trial ended: a status of `records.STATUSES`, or "interrupted", which leaves it to a later run; and why."""

    status: str
    reason: str | None = None


@dataclass
class QueuedTrial:
    """One trial on its way."""

    task: TrialTask
    attempts: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome | None = None
    stop: bool = False
    last_poll: float = field(default_factory=time.monotonic)


class Broker:
    """All methods are coroutines, called by name from other processes."""

    def __init__(self) -> None:
        self.trials: dict[str, QueuedTrial] = {}
        self.waiting: deque[str] = deque()
        self.holding: dict[str, str] = {}
        self.pids: dict[str, list[int]] = {}
        self.placements: dict[str, Any] = {}
        self.surplus = 0
        self.closed: str | None = None
        #: By group: how often each rank of it has begun since the group last asked for work; and its last error.
        self.begun: dict[str, Counter[int]] = {}
        self.last_words: dict[str, str] = {}
        self.changed = asyncio.Condition()

    # Clients

    async def submit(self, task: TrialTask) -> None:
        """Bring a trial. One that is under way is joined, so a restarted client goes on where the first one was."""
        async with self.changed:
            queued = self.trials.get(task.trial)
            if queued is None:
                self.trials[task.trial] = QueuedTrial(task)
                self.waiting.append(task.trial)
            else:
                queued.stop = False
                self._heard(queued)
            self.changed.notify_all()

    async def poll(self, trial: str, seen: int, timeout: float) -> tuple[list[dict[str, Any]], Outcome | None]:
        """Return the trial's epoch lines after the first ``seen``, and its outcome, if any; wait for news up to timeout."""
        queued = self.trials[trial]
        async with self.changed:
            self._heard(queued)
        await self._wait(lambda: len(queued.lines) > seen or queued.outcome is not None or self.closed, timeout)
        queued.last_poll = time.monotonic()
        if self.closed and queued.outcome is None:  # its group still reports
            return queued.lines[seen:], Outcome("interrupted", self.closed)
        if queued.outcome is not None:
            self.trials.pop(trial, None)
        return queued.lines[seen:], queued.outcome

    async def stop(self, trial: str) -> None:
        """End the trial at its next report; forget one in no line. Unknown and finished trials are left as they are."""
        async with self.changed:
            if (queued := self.trials.get(trial)) is not None:
                queued.stop = True
                if queued.outcome is None and not self._has_place(trial):
                    del self.trials[trial]
                self.changed.notify_all()

    async def under_way(self, trial: str) -> bool:
        """Return whether a trial waits for a group or its client, or its group for its end."""
        queued = self.trials.get(trial)
        return queued is not None and queued.outcome is None and self.closed is None

    # Worker groups

    async def placed(self, group: str, placement: Any) -> Any:
        """Take where Ray has placed the group's processes. Return where they were before, if that was elsewhere: a controller
        that died has left it."""
        before, self.placements[group] = self.placements.get(group), placement
        return None if before == placement else before

    async def held(self, group: str) -> list[str]:
        """Return the places of a group that hold a trial: of one that starts anew, what its death has left."""
        return [place for place in self.holding if _group(place) == group]

    async def next(self, place: str, pid: int, timeout: float) -> TrialTask | str | None:
        """Return a place's task: its unfinished one, else the next in line, None if there is none yet, END after the last.

        A group that holds a trial already leaves to those that hold none as many as they can begin with.
        """
        group = _group(place)
        self.pids.setdefault(group, [])
        if pid not in self.pids[group]:
            self.pids[group].append(pid)
        self.begun.pop(group, None)
        await self._wait(lambda: self.waiting or place in self.holding or self.closed or self.surplus, timeout)
        async with self.changed:
            if self.closed:
                return END
            busy = {_group(other) for other in self.holding}
            left = len(set(self.pids) - busy) if group in busy else 0
            trial = self.holding.get(place) or (self._next_wanted() if len(self.waiting) > left else None)
            if trial is None:
                if self.surplus and group not in busy:
                    self.surplus -= 1
                    del self.pids[group]
                    return END
                return None
            queued = self.trials[trial]
            if not queued.attempts:
                self.last_words.pop(group, None)
            if queued.attempts == ATTEMPTS:
                said = f"; the last time: {self.last_words[group]}" if group in self.last_words else ""
                reason = f"its worker group died {ATTEMPTS} times without an epoch in between{said}"
                self._finish(place, trial, Outcome("failed", reason))
                return None
            queued.attempts += 1
            self.holding[place] = trial
            return queued.task

    async def report(self, trial: str, line: dict[str, Any]) -> bool | None:
        """Take an epoch's line; return whether the trial is to end here, None where nobody waits for it: then it is left."""
        async with self.changed:
            if (queued := self.trials.get(trial)) is None:
                return None
            queued.lines.append(line)
            queued.attempts = 0
            self.changed.notify_all()
            if not queued.stop and (self.closed or self._silent(queued)):
                self.holding = {place: held for place, held in self.holding.items() if held != trial}
                return None
            return queued.stop

    async def finish(self, place: str, trial: str, outcome: Outcome) -> None:
        """Take how a place's trial ended. Only the first outcome counts (several ranks may report one failure)."""
        async with self.changed:
            if self.holding.get(place) == trial:
                self._finish(place, trial, outcome)

    async def died(self, group: str, rank: int, reason: str, hopeless: bool) -> bool:
        """Take why a worker ends outside of a trial; return whether to start it anew.

        hopeless: whether that cannot help: then the study ends with the reason.
        """
        async with self.changed:
            self.last_words[group] = reason
            if hopeless and not self.closed:
                self.closed = reason
            self.changed.notify_all()
        return not self.closed and not self._in_vain(group, rank)

    async def given_up(self, group: str) -> str | None:
        """Return the last error of a group whose workers end before they ask for work, ATTEMPTS times; None for any other."""
        in_vain = any(self._in_vain(group, rank) for rank in self.begun.get(group, ()))
        return self.last_words.get(group, SILENT) if in_vain else None

    async def over(self, group: str, rank: int) -> bool:
        """Return whether a worker of this group that starts need not begin; else note that it does."""
        if self.closed is not None or self._in_vain(group, rank):
            return True
        self.begun.setdefault(group, Counter())[rank] += 1
        return False

    # The driver

    async def lost(self, group: str) -> Any:
        """Put the trials of a group that is gone for good at the head of the line; return the placement it may have left."""
        async with self.changed:
            self.waiting.extendleft([self.holding.pop(place) for place in await self.held(group)])
            self.pids.pop(group, None)
            self.changed.notify_all()
        return self.placements.pop(group, None)

    async def retire(self, groups: int) -> None:
        """Tell END to so many groups, those that next find no trial waiting."""
        async with self.changed:
            self.surplus = groups
            self.changed.notify_all()

    async def close(self, reason: str) -> None:
        """End the study: groups are told END, and clients that still wait get the outcome "interrupted"."""
        async with self.changed:
            self.closed = reason
            self.changed.notify_all()

    async def state(self) -> dict[str, Any]:
        """Return who holds what, for display and tests."""
        return {"waiting": list(self.waiting), "holding": dict(self.holding), "pids": self.pids}

    def _in_vain(self, group: str, rank: int) -> bool:
        return group in self.begun and self.begun[group][rank] >= ATTEMPTS

    def _next_wanted(self) -> str | None:
        while self.waiting:
            queued = self.trials[self.waiting.popleft()]
            if queued.stop:
                del self.trials[queued.task.trial]
            elif not self._silent(queued):
                return queued.task.trial
        return None

    def _heard(self, queued: QueuedTrial) -> None:
        """Note that a trial's client lives; one that was silent has it wait in line again."""
        trial, queued.last_poll = queued.task.trial, time.monotonic()
        if queued.outcome is None and not self._has_place(trial):
            self.waiting.append(trial)
            self.changed.notify_all()

    def _has_place(self, trial: str) -> bool:
        """Return whether a trial waits in line or is held by a group."""
        return trial in self.waiting or trial in self.holding.values()

    def _silent(self, queued: QueuedTrial) -> bool:
        return time.monotonic() - queued.last_poll > SILENCE_SECONDS

    def _finish(self, place: str, trial: str, outcome: Outcome) -> None:
        self.holding.pop(place, None)
        self.trials[trial].outcome = outcome
        if self.trials[trial].stop:  # its client has ended, and will not ask
            del self.trials[trial]
        self.changed.notify_all()

    async def _wait(self, ready: Callable[[], Any], timeout: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self.changed:
                await self.changed.wait_for(ready)
