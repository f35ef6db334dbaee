"""The order: every trial once, nothing trained twice, nobody waits in vain. By simulation with a fake clock."""

import functools
import random
import re
from collections import Counter, defaultdict
from contextlib import contextmanager

import pytest
import torch

from mldiv.config import TrialConfig
from mldiv.storage.cache import Store
from mldiv.sweep.queue import TrialQueue
from mldiv.training.first_stage import SharedFirstStage, first_stage_id
from mldiv.training.pretraining import pretraining_ids

CPU = torch.device("cpu")
BASE = TrialConfig(epochs=6, switch_epoch=4, pretrain_epochs=2, initialization="scratch", stage_schedule="continue")


def seeds(few, many):
    """A parametrisation: the first ``few`` plans in every run, the others up to ``many`` in the long one."""
    parts = [pytest.param(range(few), id="few"), pytest.param(range(few, many), id="many", marks=pytest.mark.slow)]
    return pytest.mark.parametrize("seeds", parts)


@contextmanager
def numbered(seed):
    """What goes wrong inside says with which seed."""
    try:
        yield random.Random(seed)
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise


@functools.cache
def trials(seed, count=12):
    """Different trials of a few first stages: seeds, temperatures, starts, arms, switch epochs from 0 to never."""
    draw, found = random.Random(seed), {}
    while len(found) < count:
        weights = draw.choice([{}, {}, {"alpha": 0.0}, {"alpha": 0.0, "beta": 0.0}])
        config = BASE.replace(
            seed=draw.randrange(2), temperature=draw.choice([2.0, 3.0]), kernel=draw.choice(["rbf", "cosine", "linear"]),
            initialization=draw.choice(["scratch", "scratch_pretrained", "scratch_pretrained", "pretrained"]),
            switch_epoch=draw.randrange(BASE.epochs + 1), test_samples=draw.choice([5, 20]), **weights,
        )  # fmt: skip
        found[config.id] = config
    return list(found.values())


class Running:
    """A trial in training on a group."""

    def __init__(self, task, begin, pretraining):
        self.config, self.epochs, self.begin, self.pretraining = task.config, begin, begin, pretraining
        own = {task.config.switch_epoch} if task.config.diverse else set()
        last = min(task.config.first_stage, task.config.epochs - 1)
        self.publish = {epoch for epoch in own | set(task.publish) if begin < epoch <= last}
        self.reported = False


class World:
    """Groups, a store and a clock that ticks an epoch of any trial; ``queue`` is asked whenever a group is free."""

    def __init__(self, groups, draw, fails=0.0, switches=()):
        self.queue, self.groups, self.draw, self.fails = TrialQueue(switches=switches), groups, draw, fails
        self.waiting, self.running, self.order = {}, {}, []
        self.stored, self.pretrained = defaultdict(set), set()
        self.trained = self.shared = self.pretraining = 0

    def add(self, config):
        self.waiting[config.id] = config
        self.queue.add(config)

    def run(self, later=()):
        """Until all is trained. later: trials that come in meanwhile."""
        later = list(later)
        while self.waiting or self.running or later:
            if later and (self.draw.random() < 0.3 or not self.running):
                self.add(later.pop())
            self.fill()
            assert self.running or not self.waiting, "nothing is under way and trials wait"
            if self.running:
                self.tick(self.draw.choice(list(self.running.values())))

    def fill(self):
        while len(self.running) < self.groups and (task := self.queue.take()) is not None:
            self.start(task)

    def start(self, task):
        config = self.waiting.pop(task.config.id)  # KeyError: handed out twice, or never added
        stage = first_stage_id(task.config)
        assert task.config == config
        begin = max((epoch for epoch in self.stored[stage] if epoch <= config.first_stage), default=0)
        for other in self.running.values():
            if first_stage_id(other.config) == stage:
                useful = {epoch for epoch in other.publish if other.epochs < epoch <= config.first_stage}
                assert max(useful, default=0) <= begin, "started although another still publishes a longer prefix for it"
        missing = [name for name in pretraining_ids(config) if name not in self.pretrained] if begin == 0 else []
        under_way = {name for other in self.running.values() if not other.reported for name in other.pretraining}
        assert not under_way & set(missing), "started although another still pretrains its network"
        self.pretraining += config.pretrain_epochs * len(missing)
        self.shared += begin
        self.order.append(config)
        self.running[config.id] = Running(task, begin, missing)

    def tick(self, trial):
        """An epoch, or the report of a start from the store, or the end."""
        fails = self.draw.random() < self.fails
        if trial.epochs < trial.config.epochs and (not fails or self.draw.random() < 0.5):
            if trial.reported or not trial.begin:
                trial.epochs += 1
                self.trained += 1
            trial.reported = True
            self.pretrained |= set(trial.pretraining)
            self.stored[first_stage_id(trial.config)] |= {epoch for epoch in trial.publish if epoch <= trial.epochs}
            if not fails:  # else it is stored, and nobody hears of it
                self.queue.progress(trial.config.id, trial.epochs)
                return
        del self.running[trial.config.id]
        self.queue.end(trial.config.id)


