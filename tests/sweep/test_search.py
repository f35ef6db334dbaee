"""How a search asks: conditional settings, weights that can be 0, several seeds, several objectives, importance."""

import math

import numpy as np
import optuna
import pytest
from helpers.fake_trials import ask, finish, train_all
from optuna.trial import TrialState

from mldiv.config import ConfigError, TrialConfig
from mldiv.method.kernels import KERNELS, kernel_parameters
from mldiv.records import checked_files, study_files
from mldiv.records.contents import TrialRecord
from mldiv.records.study_files import trial_folder
from mldiv.settings.setting import Log, Steps
from mldiv.sweep.arm import make_arm
from mldiv.sweep.common_points import common_points
from mldiv.sweep.plan import IMPORTANCE_TRIALS, Plan, search_seeds
from mldiv.sweep.search_space import OR_ZERO, RANGES, RESTARTED, effective, kernels_own, suggest

BASE = TrialConfig(data="digits", epochs=12, switch_epoch=8)
KERNEL = ("alpha", "beta", "kernel", *kernels_own())


def test_a_kernels_own_parameter_is_searched_with_that_kernel_only():
    fixed = {name: make_arm(name, BASE, {"kernel": name}, KERNEL).searched for name in ("cosine", "rbf", "polynomial")}
    assert fixed["cosine"] == ("alpha", "beta")
    assert fixed["rbf"] == ("alpha", "beta", "kernel_width")
    assert fixed["polynomial"] == ("alpha", "beta", "kernel_degree")
    assert make_arm("parameter diversity", BASE, {"beta": 0.0}, KERNEL).searched == ("alpha",)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        trial = study.ask()
        config = suggest(trial, BASE, KERNEL, RANGES | kernels_own())
        own = {name.removeprefix("kernel_") for name in trial.params if name.startswith("kernel_")}
        assert own == set(kernel_parameters(config.kernel))
        seen.add(config.kernel)
    assert seen == set(KERNELS)


def test_the_temperature_of_peers_that_do_not_teach_each_other_is_not_searched():
    arm = make_arm("single", BASE, {"mutual_weight": 0.0, "alpha": 0.0, "beta": 0.0}, ("lr", "temperature", "alpha"))
    assert arm.searched == ("lr",)
    taught = make_arm("taught", BASE, {"peers": 1, "teacher": "pretrained"}, ("lr", "temperature", "alpha"))
    assert taught.searched == ("lr", "temperature")


def test_the_weight_of_the_prior_is_not_searched_where_there_is_none():
    arm = make_arm("twin", BASE, {"posterior": "deterministic"}, ("lr", "kl_weight", "alpha"))
    assert arm.searched == ("lr", "alpha")


def test_a_weight_can_be_zero_and_else_lies_in_its_range(tmp_path):
    arm = make_arm("searched", BASE, {}, ("alpha", "beta"), OR_ZERO)
    plan = Plan([arm], tmp_path, samples=60, seeds=(1,))
    drawn = [config for config in train_all(plan, tmp_path) if config.seed == 0]
    for name, smallest, largest in (("alpha", 0.01, 4), ("beta", 0.01, 4)):
        values = np.array([getattr(config, name) for config in drawn])
        assert (values == 0).any() and values[values > 0].min() >= smallest and values.max() <= largest
    assert (drawn[0].alpha, drawn[0].beta) == (BASE.alpha, BASE.beta)
    chosen = arm.chosen()
    assert chosen is not None and chosen.id in {config.id for config in drawn}


