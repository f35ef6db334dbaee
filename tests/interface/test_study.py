"""A study run from Python and its results as frames: those of its command and of its records."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.small_study import STUDY, TINY

import mldiv
from analysis import build as build_module
from mldiv.cli.flags import parse_flags, parse_settings
from mldiv.config import ConfigError
from mldiv.interface import results as module
from mldiv.interface.study import parse
from mldiv.records import study_files
from mldiv.sweep import in_process

GOLDEN = Path(__file__).parents[1] / "analysis" / "golden"
FLAGS = {"preset": "demo", "seeds": 1, "trials": 1, "set": parse_settings(TINY)}


@pytest.fixture
def asked():
    return mldiv.Study(**vars(STUDY))


def test_the_same_study_is_continued_and_its_results_returned(asked, study, monkeypatch, capsys):
    """As `helpers.small_study` runs it by its command: nothing is left to train."""
    monkeypatch.setattr(in_process, "attempting", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(build_module, "build", partial(build_module.build, formats=("md", "csv")))  # pictures take seconds
    for weights in study.rglob("checkpoint.pt"):
        weights.unlink()  # nothing but `load` needs them
    found = asked.run(study, **FLAGS)
    assert capsys.readouterr().out == ""
    assert found.study == study_files.read_study(study) and found.problems == []
    assert list(zip(found.trials["arm"], found.trials["phase"], found.trials["seed"], strict=True)) == [
        (item.arm, item.phase, item.seed)
        for item in sorted(study_files.read_assignments(study), key=lambda item: item.phase == "repeat")
    ]  # fmt: skip
    assert set(found.trials["status"]) == {"finished"} and set(found.trials["setting.epochs"]) == {2}
    for row in found.scores.itertuples():
        assert study_files.read_trial(study_files.trial_folder(study, row.trial)).test[row.member]["nll"] == row.nll
    assert len(found.scores) == 6 and len(repr(found)) < 100
    stored = pd.read_csv(study / "table.csv")
    pd.testing.assert_frame_equal(found.table.fillna(float("nan")), stored, check_dtype=False, rtol=1e-8)
    assert found.answer == (study / "answer.md").read_text()
    of_pair = pd.read_parquet(study_files.trial_folder(study, found.scores["trial"][0]) / "predictions.parquet").query(
        "member == 'pair'"
    )
    images = found.images()
    assert images.test.labels.tolist() == of_pair["label"].tolist() and images.train.images.dtype == torch.uint8
    assert len(images.train) == found.data["train"] and len(images.validation) == found.data["validation"]
    with pytest.raises(ConfigError, match="digits: the files there have changed"):
        replace(found, data=found.data | {"whole_fingerprint": "another"}).images()


def test_an_interrupted_run_says_so_and_gives_the_threads_back(asked, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(in_process, "attempting", interrupted)
    torch.set_num_threads(2)
    with pytest.raises(KeyboardInterrupt):
        asked.run(tmp_path / "study", **FLAGS)
    assert torch.get_num_threads() == 2


def test_flags_are_those_of_the_command(asked, capsys):
    given = {"seeds": "auto:5", "set": {"epochs": 3, "ood": "none"}, "arm": ["both"], "margin": {"nll": 0.01}, "no_cache": True}
    found = vars(parse(asked, given | {"workers": 2, "out": None, "dry_run": False}))
    words = [
        "--seeds",
        "auto:5",
        "--set",
        "epochs=3",
        "--set",
        'ood="none"',
        "--arm",
        "both",
        "--margin",
        "nll=0.01",
        "--no-cache",
    ]
    assert found == vars(parse_flags(STUDY, [*words, "--workers", "2"]))
    assert parse(asked, {"trials": 0}).trials == 0 == parse(asked, {"gpus_per_worker": 0}).gpus_per_worker
    of_numpy = {"set": {"epochs": np.int64(3), "lr": np.float32(0.5)}}
    assert parse(asked, of_numpy) == parse(asked, {"set": {"epochs": 3, "lr": 0.5}})
    with pytest.raises(ConfigError, match=r"run\(set=...\): .*object.* is no value of a setting"):
        asked.run(set={"lr": object()})
    with pytest.raises(ConfigError, match=r"run\(seed=...\): no flag is called so; did you mean 'seeds'"):
        asked.run(seed=3)
    for value in ("many", 2.5):
        with pytest.raises(
            ConfigError, match=rf"run\(...\): argument --seeds: '{value}': expected a number, auto or auto:MOST$"
        ):
            asked.run(seeds=value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"seeds": 0}, "--seeds 0: must be at least 1"),
        ({"lanes": 0}, "--lanes 0: must be at least 1"),
        ({"trials": -1}, "--trials -1: must be at least 0"),
        ({"workers": 2}, "--workers needs Ray.*in_process=False"),
        ({"gpus_per_worker": 1}, "--gpus-per-worker needs Ray"),
    ],
)
def test_a_flag_is_refused_as_the_command_refuses_it(asked, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        asked.run(tmp_path / "study", **FLAGS | flags)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_plan_and_writes_nothing(asked, tmp_path, capsys):
    assert asked.run(tmp_path / "study", **FLAGS, dry_run=True) is None
    assert "one trial after the other in this process: about" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_verdicts_are_those_of_the_answer():
    """Of the stored study, whose answer and table are stored too."""
    found = mldiv.results(GOLDEN / "study")
    answer = (GOLDEN / "answer.md").read_text()
    nll = found.comparisons.query("metric == 'nll' and kind == 'difference'").set_index("name")
    assert list(nll.index) == found.study.compare and len(found.comparisons) >= 3 * len(nll)
    for name, row in nll.iterrows():
        assert f"{row['value']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]" in answer, name
    assert set(nll["verdict"]) <= {"better", "worse", "equivalent", "undecided"} and len(set(nll["verdict"])) > 1
    assert (nll["seeds"] == len(found.study.seeds)).all()
    for row in found.comparisons.itertuples():
        assert row.low <= row.value <= row.high


def test_the_means_of_a_seeds_values_are_the_table():
    found = mldiv.results(Path(__file__).parents[2] / "docs" / "results" / "elsewhere" / "cifar100")
    means = found.repeats.drop(columns=["seed", "trial"]).groupby("arm").mean()
    table = found.table.set_index("arm").loc[means.index]
    for name in means:
        assert np.allclose(means[name], table[f"{name}_mean"].astype(float), equal_nan=True), name
    assert means["shift_nll"].notna().any() and len(found.repeats) == len(found.scores.query("member == 'pair'"))


def test_without_the_analysis_the_reason_is_said(trained, monkeypatch):
    def lost(name):
        raise ModuleNotFoundError("No module named 'tabulate'", name="tabulate")

    monkeypatch.setattr(module.importlib, "import_module", lost)
    with pytest.raises(ImportError, match="by the package analysis: tabulate is not installed: pip install"):
        mldiv.results(trained)
