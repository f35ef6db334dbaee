"""The points at which every arm's search begins, the same for all arms, however a study grows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna

from mldiv.sweep.arm import Arm

#: Points of a search that all arms have in common: the defaults, then random ones. What follows is TPE's, arm by arm.
COMMON_POINTS = 10


def common_points(
    arms: list[Arm], count: int, drawn: Sequence[Sequence[str]], seed: int
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Draw the first points of every arm's search at random over all that any arm searches; by arm.

    Arms are compared at the same points, and trials at one point share their first stage. Where an arm has another range than
    the others, because it has other epochs or a value of its own, its points lie as far along that. drawn: the settings in the
    order in which they are drawn (default: that of the arms), a list for each time that the study has grown by some; each has
    a stream of its own, so that one more leaves what was suggested before as it is.
    """
    if count == 0:
        return {arm.name: [] for arm in arms}
    first = {name: arm for arm in reversed(arms) for name in arm.searched}
    order = [[name for name in names if name in first] for names in drawn or [settings_of(arm.searched for arm in arms)]]
    points: dict[frozenset, list[dict[str, Any]]] = {}
    found = {}
    for arm in arms:
        ranged = first | dict.fromkeys(arm.searched, arm)
        ranges = frozenset(item for names in order for item in _suggest(_random(0), names, ranged).distributions.items())
        if ranges not in points:
            points[ranges] = _draw(order, ranged, count, seed)
        found[arm.name] = points[ranges]
    return found


def _draw(order: list[list[str]], ranged: Mapping[str, Arm], count: int, seed: int) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = [{} for _ in range(count)]
    for place, names in enumerate(order):
        study = _random(seed + place)
        for point in points:
            point |= _suggest(study, names, ranged).params
    return points


def _random(seed: int) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


def _suggest(study: optuna.Study, names: Sequence[str], ranged: Mapping[str, Arm]) -> optuna.Trial:
    """Ask for a trial and suggest settings, each in the range of its arm."""
    trial = study.ask()
    for name in names:
        ranged[name].ranges[name](name, trial, ranged[name].config)
    return trial


def settings_of(searched: Iterable[Sequence[str]]) -> list[str]:
    """Return every setting that any arm searches, once, in the order of the arms."""
    return list(dict.fromkeys(name for names in searched for name in names))


def drawn_after(
    drawn: list[list[str]], there: Mapping[str, Sequence[str]], here: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    """Return the order in which a study that has grown draws its common points: what it drew before, then what is new.

    drawn: of the study as it was, empty where it had not grown; there, here: by arm, what is searched, before and now.
    """
    before = drawn or [settings_of(there.values())]
    new = [name for name in settings_of(here.values()) if name not in settings_of(before)]
    return [*before, new] if new else drawn
