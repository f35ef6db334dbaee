"""A study: a question and its arms. `mldiv.cli.main` runs it from flags to table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mldiv.config import ConfigError, TrialConfig, nearest
from mldiv.sweep.plan import Arm, Plan, make_arm, search_seeds
from mldiv.sweep.search_space import DEFAULT_RULE, RANGES, Ranges

Changes = dict[str, Any]
Weights = dict[str, float]


@dataclass(frozen=True)
class Study:
    """A question and its design.

    scientific: what differs between arms; arms: name -> changed settings, or a function of the preset's configuration;
    searched: nuisance settings, tuned for each arm with the same budget; everything else is fixed. baseline: the arm that
    the others, or those in ``compare``, are compared with; contrasts: name -> weight of each arm's score in it, or a
    function of the arms; members: whose predictions an arm is judged by, where not by the pair's.
    batch: open Optuna trials per arm; samples: of each arm's search, where the preset's number does not serve;
    settings: what this study sets in the preset's configuration, e.g. that the official test set is not used;
    search_seeds: with how many seeds each suggestion is trained; ranges: of what is searched; surface: alpha's and beta's
    positive range, where their response surface is to be drawn; sizes: configurations whose step is timed.
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
    ranges: Ranges = field(default_factory=lambda: RANGES)
    surface: dict[str, tuple[float, float]] | None = None
    sizes: Callable[[TrialConfig], list[TrialConfig]] | None = None

    def changes(self, base: TrialConfig) -> dict[str, Changes]:
        """Every arm's changed settings."""
        return self.arms(base) if callable(self.arms) else self.arms

    def only(self, names: Sequence[str], base: TrialConfig) -> "Study":
        """The study with the baseline and these arms alone, and the contrasts that they allow; all of it without names.

        Raises: ConfigError for a name that is no arm.
        """
        changes = self.changes(base)
        for name in names:
            if name not in changes:
                raise ConfigError(f"--arm {name!r} is unknown{nearest(name, changes)}")
        if not names:
            return self
        arms = {name: one for name, one in changes.items() if name in (self.baseline, *names)}
        contrasts = self.contrasts(list(arms)) if callable(self.contrasts) else self.contrasts
        return replace(
            self,
            arms=arms,
            compare=tuple(name for name in arms if name != self.baseline),
            contrasts={name: weights for name, weights in contrasts.items() if set(weights) <= set(arms)},
        )

    def make_arms(self, base: TrialConfig) -> list[Arm]:
        return [
            make_arm(name, base, one, self.searched, self.ranges, self.members.get(name, "pair"))
            for name, one in self.changes(base).items()
        ]

    def plan(
        self, base: TrialConfig, folder: Path, samples: int, seeds: int, storage: Any = None, share: bool = True,
        rule: str = DEFAULT_RULE,
    ) -> Plan:  # fmt: skip
        return Plan(
            self.make_arms(base), folder, samples=samples, seeds=tuple(range(1, seeds + 1)), batch=self.batch, rule=rule,
            search_seeds=search_seeds(self.search_seeds), storage=storage, share=share,
        )  # fmt: skip
