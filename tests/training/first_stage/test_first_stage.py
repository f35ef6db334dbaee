"""A trial that starts from a stored prefix is the trial trained alone."""

import pytest
from helpers.first_stages import CPU, check_as_alone, cost, differing, epochs_stored, stage_one, train, without_origin

from mldiv.records import checked_files
from mldiv.storage.cache import Store
from mldiv.training import first_stage
from mldiv.training.first_stage import SharedFirstStage
from mldiv.training.worker_cache import dataset

#: Settings of both trials, and further ones of the branch.
PAIRS = [
    ({}, {}),
    ({}, {"kernel": "rbf", "fusion": "per_peer"}),
    ({}, {"alpha": 0.0, "feature_direction": "reverse"}),
    ({}, {"beta": 0.0}),
    ({}, {"param_alignment": "activations", "param_weights": "layer"}),
    ({}, {"fusion_dim": 32, "fusion_heads": 2, "fusion_lr_scale": 0.5, "test_samples": 5}),
    ({"initialization": "pretrained"}, {"kernel": "rbf", "fusion": "per_peer"}),
    ({"momentum": 0.0, "clip_norm": 0.0}, {"kernel": "rbf", "fusion": "per_peer"}),
    ({"precision": "bf16", "channels_last": True}, {"kernel": "rbf", "fusion": "per_peer"}),
    ({"optimizer": "adamw", "lr": 0.003}, {"kernel": "rbf", "fusion": "per_peer"}),
]
#: Others that take the same way.
MORE = [
    ({}, {"kernel": "polynomial", "fusion": "frozen", "alpha": 3.0}),
    ({}, {"kernel": "linear", "param_normalization": "mean", "feature_normalization": "sum"}),
    ({}, {"param_distance": "kl", "param_transform": "negative_log", "feature_transform": "softplus", "scale_batches": 1}),
    ({"peers": 3, "initialization": "scratch"}, {"param_alignment": "weights"}),
    ({"initialization": "scratch"}, {"kernel": "rbf", "fusion": "per_peer"}),
    ({"schedule": "step", "rho_lr_scale": 0.5}, {"kernel": "rbf", "fusion": "per_peer"}),
]


@pytest.mark.parametrize(("common", "branch"), [*PAIRS, *(pytest.param(*both, marks=pytest.mark.slow) for both in MORE)])
def test_a_branch_from_a_stored_prefix_is_the_trial_trained_alone(tiny, tmp_path, alone, led, common, branch):
    lead, config = tiny.replace(kernel="laplacian", alpha=0.3, **common), tiny.replace(**common, **branch)
    networks = {"scratch": 0, "pretrained": 2}.get(config.initialization, 1)
    assert cost(led(lead, tmp_path)) == (4, 0, networks)
    record = train(config, tmp_path)
    assert cost(record) == (2, 2, 0) and not record.notes
    assert [line["shared"] for line in checked_files.read_lines(tmp_path / config.id / "metrics.jsonl")] == [
        True,
        True,
        False,
        False,
    ]
    check_as_alone(config, tmp_path / config.id, alone)


@pytest.mark.parametrize("lead", [{}, {"switch_epoch": 3}, {"alpha": 0.0, "beta": 0.0, "kernel": "rbf"}, {"switch_epoch": 4}])
def test_a_baseline_goes_on_from_a_prefix_in_its_middle(tiny, tmp_path, alone, led, lead):
    baseline = tiny.replace(alpha=0.0, beta=0.0)
    led(tiny.replace(**lead), tmp_path, publish=(1, 2))
    begins = epochs_stored(tmp_path)[-1]
    assert begins == (3 if lead == {"switch_epoch": 3} else 2)
    assert cost(train(baseline, tmp_path)) == (4 - begins, begins, 0)
    check_as_alone(baseline, tmp_path / baseline.id, alone)


