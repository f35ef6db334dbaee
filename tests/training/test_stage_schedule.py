"""The learning rate over both stages: one schedule that goes on, or a second that begins anew; warm-ups."""

import math
import re

import pytest
import torch
from helpers.first_stages import Killed, check_as_alone, cost, differing, kill_after, results, stage_one, train

from mldiv.config import ConfigError, from_dict
from mldiv.records import checked_files
from mldiv.training.first_stage import first_stage_id
from mldiv.training.loop import make_optimizer, make_pair, set_rates, stage_rate, warmup
from mldiv.training.worker_cache import dataset

RESTART = {"stage_schedule": "restart", "stage_two_lr_scale": 0.5}


def cosine(rate, epoch, epochs):
    return rate / 2 * (1 + math.cos(math.pi * epoch / epochs))


def test_a_stage_two_that_restarts_has_a_schedule_of_its_own(tiny):
    config = tiny.replace(epochs=5, switch_epoch=2, lr=0.1, **RESTART)
    expected = [cosine(0.1, 0, 2), cosine(0.1, 1, 2), *(cosine(0.05, epoch, 3) for epoch in range(3))]
    assert [stage_rate(config, epoch) for epoch in range(5)] == pytest.approx(expected)
    steps = config.replace(schedule="step", epochs=6)
    assert [stage_rate(steps, epoch) for epoch in range(6)] == pytest.approx([0.1, 0.01, 0.05, 0.05, 0.005, 0.0005])


def test_one_that_continues_does_not(tiny):
    config = tiny.replace(epochs=5, switch_epoch=2, lr=0.1, stage_schedule="continue")
    assert [stage_rate(config, epoch) for epoch in range(5)] == pytest.approx([cosine(0.1, epoch, 5) for epoch in range(5)])


def test_warm_ups(tiny):
    """Of all peers over the first epoch and a half, of pretrained ones over two; over the first half epoch of stage two."""
    config = tiny.replace(
        schedule="constant", lr=0.1, epochs=5, switch_epoch=3, stage_schedule="restart", stage_two_warmup_epochs=0.5,
        warmup_epochs=1.5, pretrained_warmup_epochs=2.0, rho_lr_scale=10.0,
    )  # fmt: skip
    pair = make_pair(config, dataset(config).shapes)
    optimizer = make_optimizer(config, pair)

    def rates(epoch, done):
        set_rates(config, optimizer, epoch, done)
        return {(group["peer"], group["scale"]): group["lr"] for group in optimizer.param_groups}

    first = rates(0, 0.75)
    assert first[1, 1.0] == pytest.approx(0.05) and first[2, 1.0] == pytest.approx(0.0375)
    assert first[1, 10.0] == pytest.approx(0.5) and first[0, 1.0] == pytest.approx(0.05)
    assert rates(1, 0.5)[1, 1.0] == pytest.approx(0.1) and rates(1, 0.5)[2, 1.0] == pytest.approx(0.075)
    assert set(rates(2, 1.0).values()) == {0.1, 1.0}
    assert rates(3, 0.25)[1, 1.0] == rates(3, 0.25)[2, 1.0] == pytest.approx(0.05)
    assert set(rates(3, 0.5).values()) == {0.1, 1.0}


def test_a_stage_two_from_the_first_epoch_on_warms_up_as_a_start(tiny):
    config = tiny.replace(switch_epoch=0, warmup_epochs=2.0, pretrained_warmup_epochs=4.0)
    assert [warmup(config, epochs, False) for epochs in (0.5, 1.0, 3.0)] == [0.25, 0.5, 1.0]
    assert warmup(config, 1.0, True) == 0.25
    assert warmup(config.replace(stage_two_warmup_epochs=8.0), 1.0, True) == 0.125


def test_stage_one_of_a_restart_is_a_run_of_its_own(tiny, tmp_path):
    """It is the whole trial of as many epochs: the same peers, bit for bit; stage two begins without its momentum."""
    whole = tiny.replace(epochs=2, switch_epoch=2, alpha=0.0, beta=0.0)
    restarted = tiny.replace(alpha=0.0, beta=0.0, **RESTART)
    train(whole, tmp_path / "whole")
    train(restarted, tmp_path / "restarted")
    own, expected = (
        [line["train"] for line in checked_files.read_lines(folder / config.id / "metrics.jsonl")]
        for folder, config in ((tmp_path / "restarted", restarted), (tmp_path / "whole", whole))
    )
    assert own[:2] == expected
    last = torch.load(tmp_path / "whole" / whole.id / "checkpoint.pt", weights_only=True)
    stored = stage_one(restarted, tmp_path / "stage one")["pair"]
    assert all(torch.equal(value, last["pair"][name]) for name, value in stored.items())


