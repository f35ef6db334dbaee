"""A study: a question and its arms. `mldiv.cli.main` runs it from flags to table.

Nothing of torch or Optuna is imported here, nor where a study is defined: `--help` need not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
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


#: By whose predictions an arm can be judged.
MEMBERS = ("pair", "peers")
#: Of the sum of a contrast's weights.
ROUNDING = 1e-9
#: Fields that hold something by name, and what.
BY_NAME = {
    "arms": "what each sets by its name, such as {'plain': {'alpha': 0.0}}",
    "contrasts": "each contrast's weights by its name, such as {'b beyond a': {'b': 1.0, 'a': -1.0}}",
    "members": "whose predictions count by an arm's name, such as {'alone': 'peers'}",
    "settings": "values by a setting's name, such as {'alpha': 0.0}",
    "samples": "numbers by a preset's name, such as {'small': 40}",
    "ranges": "a setting's range by its name, such as {'lr': Log(0.01, 1)}",
}
#: Of these: what may be functions, and what holds something by name in its turn.
FUNCTIONS, NESTED = ("arms", "contrasts", "ranges"), ("arms", "contrasts")


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
        """Raises: TypeError for a field of another kind than it is declared."""
        if not isinstance(self.name, str):
            raise TypeError(f"name = {self.name!r}: expected a text")
        for name in BY_NAME:
            given = getattr(self, name)
            if not (name in FUNCTIONS and callable(given)) and (fault := _fault(name, given)):
                raise TypeError(f"{name}: {fault}{', or a function' * (name in FUNCTIONS)}")
        for name in ("searched", "compare"):
            if not isinstance(given := getattr(self, name), tuple | list):
                raise TypeError(f"{name} = {given!r}: expected a tuple of names, such as ({str(given)!r},)")
        for name in ("surface", "sizes", "trends"):
            if (given := getattr(self, name)) is not None and not callable(given):
                raise TypeError(f"{name} = {given!r}: expected a function")

    def own_arms(self, base: TrialConfig) -> dict[str, Changes]:
        """Return what each arm changes in the preset's configuration."""
        return self.own("arms", base)

    def own_ranges(self) -> Ranges:
        """Return the ranges that the study itself gives, by setting."""
        return self.own("ranges")

    def own_contrasts(self, arms: list[str]) -> dict[str, Weights]:
        """Return the contrasts of these arms."""
        return self.own("contrasts", arms)

    def own(self, name: str, *given: Any) -> Any:
        """Return a field, or what its function returns.

        Raises: ConfigError where that fails, or is nothing by name; what it says itself of settings, data and files.
        """
        if not callable(value := getattr(self, name)):
            return value
        from mldiv.datasets.files import DataError  # with pydantic and torch, for which no `--help` waits
        from mldiv.plugins.loading import described
        from mldiv.settings.setting import ConfigError

        where = f"the function {name} of the study {self.name}"
        try:
            made = value(*given)
        except (ConfigError, DataError, OSError, ModuleNotFoundError):
            raise
        except Exception as error:
            code = getattr(value, "__code__", None)
            raise ConfigError(f"{where}: {described(error, *([code.co_filename] if code else []))}") from error
        if name in BY_NAME and (fault := _fault(name, made)):
            raise ConfigError(f"{where} returned {made!r}: {fault}")
        return made

    def faults(self, arms: list[str]) -> Iterator[str]:
        """Say which names are no texts or no folder's, what a design names that none of its ``arms`` or no setting is, whose
        members there are not, which contrasts are none."""
        from mldiv.config import TrialConfig  # with pydantic and torch, for which no `--help` waits
        from mldiv.presets import PRESETS
        from mldiv.settings import kernel_settings
        from mldiv.settings.setting import fields, nearest

        contrasts = self.own_contrasts(arms)
        texts: list[tuple[str, Any]] = [(name, getattr(self, name)) for name in ("question", "scientific")]
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
        yield from self._count_faults()
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
        yield from _contrast_faults(contrasts, self.compare or arms)

    def _count_faults(self) -> Iterator[str]:
        counts = [("batch", self.batch, 1), ("search_seeds", self.search_seeds, 1)]
        counts += [(f"samples[{preset!r}]", count, 0) for preset, count in self.samples.items()]
        for name, count, least in counts:
            if not isinstance(count, Integral) or count < least:
                yield f"{name} = {count!r}: expected a number from {least} on"


def _contrast_faults(contrasts: dict[str, Weights], compared: Sequence[str]) -> Iterator[str]:
    for name, weights in contrasts.items():
        if name in compared:
            yield f"contrasts[{name!r}] has the name of an arm, and stands beside it in tables: take another"
        numbers = bool(weights) and all(isinstance(weight, Real) for weight in weights.values())
        if not numbers or not abs(sum(weights.values())) <= ROUNDING:  # NaN is none either
            yield f"contrasts[{name!r}] = {weights}: the weights of a contrast add up to 0, such as {{arm: 1, other: -1}}"


def _fault(name: str, given: Any) -> str:
    """Say what a field should hold that holds nothing by name; nothing where it does."""
    named = isinstance(given, dict) and (name not in NESTED or all(isinstance(of_one, dict) for of_one in given.values()))
    return "" if named else f"expected {BY_NAME[name]}"


#: Studies that can be run by name, beside those of `studies/`: what plug-ins enter.
STUDIES: dict[str, Study] = {}