@pytest.mark.parametrize(
    ("order", "shared"),
    [
        ([2, 3, 1], [0, 2, 0]),
        pytest.param([1, 2, 4], [0, 1, 2], marks=pytest.mark.slow),
        ([0, 3, 0, 4], [0, 0, 0, 3]),
    ],
)
def test_a_trial_starts_from_the_longest_prefix_of_its_own_first_stage(tiny, tmp_path, alone, order, shared):
    for switch, epochs in zip(order, shared, strict=True):
        config = tiny.replace(switch_epoch=switch, kernel="rbf")
        assert cost(train(config, tmp_path))[1] == epochs, switch
        check_as_alone(config, tmp_path / config.id, alone)


def test_one_lead_publishes_for_all(tiny, tmp_path, alone, led):
    lead = tiny.replace(switch_epoch=3)
    led(lead, tmp_path, publish=(0, 1, 2, 3))
    check_as_alone(lead, tmp_path / lead.id, alone)
    for switch in (1, 2, 3):
        config = tiny.replace(switch_epoch=switch, fusion="per_peer")
        assert cost(train(config, tmp_path)) == (4 - switch, switch, 0)
        check_as_alone(config, tmp_path / config.id, alone)
    assert epochs_stored(tmp_path) == [1, 2, 3]


def test_a_prefix_made_of_prefixes_is_that_trained_at_once(tiny, tmp_path):
    for switch in (1, 2):
        train(tiny.replace(switch_epoch=switch), tmp_path)
    store = Store(tmp_path / "store")
    (name,) = (name for name in store.entries() if name.endswith("/00002"))
    state = store.read(name, CPU)
    found = {"pair": state["pair"], "momentum": state["optimizer"], "lines": without_origin(state["lines"])}
    assert differing(found, stage_one(tiny, tmp_path / "at once")) == []


def test_other_first_stages_and_environments_share_nothing(tiny, tmp_path, monkeypatch):
    train(tiny, tmp_path)
    for changes in ({"temperature": 2.0}, {"epochs": 5}, {"seed": 1}):
        assert cost(train(tiny.replace(**changes), tmp_path))[1] == 0
    monkeypatch.setattr(first_stage, "NUMBERS", -1)
    assert cost(train(tiny.replace(kernel="rbf"), tmp_path)) == (4, 0, 1)


def test_a_branch_is_stopped_where_the_trial_alone_is(tiny, tmp_path):
    def stop(line):
        return line["epoch"] == 1

    train(tiny.replace(kernel="rbf"), tmp_path)
    record = train(tiny, tmp_path, report=stop)
    assert train(tiny, tmp_path / "alone", report=stop).status == "stopped"
    assert (record.status, record.epochs) == ("stopped", 2)


@pytest.mark.parametrize(
    ("changes", "publish", "wanted"),
    [
        ({}, (), [2]),
        ({}, (1, 0, 2, 3, 9), [1, 2]),
        ({"switch_epoch": 3}, (2, 1), [1, 2, 3]),
        ({"switch_epoch": 0}, (0, 1), []),
        ({"switch_epoch": 4}, (), []),
        ({"switch_epoch": 4}, (1, 3, 4), [1, 3]),
        ({"alpha": 0.0, "beta": 0.0}, (), []),
        ({"alpha": 0.0, "beta": 0.0}, (3,), [3]),
        ({"beta": 0.0}, (), [2]),
    ],
)
def test_which_prefixes_a_trial_stores(tiny, tmp_path, changes, publish, wanted):
    config = tiny.replace(**changes)
    stage = SharedFirstStage(config, dataset(tiny), Store(tmp_path), CPU, publish)
    assert stage.wanted == wanted and stage.last == max([0, *wanted])
    assert stage.missing(0) == [stage.name(epoch) for epoch in wanted]
    assert stage.missing(1) == [stage.name(epoch) for epoch in wanted if epoch > 1]
    train(config, tmp_path, publish=publish)
    assert epochs_stored(tmp_path) == wanted
    there = SharedFirstStage(config, dataset(tiny), Store(tmp_path / "store"), CPU, publish)
    assert not any(there.wants(epoch) for epoch in range(5)) and there.missing(0) == []
    assert [epoch for epoch in range(5) if stage.wants(epoch)] == wanted