def test_a_trial_that_ends_where_others_begin_stage_two_is_the_one_trained_alone(tiny, tmp_path, alone):
    """With nothing left to train it has a checkpoint too, and is not stopped; rates of a last step, which every step sets
    anew, are not in it."""
    whole = tiny.replace(epochs=2, switch_epoch=2)
    train(tiny, tmp_path)
    assert cost(train(whole, tmp_path, report=lambda line: line["epoch"] == 1)) == (0, 2, 0)
    found = differing(results(tmp_path / whole.id), results(alone(whole)))
    assert [name for name in found if not re.fullmatch(r"/checkpoint/optimizer/param_groups/\d/lr", name)] == []


@pytest.mark.parametrize(
    "changes",
    [{"alpha": 0.0, "beta": 0.0}, {"kernel": "rbf"}, {"stage_two_lr_scale": 0.1, "epochs": 5}, {"stage_two_kl_scale": 0.0}],
)
def test_arms_share_the_first_stage_of_a_restart(tiny, tmp_path, alone, led, changes):
    lead, config = tiny.replace(**RESTART), tiny.replace(**(RESTART | changes))
    led(lead, tmp_path)
    record = train(config, tmp_path)
    assert cost(record) == (config.epochs - 2, 2, 0)
    assert [line["stage"] for line in checked_files.read_lines(tmp_path / config.id / "metrics.jsonl")][1:3] == [1, 2]
    check_as_alone(config, tmp_path / config.id, alone)


@pytest.mark.parametrize("kept", [1.0, 0.25, 0.0])
def test_stage_two_weighs_the_prior_as_it_is_told(tiny, tmp_path, alone, kept):
    """Of what each epoch's line says of the terms; also of a trial that was killed within stage two."""
    config = tiny.replace(alpha=0.0, beta=0.0, stage_two_kl_scale=kept)
    with pytest.raises(Killed):
        train(config, tmp_path, report=kill_after(config.switch_epoch))
    train(config, tmp_path)
    for line in checked_files.read_lines(tmp_path / config.id / "metrics.jsonl"):
        weight = config.kl_weight * (kept if line["epoch"] >= config.switch_epoch else 1.0)
        nll, kl, mutual = (sum(line["train"][f"{name}_{number}"] for number in (1, 2)) for name in ("nll", "kl", "mutual"))
        assert kl > 0.1 and line["train"]["total"] == pytest.approx(nll + weight * kl + mutual, rel=1e-5)
    check_as_alone(config, tmp_path / config.id, alone)


def test_what_changes_the_first_stage_of_a_restart(tiny):
    config = tiny.replace(**RESTART)
    same = [{"epochs": 9}, {"alpha": 0.0, "beta": 0.0}]
    same += [{"stage_two_lr_scale": 2.0}, {"stage_two_kl_scale": 0.0}, {"stage_two_warmup_epochs": 1.0}]
    other = [{"switch_epoch": 3}, {"warmup_epochs": 1.0}, {"stage_schedule": "continue", "stage_two_lr_scale": 1.0}]
    assert {first_stage_id(config.replace(**changes)) for changes in same} == {first_stage_id(config)}
    assert len({first_stage_id(config.replace(**changes)) for changes in [{}, *other]}) == 4


def test_a_teacher_of_other_epochs_is_another_first_stage(tiny):
    """It is pretrained for as many epochs as the trial has, so that what it teaches before the switch is another thing."""
    taught = {"teacher": "pretrained", "alpha": 0.0, "beta": 0.0, "peers": 1, "posterior": "deterministic"}
    config = tiny.replace(**(RESTART | taught))
    assert first_stage_id(config.replace(epochs=9)) != first_stage_id(config)
    assert first_stage_id(config.replace(stage_two_lr_scale=2.0)) == first_stage_id(config)
    assert first_stage_id(config.replace(switch_epoch=3)) != first_stage_id(config)


@pytest.mark.parametrize("name", ["stage_two_lr_scale", "stage_two_kl_scale", "stage_two_warmup_epochs"])
def test_settings_of_a_restart_without_one_are_refused(tiny, name):
    with pytest.raises(ConfigError, match="set stage_schedule to 'restart'"):
        tiny.replace(**{name: 0.5, "stage_schedule": "continue"})


def test_a_record_from_before_a_setting_existed_was_trained_as_then(tiny):
    assert from_dict({"lr": 0.2}).stage_schedule == "continue"