@pytest.mark.parametrize(
    ("name", "value", "ranges"),
    [
        ("kl_weight", 0.01, RANGES), ("alpha", 9.0, RANGES), ("alpha", 9.0, OR_ZERO), ("beta", 0.004, OR_ZERO),
        ("temperature", 0.1, RANGES), ("kernel_width", 20.0, RANGES), ("kernel_degree", 6, RANGES), ("switch_epoch", 1, RANGES),
    ],
)  # fmt: skip
def test_a_search_begins_at_a_value_that_was_set_beyond_its_range_and_widens_to_it(tmp_path, name, value, ranges):
    """Optuna warns of a fixed parameter out of its range, and looks for better ones on one side of it alone."""
    base = BASE.replace(kernel="polynomial" if name == "kernel_degree" else "rbf", **{name: value})
    arms = [make_arm("fixed", base, {"lr": 1.0}, (name,), ranges), make_arm("searched", base, {}, (name,), ranges)]
    drawn = train_all(Plan(arms, tmp_path, samples=12, seeds=(1,)), tmp_path)
    assert getattr(drawn[0], name) == value
    for arm in arms:
        bounds = arm.study.trials[-1].distributions[name]
        assert bounds.low <= value <= bounds.high


def test_a_term_that_is_off_is_not_searched(tmp_path):
    """As `kernel_sweep.py --set alpha=0`: its weight stays 0, on a log scale it could not even begin there."""
    for ranges in (RANGES, OR_ZERO):
        arm = make_arm("feature term alone", BASE.replace(alpha=0.0), {}, ("alpha", "beta"), ranges)
        drawn = train_all(Plan([arm], tmp_path, samples=4, seeds=(1,)), tmp_path)
        assert {config.alpha for config in drawn} == {0.0} and len({config.beta for config in drawn}) > 1
    assert make_arm("no prior", BASE.replace(kl_weight=0.0), {}, ("lr", "kl_weight")).searched == ("lr",)


def test_points_in_common_are_drawn_around_the_value_of_an_arm_that_searches_it():
    """The first arm may fix the setting elsewhere."""
    arms = [make_arm("fixed", BASE, {"lr": 10.0}, ("lr", "alpha")), make_arm("searched", BASE, {}, ("lr", "alpha"))]
    for point in common_points(arms, 10, (), 0)["searched"]:
        assert BASE.lr / 4 <= point["lr"] <= BASE.lr * 2


def test_an_arm_of_other_epochs_has_its_points_in_its_own_range():
    """As far along it as the others' are; arms of one range have the same points."""
    base, short, long = TrialConfig(epochs=30, switch_epoch=20), {"epochs": 24}, {"epochs": 60}
    arms = [make_arm(name, base, changes, ("switch_epoch", "alpha")) for name, changes in (
        ("usual", {}), ("rbf", {"kernel": "rbf"}), ("short", short), ("long", long),
    )]  # fmt: skip
    points = common_points(arms, 10, (), 0)
    assert points["usual"] == points["rbf"] and len({point["switch_epoch"] for point in points["usual"]}) > 3
    for name, whole in (("usual", 30), ("short", 24), ("long", 60)):
        for own, usual in zip(points[name], points["usual"], strict=True):
            assert whole // 3 <= own["switch_epoch"] <= whole * 5 // 6 and own["alpha"] == usual["alpha"]
            along, usually = (
                (point["switch_epoch"] - of // 3) / (of * 5 // 6 - of // 3) for point, of in ((own, whole), (usual, 30))
            )
            assert along == pytest.approx(usually, abs=0.1)


def test_a_search_on_a_log_scale_that_would_begin_at_zero_is_refused():
    arm = make_arm("searched", BASE, {}, ("mean_weight_decay",), {"mean_weight_decay": Log(1e-5, 1e-3)})
    assert common_points([arm], 0, (), 0) == {"searched": []}, "where nothing is searched nothing is refused"
    with pytest.raises(ConfigError, match=r"mean_weight_decay = 0.0: a search on a log scale .* greater than zero"):
        common_points([arm], 1, (), 0)


def test_a_range_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"the range of 'lr' is \(0.1, 1\): expected one such as Log\(low, high\)"):
        make_arm("searched", BASE, {}, ("lr",), {"lr": (0.1, 1)})
    for wrong in (lambda: Log(10, 1), lambda: Log(0, 1), lambda: Steps(3, 2)):
        with pytest.raises(ConfigError, match=r"expected .*low <"):
            wrong()


