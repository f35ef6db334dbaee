"""A study: a question and its arms. `mldiv.cli.main` runs it from flags to table.

Nothing of torch or Optuna is imported here, nor where a study is defined: `--help` need not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mldiv.config import TrialConfig
    from mldiv.sweep.search_space import Ranges

Changes = dict[str, Any]
Weights = dict[str, float]
#: By an axis in words and an effect: the size at which each of its contrasts is taken.
Trends = dict[str, dict[str, Weights]]

#: Builds tables and pictures from a study folder and returns what to print, as `analysis.build.build`.
ReportBuilder = Callable[..., str]
#: Names the comparisons that are undecided in a study folder, as `analysis.build.undecided`.
FindUndecided = Callable[[Path], list[str]]


#: By whose predictions an arm can be judged.
MEMBERS = ("pair", "peers")
#: Of the sum of a contrast's weights.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Study:
    """A question and its design.

    scientific: what differs between arms; arms: name -> changed settings, or a function of the preset's configuration;
    searched: nuisance settings, tuned for each arm with the same budget ("kernel_*": its kernel's own); everything else is
    fixed. baseline: the arm that the others, or those in ``compare``, are compared with; contrasts: name -> weight of each
    arm's score in it, or a function of the arms; members: whose predictions an arm is judged by, where not by the pair's.
    batch: open Optuna trials per arm; samples: of each arm's search, where the preset's number does not serve; settings: what
    this study sets in the preset's configuration, e.g. that the official test set is not used; search_seeds: with how many
    seeds each suggestion is trained; ranges: how searched settings are suggested where they do not declare it or it does not
    serve, such as {"clip_norm": Log(1, 10)} (`mldiv.settings.setting`), or a function that gives these; surface: gives alpha's
    and beta's positive range, where their response surface is to be drawn; sizes: configurations whose step is timed; trends:
    by which sizes contrasts are drawn and carried on.
    """

    name: str
    question: str
    scientific: str
    arms: dict[str, Changes] | Callable[[TrialConfig], dict[str, Changes]]
    searched: tuple[str, ...]
    baseline: str
    compare: tuple[str, ...] = ()
    contrasts: dict[str, Weights] | Callable[[list[str]], dict[str, Weights]] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    batch: int = 1
    settings: Changes = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    search_seeds: int = 1
    ranges: Ranges | Callable[[], Ranges] = field(default_factory=dict)
    surface: Callable[[], dict[str, tuple[float, float]]] | None = None
    sizes: Callable[[TrialConfig], list[TrialConfig]] | None = None
    trends: Callable[[TrialConfig], Trends] | None = None

    def __post_init__(self) -> None:
        """Raises: TypeError for arms that are not changes by name, for a text in place of names."""
        arms = {} if callable(self.arms) else self.arms
        if not isinstance(arms, dict) or not all(isinstance(changes, dict) for changes in arms.values()):
            raise TypeError("arms: expected what each sets by its name, such as {'plain': {'alpha': 0.0}}, or a function")
        for name, given in (("searched", self.searched), ("compare", self.compare)):
            if isinstance(given, str):
                raise TypeError(f"{name} = {given!r}: expected a tuple of names, such as ({given!r},)")

    def own_ranges(self) -> Ranges:
        """Return the ranges that the study itself gives, by setting."""
        return self.ranges() if callable(self.ranges) else self.ranges

    def own_contrasts(self, arms: list[str]) -> dict[str, Weights]:
        """Return the contrasts of these arms."""
        return self.contrasts(arms) if callable(self.contrasts) else self.contrasts

    def faults(self, arms: list[str]) -> Iterator[str]:
        """Say which names are no texts or no folder's, what a design names that none of its ``arms`` or no setting is, whose
        members there are not, which contrasts are none."""
        from mldiv.config import TrialConfig  # with pydantic and torch, for which no `--help` waits
        from mldiv.presets import PRESETS
        from mldiv.settings import kernel_settings
        from mldiv.settings.setting import fields, nearest

        contrasts = self.own_contrasts(arms)
        texts: list[tuple[str, Any]] = [(name, getattr(self, name)) for name in ("name", "question", "scientific")]
        texts += [("the name of an arm", arm) for arm in arms] + [("the name of a contrast", name) for name in contrasts]
        if wrong := [f"{what} = {given!r}: expected a text" for what, given in texts if not isinstance(given, str)]:
            yield from wrong
            return
        if self.name in ("", "..") or Path(self.name).name != self.name:
            yield f"name = {self.name!r}: expected the name of a folder, without '/'"
        known = fields(TrialConfig) | kernel_settings.parameters()
        unknown = [name for name in self.own_ranges() if name not in known]
        yield from (f"ranges names {name!r}, which is no setting{nearest(name, known)}" for name in unknown)
        odd = [name for name in self.samples if name not in PRESETS]
        yield from (f"samples names {name!r}, which is no preset{nearest(name, PRESETS)}" for name in odd)
        counts = {"batch": self.batch, "search_seeds": self.search_seeds}
        yield from (f"{name} = {count}: expected a number from 1 on" for name, count in counts.items() if count < 1)
        named = {"baseline": [self.baseline], "compare": self.compare, "members": self.members}
        named |= {f"contrasts[{name!r}]": weights for name, weights in contrasts.items()}
        if not arms:
            yield "it has no arms: name at least the baseline's, arms={name: {setting: value}}"
            return
        for field_name, given in named.items():
            yield from (f"{field_name} names {arm!r}, which is no arm{nearest(arm, arms)}" for arm in given if arm not in arms)
        for arm, whose in self.members.items():
            if whose not in MEMBERS:
                yield f"members[{arm!r}] = {whose!r}: expected {' or '.join(MEMBERS)}"
        for name, weights in contrasts.items():
            if name in (self.compare or arms):
                yield f"contrasts[{name!r}] has the name of an arm, and stands beside it in tables: take another"
            if not weights or not abs(sum(weights.values())) <= ROUNDING:  # NaN is none either
                yield f"contrasts[{name!r}] = {weights}: the weights of a contrast add up to 0, such as {{arm: 1, other: -1}}"


#: Studies that can be run by name, beside those of `studies/`: what plug-ins enter.
STUDIES: dict[str, Study] = {}
