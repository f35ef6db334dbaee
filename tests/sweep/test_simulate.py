"""A plan played through without training, against a count by hand and against really training it."""

import dataclasses
import hashlib
import random
from collections import defaultdict

import pytest
import torch

from mldiv.config import TrialConfig
from mldiv.records import study_files
from mldiv.records.contents import COSTS, TrialRecord
from mldiv.records.study_files import trial_folder
from mldiv.storage.cache import Store
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan
from mldiv.sweep.simulate import first_wins, simulate
from mldiv.training.first_stage import SharedFirstStage, first_stage_id
from mldiv.training.fit import fit
from mldiv.training.pretraining import pretraining_ids
from mldiv.training.step_cost import Work

BASE = TrialConfig(epochs=12, switch_epoch=8, pretrain_epochs=3, stage_schedule="continue")
METHOD = {
    "cosine": {},
    "rbf": {"kernel": "rbf"},
    "early": {"switch_epoch": 4},
    "late": {"switch_epoch": 10, "kernel": "linear"},
}
BASELINE = {"mutual learning": {"alpha": 0.0, "beta": 0.0}}
NEVER = {"never": {"switch_epoch": 12}}

PLANS = {
    "defaults": (METHOD, (), 0),
    "defaults with a baseline": (METHOD | BASELINE, (), 0),
    "search": (METHOD, ("alpha", "beta"), 4),
    "search of first stages": (METHOD, ("temperature", "switch_epoch", "kernel"), 5),
    "two baselines": (METHOD | BASELINE | NEVER, (), 0),
    "baselines only": (BASELINE | NEVER, (), 0),
    "search with a baseline": (METHOD | BASELINE, ("alpha", "beta"), 4),
}


def any_wins(config, number):
    """A search's result by which each arm chooses as if by chance."""
    settings = repr(sorted(vars(config).items(), key=str))
    return float(int(hashlib.sha256(settings.encode()).hexdigest()[:8], 16))


def make_plan(name, folder, base=BASE, share=True):
    arms, searched, samples = PLANS[name]
    made = [make_arm(arm, base, changes, searched) for arm, changes in arms.items()]
    return Plan(made, folder, samples=samples, seeds=(1, 2), batch=2, share=share)


@pytest.fixture
def count(tiny_data, tmp_path):
    """What training a plan takes, epoch by epoch, one trial after the other; `SharedFirstStage` says what a trial stores."""

    def counted(plan, result, prefixes=(), networks=()):
        work, stored, pretrained, ended = Work(), defaultdict(set), set(networks), {}
        for stage, epoch in prefixes:
            stored[stage].add(epoch)
        while (task := plan.ask()) is not None:
            config, mine = task.config, stored[first_stage_id(task.config)]
            if config.id in ended:  # two arms have chosen the same: it is trained once
                plan.tell(config.id, ended[config.id])
                continue
            wanted = SharedFirstStage(config, tiny_data, Store(tmp_path / "none"), torch.device("cpu"), task.publish).wanted
            diverse = (config.alpha > 0 or config.beta > 0) and config.switch_epoch < config.epochs
            first_stage = config.switch_epoch if diverse else config.epochs
            begin = max([0, *(epoch for epoch in mine if epoch <= first_stage)])
            for epoch in range(begin, config.epochs):
                if epoch < first_stage:
                    work.first_stage += 1
                else:
                    work.second_stage += 1
                if epoch + 1 in wanted:
                    mine.add(epoch + 1)
                plan.progress(config.id, epoch + 1)
            work.trials, work.shared = work.trials + 1, work.shared + begin
            for name in pretraining_ids(config) if begin == 0 else ():
                work.pretraining += 0 if name in pretrained else config.pretrain_epochs
                pretrained.add(name)
            scores = {"pair": {"nll": result(config, work.trials)}}
            ended[config.id] = TrialRecord(config.id, {}, status="finished", validation=scores)
            plan.tell(config.id, ended[config.id])
        assert plan.done
        return work

    return counted


@pytest.mark.parametrize("initialization", ["scratch", "scratch_pretrained", "pretrained"])
@pytest.mark.parametrize("result", [first_wins, any_wins])
@pytest.mark.parametrize("name", PLANS)
def test_against_a_count_by_hand(tmp_path, count, name, result, initialization):
    base = BASE.replace(initialization=initialization)
    work = simulate(make_plan(name, tmp_path, base), Store(tmp_path / "store"), result)
    assert work == count(make_plan(name, tmp_path, base), result)
    assert work.asked == work.trained + work.shared == work.trials * BASE.epochs
    assert not (tmp_path / "store").exists() and not (tmp_path / "trials").exists()


@pytest.mark.parametrize("name", PLANS)
def test_without_sharing_every_trial_trains_everything(tmp_path, name):
    """Whatever is stored."""
    store = Store(tmp_path / "store")
    fill(store, {(first_stage_id(BASE.replace(seed=seed)), 8) for seed in (0, 1, 2)}, pretraining_ids(BASE.replace(seed=1)))
    work = simulate(make_plan(name, tmp_path, share=False), store, first_wins)
    assert work.trials == simulate(make_plan(name, tmp_path), store, first_wins).trials
    assert (work.shared, work.trained, work.pretraining) == (0, 12 * work.trials, 3 * work.trials)


def test_the_numbers_of_a_small_plan(tmp_path):
    """Four kernels, two seeds, nothing searched: a first stage per seed, a second stage per trial."""
    arms = [make_arm(name, BASE, {"kernel": name}, ()) for name in ("cosine", "rbf", "linear", "laplacian")]
    work = simulate(Plan(arms, tmp_path, samples=0, seeds=(1, 2)), Store(tmp_path), first_wins)
    assert work == Work(trials=8, first_stage=2 * 8, second_stage=8 * 4, shared=6 * 8, pretraining=2 * 3)
    assert (work.trained, work.asked) == (48, 96)