def by_first_stage(configs):
    found = defaultdict(list)
    for config in configs:
        found[first_stage_id(config)].append(config)
    return found.values()


def fewest_epochs(configs, switches=()):
    """Of each first stage the longest needed prefix once, the rest of those that go on alone, every second stage. Where a trial
    goes on alone, all switches that others might have are prefixes."""
    total = 0
    for alike in by_first_stage(configs):
        alone = switches if any(not config.diverse for config in alike) else ()
        prefix = max((*alone, *(config.switch_epoch for config in alike if config.diverse)), default=0)
        total += prefix + sum(config.epochs - (config.switch_epoch if config.diverse else prefix) for config in alike)
    return total


def fewest_pretrainings(configs):
    return BASE.pretrain_epochs * len({name for config in configs for name in pretraining_ids(config)})


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
@seeds(12, 40)
def test_every_trial_once_and_no_epoch_twice(seeds, groups):
    for seed in seeds:
        with numbered(seed) as draw:
            configs = trials(seed, draw.randrange(1, 16))
            world = World(groups, draw)
            for config in configs:
                world.add(config)
            world.run()
            assert Counter(world.order) == Counter(configs)
            assert world.trained == fewest_epochs(configs)
            assert world.trained + world.shared == BASE.epochs * len(configs)
            assert world.pretraining == fewest_pretrainings(configs)
            assert world.queue.take() is None and not world.queue.needed()


@pytest.mark.parametrize("groups", [1, 2, 5])
@pytest.mark.parametrize("fails", [0.05, 0.5, 1.0])
@seeds(10, 25)
def test_trials_that_end_early_hold_up_nobody(seeds, groups, fails):
    """They end at any moment, before their first epoch too: the rest is trained all the same."""
    for seed in seeds:
        with numbered(seed) as draw:
            configs = trials(seed)
            world = World(groups, draw, fails)
            for config in configs:
                world.add(config)
            world.run()
            assert Counter(world.order) == Counter(configs)
            assert world.queue.take() is None and not world.queue.needed()


@pytest.mark.parametrize("groups", [1, 2, 5])
@pytest.mark.parametrize("fails", [0.0, 0.1])
@seeds(10, 25)
def test_trials_that_come_later(seeds, groups, fails):
    """As searches ask and repeats follow them."""
    for seed in seeds:
        with numbered(seed) as draw:
            configs = trials(seed)
            world = World(groups, draw, fails)
            world.run(later=configs)
            assert Counter(world.order) == Counter(configs)


SWITCHES = range(BASE.epochs)