def test_batches_for_the_scales_are_no_idle_setting_where_the_gradients_lengths_need_them():
    """Without the feature term too: with them the parameter term's strength is measured, or whose channels are whose."""
    gradient = BASE.replace(weighting="gradient", scale_batches=3)
    aligned = gradient.replace(beta=0.0, weighting="raw", param_alignment="activations")
    assert effective(gradient.replace(beta=0.0)).scale_batches == effective(aligned).scale_batches == 3
    for idle in (gradient.replace(alpha=0.0, beta=0.0), gradient.replace(beta=0.0, weighting="raw")):
        assert effective(idle).scale_batches == BASE.scale_batches != 3


def test_a_study_gives_a_range_as_a_setting_declares_its_own():
    arm = make_arm("searched", BASE, {}, ("clip_norm", "lr"), {"clip_norm": Log(1.0, 10.0)})
    for point in common_points([arm], 10, (), 0)["searched"]:
        assert 1 <= point["clip_norm"] <= 10
        assert BASE.lr / 4 <= point["lr"] <= BASE.lr * 2
    with pytest.raises(ConfigError, match=r"for which it has no range: give it ranges=\{'clip_norm': Log\(low, high\)\}"):
        make_arm("searched", BASE, {}, ("clip_norm",))
    with pytest.raises(ConfigError, match="searches 'learning_rate', for which it has no range; known: alpha, "):
        make_arm("searched", BASE, {}, ("learning_rate",))


@pytest.mark.parametrize("name", sorted(RESTARTED))
def test_what_shapes_a_stage_two_that_restarts_is_tuned_for_an_arm_without_terms_too(name):
    plain, ranges = {"alpha": 0.0, "beta": 0.0}, {"stage_two_warmup_epochs": Log(0.1, 2.0)}
    assert make_arm("plain", BASE, plain, (name,), ranges).searched == (name,)
    once = BASE.replace(stage_schedule="continue")
    assert make_arm("plain", once, plain, (name,), ranges).searched == ()
    assert make_arm("both", once, {}, (name,), ranges).searched == (("switch_epoch",) if name == "switch_epoch" else ())


def noisy(config):
    """A valley whose floor differs by seed: 0 says alpha 0.1, the mean over seeds says alpha 1."""
    return math.log10(config.alpha + 1e-9) ** 2 + (2 * math.log10(config.alpha + 1e-9) if config.seed == 0 else 0)


def train_noisy(plan, folder):
    asked = []
    while (task := plan.ask()) is not None:
        record = TrialRecord(task.config.id, checked_files.finite(vars(task.config)), status="finished")
        record.validation = {"pair": {"nll": noisy(task.config), "ece": task.config.beta}}
        study_files.write_trial(trial_folder(folder, task.config.id), record)
        asked.append(task.config)
        plan.progress(task.config.id, task.config.epochs)
        plan.tell(task.config.id, record)
    return asked


def test_each_suggestion_is_judged_by_its_mean_over_the_search_seeds(tmp_path):
    def search(folder, seeds):
        plan = Plan([make_arm("x", BASE, {}, ("alpha",))], folder, samples=12, seeds=(1,), search_seeds=search_seeds(seeds))
        return plan, train_noisy(plan, folder)

    plan, asked = search(tmp_path / "five", 5)
    assert len(asked) == plan.trials() == 12 * 5 + 1 and plan.done
    assert {config.seed for config in asked} == {0, 10_001, 10_002, 10_003, 10_004, 1}
    study = plan.arms[0].study
    for trial, config in zip(study.trials, plan.arms[0].suggested, strict=True):
        expected = np.mean([noisy(config.replace(seed=seed)) for seed in search_seeds(5)])
        assert trial.value == pytest.approx(expected)
    alone, _ = search(tmp_path / "one", 1)
    assert abs(math.log10(plan.arms[0].chosen().alpha)) < abs(math.log10(alone.arms[0].chosen().alpha))
    again = Plan([make_arm("x", BASE, {}, ("alpha",))], tmp_path / "five", samples=12, seeds=(1,), search_seeds=search_seeds(5))
    assert again.ask() is None and again.done and again.recorded == 61


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        (("finished", "finished"), TrialState.COMPLETE),
        (("finished", "stopped"), TrialState.PRUNED),
        (("stopped", "diverged"), TrialState.FAIL),
        (("finished", None), TrialState.FAIL),
    ],
)
def test_a_suggestion_ends_as_its_worst_seed(tmp_path, ends, state):
    plan = Plan([make_arm("x", BASE, {}, ("alpha",))], tmp_path, samples=1, seeds=(1,), search_seeds=(0, 10_001))
    for config, status in zip(ask(plan), ends, strict=True):
        plan.tell(config.id, finish(tmp_path, config, status) if status else None)
    assert plan.arms[0].study.trials[0].state == state


