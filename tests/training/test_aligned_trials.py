"""A trial whose peers' channels are matched at the switch: what it records, how it goes on, what is refused before it."""

import pytest
import torch
from helpers.first_stages import Killed, check_as_alone, kill_after, train

from mldiv import distributed
from mldiv.cli.checks import check_trials
from mldiv.config import ConfigError
from mldiv.method.architectures.cifar import CifarResNet
from mldiv.method.networks import MODELS
from mldiv.records import checked_files, study_files
from mldiv.training.loop import steps_per_epoch
from mldiv.training.worker_cache import dataset

ALIGNED = {"param_alignment": "weights", "param_weights": "layer"}


def test_it_goes_on_with_the_order_of_its_switch(tiny, tmp_path, alone):
    config = tiny.replace(**ALIGNED)
    with pytest.raises(Killed):
        train(config, tmp_path, report=kill_after(2))
    held = torch.load(tmp_path / config.id / "checkpoint.pt", weights_only=True)["pair"]["order_2"]
    assert sorted(held.tolist()) == list(range(len(held))) and not torch.equal(held, torch.arange(len(held)))
    train(config, tmp_path)
    check_as_alone(config, tmp_path / config.id, alone)
    assert torch.equal(torch.load(tmp_path / config.id / "checkpoint.pt", weights_only=True)["pair"]["order_2"], held)


def test_what_it_records(tiny, alone):
    folder = alone(tiny.replace(**ALIGNED))
    lines = [line["diversity"] for line in checked_files.read_lines(folder / "metrics.jsonl")]
    assert [line["w2_aligned"] is None for line in lines] == [True, True, False, False]
    assert lines[2]["w2_aligned"] < lines[2]["w2_per_weight"] and 0 < lines[2]["w2_by_layer"] < 4
    switch = study_files.read_trial(folder).switch["param_distance"]
    assert 0 < switch < lines[1]["w2_by_layer"]  # of the same networks, not aligned
    assert all(line["w2_aligned"] is None for line in _diversity(alone(tiny)))


def _diversity(folder):
    return [line["diversity"] for line in checked_files.read_lines(folder / "metrics.jsonl")]


class Undeclared(CifarResNet):
    channel_groups = None


def test_a_network_that_declares_no_channels_is_refused_before_any_work(tiny, monkeypatch):
    monkeypatch.setitem(MODELS, "undeclared", lambda classes, channels, width, size: Undeclared(1, classes, channels, width))
    check_trials([tiny.replace(arch="undeclared")])
    with pytest.raises(ConfigError, match="Undeclared declares no channel_groups"):
        check_trials([tiny.replace(arch="undeclared"), tiny.replace(arch="undeclared", param_alignment="activations")])


def test_a_rank_with_one_image_of_a_batch_is_refused(tiny, monkeypatch):
    """The feature term compares those of a rank's batch: of one image it would be no number."""
    monkeypatch.setattr(distributed, "size", lambda: 4)
    config, data = tiny.replace(batch_size=4), dataset(tiny)
    with pytest.raises(ConfigError, match="batch_size = 4 leaves each of 4 workers one image"):
        steps_per_epoch(config, data)
    assert steps_per_epoch(config.replace(batch_size=8), data) == 8
    assert steps_per_epoch(config.replace(alpha=0.0, beta=0.0), data) == 16
