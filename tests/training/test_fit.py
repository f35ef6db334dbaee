import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.first_stages import Killed, check_as_alone, differing, kill_after, train, without_origin

from mldiv.config import ConfigError
from mldiv.evaluation.predictive import predictives
from mldiv.records import checked_files, study_files
from mldiv.records.contents import TrialRecord
from mldiv.seeding import derive, generator
from mldiv.storage.cache import Store
from mldiv.training import fit as module
from mldiv.training.loop import Diverged, learning_rate
from mldiv.training.pretraining import pretrained
from mldiv.training.worker_cache import dataset


def lines(folder):
    return without_origin(checked_files.read_lines(folder / "metrics.jsonl"))


def pair(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["pair"]


def scores(folder):
    return study_files.read_trial(folder).test


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_resumed_is_bit_for_bit_the_uninterrupted_run(tiny, tmp_path, alone, epoch):
    with pytest.raises(Killed):
        train(tiny, tmp_path, report=kill_after(epoch))
    resumed = train(tiny, tmp_path)
    assert resumed.attempts == 2
    assert resumed.epochs == tiny.epochs
    check_as_alone(tiny, tmp_path / tiny.id, alone)


def test_killed_between_record_and_checkpoint(tiny, tmp_path, alone, monkeypatch):
    """The line of an epoch whose checkpoint was never written is replaced, not doubled."""
    saved = module.save_atomically
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "save_atomically", lambda path, state: (_ for _ in ()).throw(Killed) if state["epoch"] == 3
                      else saved(path, state))  # fmt: skip
        train(tiny, tmp_path)
    assert len(lines(tmp_path / tiny.id)) == 3
    train(tiny, tmp_path)
    assert [line["epoch"] for line in lines(tmp_path / tiny.id)] == [0, 1, 2, 3]
    check_as_alone(tiny, tmp_path / tiny.id, alone)


@pytest.mark.parametrize("fusion", ["shared", "frozen"])
def test_zero_weights_are_plain_mutual_learning_bit_for_bit(tiny, alone, fusion):
    """alpha = beta = 0 from the switch on, and no switch at all, under one schedule."""
    tiny = tiny.replace(stage_schedule="continue", fusion=fusion)
    zero, never = tiny.replace(alpha=0.0, beta=0.0), tiny.replace(switch_epoch=tiny.epochs)
    weightless, unswitched = alone(zero), alone(never)
    assert scores(weightless) == scores(unswitched)
    assert differing(pair(weightless), pair(unswitched)) == []
    assert scores(alone(tiny)) != scores(weightless)


def test_zero_weights_with_the_terms_computed(tiny, tmp_path, alone, monkeypatch):
    """The same when the terms are computed and multiplied by 0 rather than left out."""
    zero = tiny.replace(alpha=0.0, beta=0.0, fusion="frozen")
    left_out = pair(alone(zero))
    monkeypatch.setattr(type(zero), "diverse", property(lambda self: True))
    train(zero, tmp_path)
    assert lines(tmp_path / zero.id)[3]["train"]["feature_kl"] > 0
    computed = pair(tmp_path / zero.id)
    for name in ("peer_1.mean", "peer_2.mean", "peer_1.rho", "peer_2.rho"):
        assert torch.equal(computed[name], left_out[name]), name


def test_branches_share_their_first_stage(tiny, alone):
    """Weights, kernel and transform of the diversity terms touch nothing before the switch."""
    mine, theirs = lines(alone(tiny)), lines(alone(tiny.replace(alpha=3.0, kernel="rbf", param_transform="negative_log")))
    assert mine[:2] == theirs[:2]
    assert mine[2:] != theirs[2:]


def test_seed_changes_everything_and_repeats(tiny, tmp_path, alone):
    train(tiny, tmp_path)
    check_as_alone(tiny, tmp_path / tiny.id, alone)
    other = alone(tiny.replace(seed=1))
    assert scores(other) != scores(alone(tiny))
    assert lines(other)[0]["train"] != lines(alone(tiny))[0]["train"]


@pytest.mark.parametrize(("changed", "term"), [({"lr": 1e30, "clip_norm": 0.0}, "nll_1"), ({"temperature": 1e-38}, "mutual_1")])
def test_divergence_is_named_and_final(tiny, tmp_path, changed, term):
    config = tiny.replace(initialization="scratch")
    for name, value in changed.items():
        object.__setattr__(config, name, value)  # no study may set them so
    record = train(config, tmp_path)
    assert record.status == "diverged" and record.final
    assert record.reason == f"epoch 0: loss term {term} was not finite"
    assert not record.test
    assert train(config, tmp_path).attempts == 1


def test_weights_that_blow_up_in_the_last_step_are_divergence(tiny, tmp_path):
    """No loss sees them: one step, and that is all of the training."""
    config = tiny.replace(initialization="scratch", epochs=1, switch_epoch=1, train_size=32, lr=1e12, clip_norm=0.0)
    record = train(config, tmp_path)
    assert record.status == "diverged" and not record.test and not record.validation
    assert "epoch 0" in record.reason and "not finite" in record.reason


@pytest.mark.parametrize("when", ["epoch 1, validation", "after the last epoch, test"])
def test_predictions_that_are_no_numbers_are_divergence(tiny, tmp_path, monkeypatch, when):
    def spoiled(config, pair, data, split, *, epoch, **more):
        found, labels = predictives(config, pair, data, split, epoch=epoch, **more)
        if (split, epoch) == (("validation", 1) if "epoch 1" in when else ("test", 4)):
            found["peer_2"].probabilities[3, 1] = math.nan
        return found, labels

    for name in ("mldiv.evaluation.predictive", "mldiv.training.final_scores"):
        monkeypatch.setattr(f"{name}.predictives", spoiled)
    record = train(tiny.replace(initialization="scratch"), tmp_path)
    assert record.status == "diverged" and record.reason == f"{when}: the predictions of peer_2 were not finite"
    assert not record.test