def test_two_objectives_choose_the_fronts_point_nearest_to_the_ideal(tmp_path):
    """Each in the front's own range: the one of the ECE is a hundredth of the NLL's, and counts as much."""

    def scores(config):
        place = math.log10(config.alpha)
        return {"nll": (place + 1) ** 2, "ece": (place - 1) ** 2 / 100}

    arm = make_arm("x", BASE, {}, ("alpha",))
    plan = Plan([arm], tmp_path, samples=12, seeds=(1,), rule="validation_nll_and_ece")
    while (task := plan.ask()) is not None:
        record = TrialRecord(task.config.id, checked_files.finite(vars(task.config)), status="finished")
        record.validation = {"pair": scores(task.config)}
        study_files.write_trial(trial_folder(tmp_path, task.config.id), record)
        plan.progress(task.config.id, task.config.epochs)
        plan.tell(task.config.id, record)
    values = np.array([trial.values for trial in arm.study.trials])
    front = np.array([row for row in values if not any((other <= row).all() and (other < row).any() for other in values)])
    low, span = front.min(0), np.ptp(front, 0)
    best = front[(((front - low) / span) ** 2).sum(1).argmin()]
    assert len(front) >= 3
    assert tuple(best) != tuple(front[((front - low) ** 2).sum(1).argmin()]), "raw units would choose the same"
    assert tuple(scores(arm.chosen()).values()) == tuple(best)


def test_importance_names_what_matters(tmp_path):
    arm = make_arm("x", BASE, {}, ("alpha", "temperature"))
    plan = Plan([arm], tmp_path, samples=40, seeds=(1,))
    train_noisy(plan, tmp_path)
    found = plan.importance()["x"]
    assert sum(found.values()) == pytest.approx(1) and found["alpha"] > 0.8
    few = Plan([make_arm("x", BASE, {}, ("alpha",))], tmp_path / "few", samples=IMPORTANCE_TRIALS - 1, seeds=(1,))
    train_noisy(few, tmp_path / "few")
    assert few.importance() == {}


def test_single_networks_are_chosen_by_their_own_scores(tmp_path):
    """The pair likes small alphas, its peers large ones."""
    found = {}
    for member in ("pair", "peers"):
        plan = Plan([make_arm("x", BASE, {}, ("alpha",), scored_by=member)], tmp_path / member, samples=8, seeds=(1,))
        while (task := plan.ask()) is not None:
            alpha = task.config.alpha
            record = TrialRecord(task.config.id, checked_files.finite(vars(task.config)), status="finished")
            record.validation = {"pair": {"nll": alpha}, "peer_1": {"nll": 1 / alpha}, "peer_2": {"nll": 3 / alpha}}
            plan.tell(task.config.id, record)
        values = [trial.value for trial in plan.arms[0].study.trials]
        alphas = [config.alpha for config in plan.arms[0].suggested]
        assert values == pytest.approx(alphas if member == "pair" else [2 / alpha for alpha in alphas])
        found[member] = plan.arms[0].chosen().alpha, alphas
    assert found["pair"][0] == min(found["pair"][1]) and found["peers"][0] == max(found["peers"][1])