def fill(store, prefixes, networks):
    for stage, epoch in prefixes:
        store.publish(f"trunks/{stage}-0123456789abcdef/{epoch:05d}", {})
    for name in networks:
        store.publish(f"pretrained/{name}-0123456789abcdef", {})


@pytest.mark.parametrize("seed", range(8))
def test_what_is_stored_is_shared(tmp_path, count, seed):
    """Prefixes and pretrained networks in the store are counted; shorter ones serve longer first stages."""
    draw, store, prefixes = random.Random(seed), Store(tmp_path), {("0000000000000000", 8)}
    for number in (0, 1, 2):
        known = draw.choice([[], [2], [11], [2, 4], [4, 7], [4, 8], [4, 7, 8, 9], [4, 8, 10]])
        prefixes |= {(first_stage_id(BASE.replace(seed=number)), epoch) for epoch in known}
    networks = {name for number in draw.sample((0, 1, 2), 2) for name in pretraining_ids(BASE.replace(seed=number))}
    fill(store, prefixes, networks)
    work = simulate(make_plan("search", tmp_path), store, first_wins)
    assert work == count(make_plan("search", tmp_path), first_wins, prefixes, networks)
    assert len(store.entries()) == len(prefixes) + len(networks)
    empty = simulate(make_plan("search", tmp_path), Store(tmp_path / "none"), first_wins)
    assert empty.asked == work.asked and empty.trained >= work.trained and empty.pretraining > work.pretraining


def test_a_shorter_prefix_that_is_not_stored_is_trained(tmp_path, count):
    """The long one is there, the short one was evicted: whoever branches off early trains from the start."""
    prefixes = {(first_stage_id(BASE.replace(seed=1)), 8)}
    store = Store(tmp_path)
    fill(store, prefixes, ())
    assert simulate(make_plan("defaults", tmp_path), store, first_wins) == count(
        make_plan("defaults", tmp_path), first_wins, prefixes
    )


def test_what_is_recorded_is_not_counted(tmp_path):
    whole = simulate(make_plan("defaults", tmp_path), Store(tmp_path / "store"), first_wins)
    plan = make_plan("defaults", tmp_path)
    for _ in range(3):
        config = plan.ask().config
        plan.progress(config.id, config.epochs)
        record = TrialRecord(config.id, dataclasses.asdict(config), status="finished")
        study_files.write_trial(trial_folder(tmp_path, config.id), record)
    rest = simulate(make_plan("defaults", tmp_path), Store(tmp_path / "store"), first_wins)
    assert whole.trials == 8 and rest.trials == 5 and rest.asked == 5 * BASE.epochs


def test_a_finished_plan_asks_for_nothing(tmp_path):
    plan = make_plan("defaults", tmp_path)
    while (task := plan.ask()) is not None:
        plan.progress(task.config.id, task.config.epochs)
        record = TrialRecord(task.config.id, dataclasses.asdict(task.config), status="finished")
        study_files.write_trial(trial_folder(tmp_path, record.id), record)
        plan.tell(record.id, record)
    assert simulate(make_plan("defaults", tmp_path), Store(tmp_path / "store"), first_wins) == Work()


def test_what_two_arms_come_to_is_trained_once(tmp_path):
    """One arm's search chooses the defaults, which the other has trained by then."""
    arms = [make_arm("fixed", BASE, {}, ()), make_arm("searched", BASE, {}, ("alpha",))]
    plan = Plan(arms, tmp_path, samples=3, seeds=(1, 2))
    work = simulate(plan, Store(tmp_path / "store"), first_wins)
    assert plan.done and plan.trials() == plan.answered == 2 + 3 + 2
    assert work.trials == 2 + 3


@pytest.mark.parametrize(
    "name",
    ["search of first stages", "defaults with a baseline", pytest.param("search with a baseline", marks=pytest.mark.slow)],
)
def test_it_is_what_training_the_plan_takes(tiny, tmp_path, name):
    """Really trained, one trial after the other; the simulation is told the scores that came out."""
    base = tiny.replace(train_size=32, validation_size=16, test_size=16, test_samples=1, epochs=6, switch_epoch=3)
    base = base.replace(stage_schedule="continue")
    tamed = {"early": {"switch_epoch": 2}, "late": {"switch_epoch": 5}}
    arms, searched, _ = PLANS[name]
    arms = {arm: tamed.get(arm, changes) for arm, changes in arms.items() if arm != "rbf"}

    def new(folder):
        made = [make_arm(arm, base, changes, searched) for arm, changes in arms.items()]
        return Plan(made, folder, samples=2 if searched else 0, seeds=(1,), batch=2)

    plan, scores, store = new(tmp_path / "study"), {}, Store(tmp_path / "store")
    trained = dict.fromkeys(COSTS, 0)
    while (task := plan.ask()) is not None:
        config = task.config

        def report(line, trial=config.id):
            plan.progress(trial, line["epoch"] + 1)
            return False

        record = fit(config, trial_folder(tmp_path / "study", config.id), store=store, publish=task.publish, report=report)
        assert record.status == "finished"
        scores[config.id] = record.validation["pair"]["nll"]
        trained = {cost: trained[cost] + record.cost[cost] for cost in trained}
        plan.tell(config.id, record)
    assert plan.done
    work = simulate(new(tmp_path / "fresh"), Store(tmp_path / "other store"), lambda config, _: scores[config.id])
    assert (work.trained, work.shared, work.pretraining) == tuple(trained.values())
    assert work.trials == len(scores)
    assert trained["epochs_shared"] > 0
