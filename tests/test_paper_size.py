"""The ablation at the paper's size, tiny: cut into pieces at any moment, it ends as if it had not been."""

import runpy
import sys
from pathlib import Path

import pytest
from trunk_trials import differing, results

from analysis.load import load
from mldiv import records

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "paper_size.py"
TINY = ["--data", "digits", "--arch", "resnet8", "--width", "0.25", "--train-size", "128", "--test-size", "40", "--epochs", "3"]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def whole(script, tmp_path_factory):
    out = tmp_path_factory.mktemp("paper_size") / "whole"
    assert script["main"]([*TINY, "--out", str(out)]) == script["ALL_ENDED"]
    return out


def test_pieces_end_as_the_whole(script, whole, tmp_path, monkeypatch, capsys):
    """A piece ends after one epoch's record: the alarm's exception, raised where an alarm could."""
    append, left = records.append_line, []

    def append_and_end(path, line):
        append(path, line)
        if len(left) < 5:
            left.append(line)
            raise script["PieceOver"]

    monkeypatch.setattr(records, "append_line", append_and_end)
    codes = []
    while not codes or codes[-1] == script["MORE_TO_DO"]:
        codes.append(script["main"]([*TINY, "--out", str(tmp_path)]))
    assert codes == [script["MORE_TO_DO"]] * 5 + [script["ALL_ENDED"]]
    assert "run the same command again" in capsys.readouterr().out
    for folder in sorted((whole / "trials").iterdir()):
        assert differing(results(tmp_path / "trials" / folder.name), results(folder)) == []


def test_the_alarm_ends_a_piece(script, tmp_path, capsys):
    assert script["main"]([*TINY, "--out", str(tmp_path), "--minutes", "0"]) == script["MORE_TO_DO"]
    assert "0 of 4 trials have ended" in capsys.readouterr().out


def test_stage_one_is_trained_once(whole):
    costs = {}
    for item in records.read_assignments(whole):
        costs[item.arm] = records.find_trial(whole, item.trial).cost
    shared = [cost["epochs_shared"] for cost in costs.values()]
    assert shared == [0, 2, 2, 2] and [cost["pretraining_epochs_trained"] for cost in costs.values()] == [2, 0, 0, 0]


def test_the_analysis_reads_it(whole):
    study = load(whole)
    assert list(study.arms) == ["mutual learning", "with parameter diversity", "with feature diversity", "with both"]
    assert all(record.status == "finished" for record in study.records.values()) and len(study.records) == 4


def test_measuring_says_what_the_budget_is_enough_for(script, tmp_path, capsys):
    assert script["main"]([*TINY, "--out", str(tmp_path), "--measure"]) == 0
    assert "images/s" in (text := capsys.readouterr().out) and "--budget 30:" in text and not list(tmp_path.iterdir())


def test_another_configuration_and_missing_data_are_refused(script, whole, tmp_path, capsys):
    assert script["main"]([*TINY, "--out", str(whole), "--epochs", "4"]) == 2
    assert "holds other settings (pretrain_epochs, epochs, switch_epoch)" in capsys.readouterr().err
    assert script["main"](["--data", "cifar100", "--out", str(tmp_path)]) == 2
    assert "--data-root is missing" in capsys.readouterr().err


def test_neither_ray_nor_optuna_is_imported():
    import subprocess

    ask = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); print(sorted({{'ray', 'optuna'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