@pytest.mark.parametrize("groups", [1, 2, 5])
@seeds(10, 25)
def test_switches_known_before_are_published_for_trials_that_come_later(seeds, groups):
    """One at a time, no epoch is trained twice in whatever order they come; side by side, if all are there at the start."""
    for seed in seeds:
        with numbered(seed) as draw:
            configs = trials(seed)
            world = World(groups, draw, switches=SWITCHES)
            for config in configs if groups > 1 else ():
                world.add(config)
            world.run(later=configs if groups == 1 else ())
            assert Counter(world.order) == Counter(configs)
            assert world.trained == fewest_epochs(configs, SWITCHES)
            assert world.pretraining == fewest_pretrainings(configs)


def test_without_sharing_they_go_as_they_come():
    """All at once: nobody waits, nothing is published for others, nothing is needed."""
    configs, queue = trials(0), TrialQueue(share=False, switches=SWITCHES)
    for config in configs:
        queue.add(config)
    assert not queue.needed()
    for config in configs:
        task = queue.take()
        assert task.config == config and task.publish == ()
    assert queue.take() is None
    for config in configs:
        queue.progress(config.id, 6)
        queue.end(config.id)
    assert queue.take() is None


@seeds(10, 25)
def test_without_a_report_of_its_start_a_trial_still_frees_those_who_wait(seeds):
    """Progress is heard late, or never: the end counts too."""
    for seed in seeds:
        with numbered(seed):
            queue = TrialQueue()
            configs = trials(seed)
            for config in configs:
                queue.add(config)
            handed = []
            for _ in range(len(configs)):
                task = queue.take()
                handed.append(task.config)
                queue.end(task.config.id)
            assert Counter(handed) == Counter(configs) and queue.take() is None


class BeginsFirst(World):
    """Hands out a trial whose first stage has been begun only when all trials of the others wait for a pretraining."""

    def __init__(self, groups, draw):
        super().__init__(groups, draw)
        self.begun = set()

    def start(self, task):
        pretraining = {name for other in self.running.values() if not other.reported for name in other.pretraining}
        if first_stage_id(task.config) in self.begun:
            for config in self.waiting.values():
                assert first_stage_id(config) in self.begun or set(pretraining_ids(config)) & pretraining
        self.begun.add(first_stage_id(task.config))
        super().start(task)


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
@seeds(8, 20)
def test_begins_come_before_branches(seeds, groups):
    for seed in seeds:
        with numbered(seed) as draw:
            world = BeginsFirst(groups, draw)
            for config in trials(seed):
                world.add(config)
            world.run()


class Watched(World):
    """Looks before every tick at what the queue says is needed; ``names`` are the prefixes of the trials' own switches."""

    def __init__(self, groups, draw, names):
        super().__init__(groups, draw)
        self.names, self.sizes = names, []

    def tick(self, trial):
        needed = [re.compile(pattern) for pattern in self.queue.needed()]
        opened = [*self.waiting.values(), *(other.config for other in self.running.values())]
        prefixes = {self.names[config.id] for config in opened if config.diverse and config.switch_epoch}
        networks = {f"pretrained/{name}-0123456789abcdef" for config in opened for name in pretraining_ids(config)}
        matched = {name for name in {*self.names.values(), *networks} if any(pattern.fullmatch(name) for pattern in needed)}
        assert matched == prefixes | networks
        self.sizes.append(len(needed))
        super().tick(trial)


@pytest.mark.parametrize("groups", [1, 3])
@seeds(2, 5)
def test_needed_matches_the_names_of_what_is_open_and_shrinks(seeds, groups, tiny_data, tmp_path):
    for seed in seeds:
        with numbered(seed) as draw:
            configs = trials(seed)
            names = {
                config.id: SharedFirstStage(config, tiny_data, Store(tmp_path), CPU).name(config.switch_epoch)
                for config in configs
            }
            world = Watched(groups, draw, names)
            for config in configs:
                world.add(config)
            world.run()
            assert world.sizes == sorted(world.sizes, reverse=True) and world.sizes[0] > 0
            assert not world.queue.needed()
