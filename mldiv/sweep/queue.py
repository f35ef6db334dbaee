"""In what order trials are trained, so that what they share is trained once: first stages, then what branches off.

Of the trials that share a first stage, the one that trains it longest goes first and publishes its state wherever another wants
to branch off. The others wait until what they need is published, or its trainer has ended; meanwhile groups train
others. A trial waits only for a prefix longer than what is stored already, so nothing is waited for in vain.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from mldiv.config import TrialConfig
from mldiv.training.first_stage import branches, first_stage_id, own_prefix, pattern
from mldiv.training.pretraining import pretraining_ids


@dataclass(frozen=True)
class Task:
    """A trial to train, and the epochs of its first stage after which others want to branch off."""

    config: TrialConfig
    publish: tuple[int, ...] = ()


@dataclass
class Lead:
    """A trial that is training its first stage: the epochs it publishes, and how far it is."""

    stage: str
    publish: frozenset[int]
    epochs: int = 0


@dataclass
class FirstStageState:
    """A first stage's trials that wait, the longest first stage first, and the prefixes that are known to be stored."""

    waiting: list[TrialConfig] = field(default_factory=list)
    stored: set[int] = field(default_factory=set)
    led: bool = False

    def longest(self, first_stage: int) -> int:
        """Return the longest stored prefix that such a first stage can start from; 0 where there is none."""
        return max((epoch for epoch in self.stored if epoch <= first_stage), default=0)


class TrialQueue:
    """Trials to train, handed out by `take`; `progress` and `end` say what becomes of them.

    share: whether trials share anything; otherwise they are handed out as they come. switches: epochs at which trials that
    are not known yet may branch off: whoever passes them publishes.
    """

    def __init__(self, share: bool = True, switches: Collection[int] = ()) -> None:
        self.share, self.switches = share, frozenset(switches) - {0}
        self.stages: dict[str, FirstStageState] = {}
        self.leads: dict[str, Lead] = {}
        self.under_way: dict[str, TrialConfig] = {}
        self.references: Counter[str] = Counter()
        #: Which trial under way trains a pretrained network, or did; and those that are stored.
        self.pretraining: dict[str, str] = {}
        self.pretrained: set[str] = set()

    def add(self, config: TrialConfig) -> None:
        """Let a trial wait."""
        waiting = self.stages.setdefault(first_stage_id(config) if self.share else config.id, FirstStageState()).waiting
        waiting.append(config)
        self.references.update(self._used(config))
        waiting.sort(key=lambda trial: -trial.first_stage)  # stable: of equals the first one added stays first

    def take(self) -> Task | None:
        """Return a trial that need not wait, one that begins a first stage before any branch; None when there is none now."""
        chosen = (self._first(begins=True) if self.share else None) or self._first(begins=False)
        if chosen is None:
            return None
        name, config = chosen
        self.stages[name].waiting.remove(config)
        publish = self._wanted(self.stages[name], config)
        self._begin(name, config, publish)
        return Task(config, tuple(sorted(publish)))

    def _wanted(self, stage: FirstStageState, config: TrialConfig) -> frozenset[int]:
        """Epochs of the trial's first stage after which others want to branch off, or may want to."""
        if not self.share:
            return frozenset()
        return branches(config, self.switches.union(*map(own_prefix, stage.waiting)))

    def _begin(self, name: str, config: TrialConfig, publish: frozenset[int]) -> None:
        """Note that the trial is under way: what it will publish that is not stored yet, and what it will pretrain."""
        stage = self.stages[name]
        stage.led = True
        longest = stage.longest(config.first_stage)
        if new := {epoch for epoch in publish | own_prefix(config) if epoch > longest}:
            self.leads[config.id] = Lead(name, frozenset(new))
        if self.share and not longest:
            self.pretraining |= dict.fromkeys(set(pretraining_ids(config)) - self.pretrained, config.id)
        self.under_way[config.id] = config

    def progress(self, trial: str, epochs: int) -> None:
        """Hear that the trial has ``epochs`` epochs behind it, and published what it was to publish until then."""
        if epochs:  # past its start: what it pretrained is stored
            self.pretrained |= {name for name, who in self.pretraining.items() if who == trial}
        lead = self.leads.get(trial)
        if lead is None:
            return
        lead.epochs = epochs
        self.stages[lead.stage].stored |= {epoch for epoch in lead.publish if epoch <= epochs}
        if epochs >= max(lead.publish):
            del self.leads[trial]

    def end(self, trial: str) -> None:
        """Hear that the trial ended, however: nobody waits for it any more."""
        self.leads.pop(trial, None)
        if (config := self.under_way.pop(trial, None)) is not None:
            self.references -= Counter(self._used(config))
        self.pretraining = {name: who for name, who in self.pretraining.items() if who != trial}

    def needed(self) -> frozenset[str]:
        """Return patterns of the store's entries that trials waiting or under way may still use."""
        return frozenset(self.references)

    def _first(self, begins: bool) -> tuple[str, TrialConfig] | None:
        for name, stage in self.stages.items():
            if stage.waiting and not (begins and stage.led):
                leads = [lead for lead in self.leads.values() if lead.stage == name]
                for config in stage.waiting:
                    if not self._must_wait(config, stage, leads):
                        return name, config
        return None

    def _must_wait(self, config: TrialConfig, stage: FirstStageState, leads: list[Lead]) -> bool:
        """Whether a trial under way will publish a prefix for this one that is longer than any it could start from now, or
        the pretrained network that it needs."""
        longest = stage.longest(config.first_stage)
        if not longest and (self.pretraining.keys() - self.pretrained) & pretraining_ids(config).keys():
            return True
        return any(lead.epochs < epoch <= config.first_stage and epoch > longest for lead in leads for epoch in lead.publish)

    def _used(self, config: TrialConfig) -> list[str]:
        """Patterns of the entries that the trial may start from or publish."""
        prefixes = [pattern(config, epoch) for epoch in own_prefix(config)]
        return (prefixes + [f"pretrained/{name}-[0-9a-f]+" for name in pretraining_ids(config)]) if self.share else []
