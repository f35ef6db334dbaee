"""Train several trials side by side, an epoch of each in turn, those that can in one step; each as if it were alone."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

from mldiv.records.contents import TrialRecord
from mldiv.training.lanes.asked import Epoch, Training
from mldiv.training.lanes.epoch import together, train_epochs

T = TypeVar("T")

#: How many trials are stepped at once where nothing else is said, by kind of device. On a processor the same arithmetic takes
#: as long. On a GPU launches take about four times as long as the work of one pair [reckoned: 4 to 9 ms beside 1.5 ms for
#: ResNet-20 on an H100; to be replaced by what is measured there].
LANES = {"cpu": 1, "cuda": 4}


def count_lanes(lanes: int | None, device: str) -> int:
    """Return how many trials are stepped at once on a kind of device; None: `LANES` of it."""
    return LANES[device] if lanes is None else lanes


@dataclass(eq=False)  # two of them are compared before either has asked for an epoch
class _Lane(Generic[T]):
    """A trial under way, by its name; asked: the epoch that it waits for, since when (`time.perf_counter`)."""

    name: T
    trial: Training
    asked: Epoch = field(init=False)
    since: float = field(init=False)


def train_lanes(ask: Callable[[], tuple[T, Training] | None], end: Callable[[T, TrialRecord], None], most: int) -> None:
    """Train all trials that ``ask`` hands out, at most so many at a time; return when none is left.

    Trials whose next epochs can be trained together are; the others train theirs alone, in turn. A trial that ends, however
    that is, leaves its place to the next. What one raises beyond what is its own (`attempt`) ends all, each as interrupted.

    ask: gives a trial with a name for it, None where there is none now; asked whenever there is a place; end: hears of the
    record of each.
    """
    lanes: list[_Lane[T]] = []

    def go_on(lane: _Lane[T], answer: Tensor | BaseException | None) -> None:
        """Give a trial its answer (None: let it begin); one that has ended leaves, and is told of."""
        try:
            lane.asked = lane.trial.throw(answer) if isinstance(answer, BaseException) else lane.trial.send(answer)  # type: ignore[arg-type]
            lane.since = time.perf_counter()
        except StopIteration as ended:
            lanes.remove(lane)
            end(lane.name, ended.value)

    try:
        while True:
            while len(lanes) < most and (given := ask()) is not None:
                lanes.append(_Lane(*given))
                go_on(lanes[-1], None)
            if not lanes:
                return
            for group in _groups(lanes):
                began = time.perf_counter()
                answers = _train(group)
                share = (time.perf_counter() - began) / len(group)
                for lane, answer in zip(group, answers, strict=True):
                    lane.asked.waited = time.perf_counter() - lane.since - share
                    go_on(lane, answer)
    finally:
        for lane in lanes:
            lane.trial.close()


def _groups(lanes: Sequence[_Lane[T]]) -> list[list[_Lane[T]]]:
    """The lanes whose epochs can be trained together; those with one code of stage two stand side by side."""
    found: dict[Hashable, list[_Lane[T]]] = {}
    for lane in lanes:
        key = together(lane.asked)
        found.setdefault(id(lane) if key is None else key, []).append(lane)
    return list(found.values())


def _train(group: Sequence[_Lane[T]]) -> Sequence[Tensor | BaseException]:
    """Train a group's epochs. What goes wrong in a step of several goes wrong for all of them."""
    try:
        return train_epochs([lane.asked for lane in group])
    except Exception as error:
        if len(group) > 1:
            error.add_note(f"in a step of {len(group)} trials at once (--lanes)")
        return [error] * len(group)
