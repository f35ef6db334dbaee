"""Predictions from elsewhere stand beside a study's arms, under its statistics; those of other images do not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.small_study import STUDY

import mldiv
from analysis.build import build
from mldiv.cli.main import main
from mldiv.config import ConfigError
from mldiv.records.study_files import trial_folder
from mldiv.storage import full_predictions

DEMO = Path(__file__).parents[2] / "docs" / "results" / "demo"


def rows(folder, arm):
    lines = [json.loads(line) for line in (folder / "assignments.jsonl").read_text().splitlines()]
    return {line["seed"]: folder / "trials" / line["trial"] for line in lines if line["arm"] == arm}


@pytest.fixture(scope="module")
def labels():
    table = pd.read_parquet(rows(DEMO, "cosine")[1] / "predictions.parquet")
    return table[table.member == "pair"].label.to_numpy().astype(int)


def predictions(labels, seed, networks=1, strength=3.0):
    """Probabilities of networks that are mostly right, of test images and of others."""
    stream = np.random.default_rng(seed)

    def softmax(labels):
        logits = stream.normal(size=(networks, len(labels), 10)) + strength * np.eye(10)[labels]
        return (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).squeeze()

    others = stream.integers(10, size=200)
    return {"test": softmax(labels), "labels": labels, "validation": softmax(others), "validation_labels": others}


def test_they_are_scored_and_compared_as_the_studys_own(labels, tmp_path):
    runs = [predictions(labels, seed, networks=3) for seed in range(3)]
    found = mldiv.add_predictions(DEMO, {"deep ensemble": runs}, tmp_path / "out")
    assert found.problems == [] and list(found.table.arm)[-1] == "deep ensemble"
    assert set(found.comparisons.query("name == 'deep ensemble'").metric) == {"nll", "accuracy", "ece"}
    mine = found.scores.query("arm == 'deep ensemble' and member == 'pair'")
    mean = runs[0]["test"].mean(0)
    assert mine.nll.iloc[0] == pytest.approx(-np.log(mean[np.arange(len(labels)), labels]).mean(), rel=1e-5)
    assert mine.mutual_information.iloc[0] > 0 and found.table.scaled_nll_mean.iloc[-1] < found.table.nll_mean.iloc[-1]
    before, after = (of.comparisons.set_index(["metric", "name"]).low for of in (mldiv.results(DEMO), found))
    assert (after[before.index] == before).all(), "the study's own comparisons are what they were, before Holm's correction"
    build(tmp_path / "out", formats=("md", "html"))
    said = (tmp_path / "out" / "answer.md").read_text()
    assert "**Trained elsewhere**: deep ensemble" in said


def test_the_copy_is_not_continued(labels, tmp_path, capsys):
    mldiv.add_predictions(DEMO, {"mine": [predictions(labels, 0)]}, tmp_path / "out")
    assert main(STUDY, build, ["--preset", "demo", "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "is a copy of a study with predictions from elsewhere (mldiv.add_predictions)" in capsys.readouterr().err


def test_predictions_in_float16_are_taken_and_a_folder_made_so_takes_more(labels, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(DEMO, study)
    runs = [predictions(labels, seed) for seed in range(3)]
    mldiv.add_predictions(study, {"first": runs}, tmp_path / "one")
    found = mldiv.add_predictions(
        tmp_path / "one", {"again": [run | {"test": run["test"].astype("f2")} for run in runs]}, tmp_path / "two"
    )
    nll = found.scores.query("member == 'pair'").pivot(index="seed", columns="arm", values="nll")
    assert nll["again"].to_numpy() == pytest.approx(nll["first"].to_numpy(), abs=1e-3)


def test_without_validation_images_nothing_is_scaled(labels, tmp_path):
    run = {name: value for name, value in predictions(labels, 0).items() if not name.startswith("validation")}
    found = mldiv.add_predictions(DEMO, {"mine": [run]}, tmp_path / "out")
    assert found.problems == [] and np.isnan(found.table.scaled_nll_mean.iloc[-1])


@pytest.mark.parametrize(("wrong", "said"), [
    (lambda run: run | {"labels": run["labels"][::-1]}, r"mine, seed 1: 360 labels, .*% of them alike: other images"),
    (lambda run: run | {"test": run["test"][:9], "labels": run["labels"][:9]}, "9 labels, the study has 360: other images"),
    (lambda run: run | {"test": np.log(run["test"])}, r"an array \(1, 360, 10\), 360 labels; expected probabilities"),
    (lambda run: run | {"test": run["test"][:, :5]}, "of 10 classes"),
    (lambda run: run | {"validation": run["validation"][:7]}, r"\(1, 7, 10\), 200 labels"),
    (lambda run: {"test": run["test"]}, "labels is missing"),
    (lambda run: run | {"validation_labels": run["validation_labels"] + 1}, "validation_labels: expected whole numbers"),
    (lambda run: run | {"validation_labels": run["validation_labels"] / 2}, "validation_labels: expected whole numbers"),
    (lambda run: run | {"validation": run["validation"][:0], "validation_labels": []}, r"\(1, 0, 10\), 0 labels"),
    (lambda run: run | {"test": np.stack([run["test"]] * 3)}, "another number of networks"),
    (lambda run: run | {"test": np.zeros((0, 360, 10))}, r"\(0, 360, 10\), 360 labels"),
    (lambda run: run | {"labels": np.eye(10)[run["labels"]]}, "the study's test labels are whole numbers: give those"),
    (lambda run: run | {"labels": np.eye(10)[run["labels"]] / 2}, "seed 1, labels: the shares of image 0 add up to 0.5"),
    (lambda run: run | {"labels": None}, r"\(1, 360, 10\), 1 labels"),
    (lambda run: run | {"test": [[0.5, 0.5], [1]]}, "mine, seed 1: no array of numbers .setting an array element"),
    (lambda run: run | {"test": [["x"] * 10] * 360}, "mine, seed 1: no array of numbers .could not convert string to float"),
    (lambda run: None, "mine, seed 1: a NoneType, where arrays by name are expected"),
])  # fmt: skip
def test_what_is_of_other_images_or_no_probability_is_refused_before_anything_is_written(labels, tmp_path, wrong, said):
    with pytest.raises(ConfigError, match=said):
        mldiv.add_predictions(DEMO, {"mine": [wrong(predictions(labels, 0))]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_runs_than_seeds_and_a_name_that_is_taken_are_refused(labels, tmp_path):
    run = predictions(labels, 0)
    for arms in ({"mine": [run] * 4}, {"cosine": [run]}, {"mine": []}, {"mine": run}, {"mine": iter([run])}, {1: [run]}):
        with pytest.raises(ConfigError, match=r"expected a list of 1 to 3 runs \(seeds\), of an arm of another name"):
            mldiv.add_predictions(DEMO, arms, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"arms = \[.*: expected a list of runs for each by its name"):
        mldiv.add_predictions(DEMO, [run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_of_one_network_and_of_three_are_refused_before_anything_is_written(labels, tmp_path):
    runs = [predictions(labels, 0, networks=3), predictions(labels, 1)]
    with pytest.raises(ConfigError, match="mine, seed 2: predictions of another number of networks"):
        mldiv.add_predictions(DEMO, {"mine": runs}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_in_a_study_of_soft_labels_predictions_are_scored_against_the_same_shares(tmp_path):
    stream = np.random.default_rng(0)
    hard = np.arange(160) % 3
    soft = (0.7 * np.eye(3)[hard] + 0.1).astype("f4")
    images = (50 * hard[:, None, None] + stream.integers(99, size=(160, 8, 8))).astype("u1")
    np.savez(tmp_path / "mine.npz", x_train=images[:100], y_train=hard[:100], x_test=images[100:], y_test=soft[100:])
    study = mldiv.Study(name="one", question="?", scientific="method", searched=(), baseline="one", arms={"one": {}})
    short = {"epochs": 1, "switch_epoch": 1, "pretrain_epochs": 1, "train_size": 60, "test_size": None, "validation_size": 40}
    short |= {"batch_size": 20, "test_samples": 2, "ood": "none", "shift_share": 0.0}
    given = {"seeds": 1, "preset": "demo", "data": "npz", "data_root": str(tmp_path / "mine.npz"), "set": short}
    found = study.run(tmp_path / "study", **given)
    (trial,) = found.trials.trial
    own = full_predictions.read(trial_folder(tmp_path / "study", trial) / full_predictions.FILE, trial)
    run = {"test": np.exp(own["pair"]), "labels": hard[100:]}
    with pytest.raises(ConfigError, match="the study's test labels are soft, a share of each class"):
        mldiv.add_predictions(tmp_path / "study", {"again": [run]}, tmp_path / "out")
    found = mldiv.add_predictions(
        tmp_path / "study", {"again": [run | {"labels": found.images().test.truth.numpy()}]}, tmp_path / "out"
    )
    pair = found.scores.query("member == 'pair'").set_index("arm")
    for score in ("nll", "brier"):
        assert pair[score]["again"] == pytest.approx(pair[score]["one"], rel=1e-2)


def test_one_network_given_twice_is_no_two_seeds(labels, tmp_path):
    with pytest.raises(ConfigError, match="mine, seed 2: the predictions of an earlier run"):
        mldiv.add_predictions(DEMO, {"mine": [predictions(labels, 0)] * 2}, tmp_path / "out")


def test_the_study_itself_is_never_written_to(labels, tmp_path):
    shutil.copytree(DEMO, tmp_path / "study")
    before = {path: path.read_bytes() for path in (tmp_path / "study").rglob("*") if path.is_file()}
    with pytest.raises(OSError, match="exists"):
        mldiv.add_predictions(tmp_path / "study", {"mine": [predictions(labels, 0)]}, tmp_path / "study")
    assert before == {path: path.read_bytes() for path in (tmp_path / "study").rglob("*") if path.is_file()}