def test_early_stop(tiny, tmp_path):
    record = train(tiny, tmp_path, report=lambda line: line["epoch"] == 1)
    assert record.status == "stopped" and record.epochs == 2 and not record.test
    assert record.reason == "stopped early after epoch 1"
    assert train(tiny, tmp_path).status == "stopped"


def test_a_record_says_everything(tiny, alone):
    folder = alone(tiny)
    record = study_files.read_trial(folder)
    assert json.loads((folder / "trial.json").read_text())["config"]["alpha"] == tiny.alpha
    sizes = {"train": 64, "validation": 32, "test": 32, "classes": 10}
    data = dataset(tiny)
    form = {"channels": 1, "image_size": 8, "mean": list(data.mean), "std": list(data.std), "names": list("0123456789")}
    prints = ("fingerprint", "test_fingerprint", "whole_fingerprint", "label_entropy")
    assert record.data == sizes | form | {name: getattr(data, name) for name in prints}
    assert record.environment["world_size"] == 1
    found = list(checked_files.read_lines(folder / "metrics.jsonl"))
    assert [line["stage"] for line in found] == [1, 1, 2, 2]
    shape = {name: set(value) if isinstance(value, dict) else None for name, value in found[0].items()}
    assert all({n: set(v) if isinstance(v, dict) else None for n, v in line.items()} == shape for line in found)
    assert found[0]["train"]["feature_kl"] is None and found[2]["train"]["feature_kl"] > 0
    assert all(line["diversity"]["feature_kl"] > 0 and line["diversity"]["w2_per_weight"] > 0 for line in found)
    frame = pd.read_parquet(folder / "predictions.parquet")
    assert len(frame) == 3 * 32 and set(frame["member"]) == {"peer_1", "peer_2", "pair"}
    both = frame[frame["member"] == "pair"]
    assert (both["predicted"] == both["label"]).mean() == pytest.approx(record.test["pair"]["accuracy"])
    assert -np.log(both["label_probability"].clip(1e-30)).mean() == pytest.approx(record.test["pair"]["nll"], rel=1e-4)


@pytest.mark.parametrize(("initialization", "networks"), [("scratch", 0), ("pretrained", 2), ("scratch_pretrained", 1)])
def test_initialization(tiny, once, initialization, networks):
    config = tiny.replace(initialization=initialization)
    folder = once(config)
    assert study_files.read_trial(folder / config.id).status == "finished"
    assert len(list((folder / "store" / "entries" / "pretrained").glob("*.pt"))) == networks


def test_pretraining_resumes_where_it_was_cut(tiny, tmp_path, monkeypatch):
    config, cpu = tiny.replace(pretrain_epochs=4), torch.device("cpu")
    expected, trained = pretrained(config, dataset(config), Store(tmp_path / "a"), cpu)
    assert trained == 4
    saved, calls = Store.keep_progress, []

    def keep(store, name, state):
        calls.append(state["epoch"])
        if len(calls) == 2:
            raise Killed
        saved(store, name, state)

    monkeypatch.setattr(Store, "keep_progress", keep)
    with pytest.raises(Killed):
        pretrained(config, dataset(config), Store(tmp_path / "b"), cpu)
    got, trained = pretrained(config, dataset(config), Store(tmp_path / "b"), cpu)
    assert calls == [1, 2, 2, 3] and trained == 4  # the cut attempt counts
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert pretrained(config, dataset(config), Store(tmp_path / "b"), cpu)[1] == 0


def test_a_batch_larger_than_the_data_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="exceeds the 64 training images"):
        train(tiny.replace(batch_size=256), tmp_path)


def test_learning_rate_depends_on_the_absolute_epoch(tiny):
    cosine = [learning_rate(tiny, epoch, 4) for epoch in range(4)]
    assert cosine == sorted(cosine, reverse=True) and cosine[0] == tiny.lr and cosine[2] == pytest.approx(tiny.lr / 2)
    step = [learning_rate(tiny.replace(schedule="step"), epoch, 8) for epoch in range(8)]
    assert step == pytest.approx([tiny.lr] * 4 + [tiny.lr / 10] * 2 + [tiny.lr / 100] * 2)
    assert learning_rate(tiny.replace(schedule="constant"), 3, 4) == tiny.lr


def test_streams_depend_on_seed_purpose_and_epoch():
    draws = {key: torch.rand(3, generator=generator(*key)).tolist() for key in
             [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]}  # fmt: skip
    assert len({tuple(draw) for draw in draws.values()}) == 4
    assert torch.rand(3, generator=generator(0, "a", 0)).tolist() == draws[0, "a", 0]
    assert 0 <= derive(3, "x") < 2**63


def test_dead_feature_term_is_noted(tmp_path):
    record, path = TrialRecord("x", {}, switch={"feature_kl": 1e-2}), tmp_path / "metrics.jsonl"
    for epoch, (stage, level) in enumerate([(1, None), (2, 1e-3), (2, 1e-6)]):
        study_files.append_line(path, {"epoch": epoch, "stage": stage, "train": {"feature_kl": level}})
    assert module._notes(record, path) == ["feature term died: feature KL fell from 0.01 at the switch to 1e-06"]
    study_files.append_line(path, {"epoch": 3, "stage": 2, "train": {"feature_kl": 7.0}})
    assert "ran away" in module._notes(record, path)[0]
    assert issubclass(Diverged, Exception)
