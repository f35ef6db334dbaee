"""Trials of one, two or more peers; what was stored before there was a choice."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.first_stages import Killed, check_as_alone, kill_after, train

from mldiv.config import INITIALIZATIONS, ConfigError
from mldiv.records import checked_files, study_files
from mldiv.training.pretraining import pretraining_ids, purposes


def lines(folder):
    return list(checked_files.read_lines(folder / "metrics.jsonl"))


def test_a_network_alone(once, tiny):
    """It learns from the data; nothing that takes two is in its record."""
    config = tiny.replace(peers=1)
    folder = once(config) / config.id
    record = study_files.read_trial(folder)
    assert record.status == "finished" and record.switch == {} and record.cost["pretraining_epochs_trained"] == 0
    assert set(record.test) == {"peer_1", "pair"} and record.test["pair"] == record.test["peer_1"]
    assert record.uncertainty["pair"]["error_auroc_entropy"] is not None
    for line in lines(folder):
        assert line["stage"] == 1 + (line["epoch"] >= config.switch_epoch) and set(line["diversity"]) == {"norm_1", "sigma_1"}
        assert line["train"]["mutual_1"] == 0 and line["train"]["feature_kl"] is None
        expected = line["train"]["nll_1"] + config.kl_weight * line["train"]["kl_1"]
        assert line["train"]["total"] == pytest.approx(expected, rel=1e-5)
    assert set(pd.read_parquet(folder / "predictions.parquet")["member"]) == {"peer_1", "pair"}


def test_four_peers(once, tiny):
    """Their pair is all of them together, what differs is the mean over pairs of them."""
    config = tiny.replace(peers=4)
    folder = once(config) / config.id
    record, found = study_files.read_trial(folder), lines(folder)
    assert record.status == "finished" and record.switch["feature_kl"] > 0
    assert record.cost["pretraining_epochs_trained"] == 3 * config.pretrain_epochs
    names = [f"peer_{number}" for number in (1, 2, 3, 4)]
    assert list(record.test) == [*names, "pair"]
    assert {f"norm_{number}" for number in (1, 2, 3, 4)} < set(found[-1]["diversity"])
    assert found[-1]["train"]["param_diversity"] != 0 and found[-1]["stage"] == 2
    frame = pd.read_parquet(folder / "predictions.parquet")
    probability = {name: frame[frame["member"] == name]["label_probability"].to_numpy() for name in [*names, "pair"]}
    np.testing.assert_allclose(np.mean([probability[name] for name in names], 0), probability["pair"], rtol=1e-4, atol=1e-7)
    assert len({value.tobytes() for value in probability.values()}) == 5


def test_four_peers_resume_bit_for_bit(tiny, tmp_path, alone):
    config = tiny.replace(peers=4)
    with pytest.raises(Killed):
        train(config, tmp_path, report=kill_after(2))
    train(config, tmp_path)
    check_as_alone(config, tmp_path / config.id, alone)


def test_peers_start_from_networks_of_their_own(tiny):
    def given(initialization, peers):
        return purposes(tiny.replace(initialization=initialization, peers=peers))

    assert [given(name, 2) for name in INITIALIZATIONS] == [
        [(2, "pretrain")],
        [],
        [(1, "pretrain peer 1"), (2, "pretrain")],
        [(1, "pretrain"), (2, "pretrain")],
    ]
    assert given("scratch_pretrained", 1) == []
    assert given("pretrained_same", 3) == [(1, "pretrain"), (2, "pretrain"), (3, "pretrain")]
    for name, networks in (("scratch_pretrained", 3), ("pretrained", 4)):
        found = given(name, 4)
        assert [peer for peer, _ in found] == list(range(5 - networks, 5))
        assert len({purpose for _, purpose in found}) == networks
    assert set(pretraining_ids(tiny)) < set(pretraining_ids(tiny.replace(peers=4))), "the second peer's network is shared"


@pytest.mark.parametrize("peers", [0, 9])
def test_too_few_or_too_many(tiny, peers):
    with pytest.raises(ConfigError, match=f"peers = {peers}: must be at"):
        tiny.replace(peers=peers)


def test_a_checkpoint_of_before_goes_on(tiny, tmp_path, alone):
    """As mldiv 0.5.0 left it: the fusion's modules have other names, the record knows no number of peers."""
    with pytest.raises(Killed):
        train(tiny, tmp_path, report=kill_after(2))
    folder = tmp_path / tiny.id
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    names = {"fusion.peer_1": "fusion.first", "fusion.peer_2": "fusion.second"}
    saved["pair"] = {_renamed(name, names): value for name, value in saved["pair"].items()}
    assert {name.split(".")[1] for name in saved["pair"] if name.startswith("fusion.")} == {"first", "second"}
    torch.save(saved, folder / "checkpoint.pt")
    record = study_files.read_trial(folder)
    assert record.config.pop("peers") == 2
    study_files.write_trial(folder, record)
    train(tiny, tmp_path)
    expected = alone(tiny)
    assert lines(folder)[-1]["train"] == lines(expected)[-1]["train"]
    assert study_files.read_trial(folder).test == study_files.read_trial(expected).test


def _renamed(name, names):
    return next((name.replace(new, old) for new, old in names.items() if name.startswith(new)), name)


def test_peers_of_a_trial_are_all_unlike(once, tiny):
    config = tiny.replace(peers=4)
    state = torch.load(once(config) / config.id / "checkpoint.pt", weights_only=True)["pair"]
    for mean, other in itertools.combinations([state[f"peer_{number}.mean"] for number in (1, 2, 3, 4)], 2):
        assert not torch.equal(mean, other)
