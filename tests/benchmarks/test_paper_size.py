"""The ablation at the paper's size, tiny: cut into pieces at any moment, it ends as if it had not been."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.first_stages import differing, results
from helpers.processes import processes

from analysis.records.load import load
from mldiv.records import study_files
from mldiv.storage.cache import Store
from mldiv.training import fit as fit_module

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "paper_size.py"
TINY = [
    "--data", "digits", "--arch", "resnet8", "--width", "0.25", "--train-size", "128", "--test-size", "40", "--epochs", "3",
    "--test-samples", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def script():
    """As a module, so that other processes find its functions by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(SCRIPT.parent)])
        yield importlib.import_module("paper_size")
    del sys.modules["paper_size"]


@pytest.fixture(scope="module")
def whole(script, tmp_path_factory):
    out = tmp_path_factory.mktemp("paper_size") / "whole"
    assert script.main([*TINY, "--out", str(out)]) == script.ALL_ENDED
    return out


@pytest.mark.slow
def test_pieces_end_as_the_whole(script, whole, tmp_path, monkeypatch, capsys):
    """A piece ends once after each thing that is written, in every trial and stage: the alarm's exception, where one could."""
    cuts = []

    def cut(owner, name, what):
        original = getattr(owner, name)

        def once(*arguments):
            result = original(*arguments)
            if (key := (name, what(*arguments))) not in cuts:
                cuts.append(key)
                raise script.PieceOver
            return result

        monkeypatch.setattr(owner, name, once)

    cut(fit_module, "save_atomically", lambda path, state: (path.parent.name, state["epoch"]))
    cut(study_files, "append_line", lambda path, line: (path.parent.name, line["epoch"]))
    cut(Store, "publish", lambda store, name, state: name)
    cut(Store, "keep_progress", lambda store, name, state: state["epoch"])
    cut(fit_module, "score", lambda trial: trial.config.id)
    codes = []
    while not codes or codes[-1] == script.MORE_TO_DO:
        codes.append(script.main([*TINY, "--out", str(tmp_path)]))
    assert codes == [script.MORE_TO_DO] * len(cuts) + [script.ALL_ENDED]
    checkpoints = {key for name, key in cuts if name == "save_atomically"}
    assert len({trial for trial, _ in checkpoints}) == 4
    assert {epoch for _, epoch in checkpoints} == {1, 3}  # after 2 they go on from the prefix that was published
    assert {name for name, _ in cuts} == {"save_atomically", "append_line", "publish", "keep_progress", "score"}
    assert "run the same command again" in capsys.readouterr().out
    for folder in sorted((whole / "trials").iterdir()):
        assert differing(results(tmp_path / "trials" / folder.name), results(folder)) == [], folder.name


def check_seeds_side_by_side(whole, folder):
    for trial in sorted((whole / "trials").iterdir()):
        assert differing(results(folder / "trials" / trial.name), results(trial)) == [], trial.name


SIDE_BY_SIDE = [*TINY, "--seeds", "2", "--processes", "2"]


@pytest.mark.slow
def test_seeds_side_by_side_on_a_command_line(whole, tmp_path):
    """In two processes, forks of one that has imported torch."""
    ask = [sys.executable, str(SCRIPT), *SIDE_BY_SIDE, "--out", str(tmp_path)]
    found = subprocess.run(ask, capture_output=True, text=True, check=True)
    assert "8 of 8 trials have ended" in found.stdout
    check_seeds_side_by_side(whole, tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where the first alarm meets a destructor
def test_the_alarm_ends_a_piece(script, tmp_path, capsys):
    assert script.main([*TINY, "--out", str(tmp_path), "--minutes", "0"]) == script.MORE_TO_DO
    assert "0 of 4 trials have ended" in capsys.readouterr().out


def test_stage_one_is_trained_once(whole):
    costs = {}
    for item in study_files.read_assignments(whole):
        costs[item.arm] = study_files.find_trial(whole, item.trial).cost
    shared = [cost["epochs_shared"] for cost in costs.values()]
    assert shared == [0, 2, 2, 2] and [cost["pretraining_epochs_trained"] for cost in costs.values()] == [2, 0, 0, 0]


def test_the_analysis_reads_it(whole):
    study = load(whole)
    assert list(study.arms) == ["mutual learning", "with parameter diversity", "with feature diversity", "with both"]
    assert all(record.status == "finished" for record in study.records.values()) and len(study.records) == 4


def test_measuring_says_what_the_budget_is_enough_for(script, tmp_path, capsys):
    assert script.main([*TINY, "--out", str(tmp_path), "--measure"]) == 0
    assert "images/s" in (text := capsys.readouterr().out) and "--budget 30:" in text and not list(tmp_path.iterdir())


def test_another_configuration_and_missing_data_are_refused(script, whole, tmp_path, capsys, monkeypatch):
    assert script.main([*TINY, "--out", str(whole), "--epochs", "4"]) == 2
    assert "was begun with another pretrain_epochs (2 there), epochs (3 there), switch_epoch (2" in capsys.readouterr().err
    monkeypatch.setattr("torch.__version__", "0.0")
    assert script.main([*TINY, "--out", str(whole)]) == 2 and "another torch (" in capsys.readouterr().err
    monkeypatch.undo()
    for wrong, message in ((["--seeds", "0"], "--seeds 0: must be"), (["--processes", "0"], "--processes 0: must be")):
        assert script.main([*TINY, "--out", str(tmp_path), *wrong]) == 2 and message in capsys.readouterr().err
    assert script.main(["--data", "cifar100", "--out", str(tmp_path)]) == 2
    assert "--data-root is missing" in capsys.readouterr().err


def import_it(folder):
    runpy.run_path(str(SCRIPT))
    (folder / "modules").write_text("\n".join(sys.modules))


def test_neither_ray_nor_optuna_is_imported(tmp_path):
    with processes(import_it, (tmp_path,)) as (process,):
        process.join(60)
        assert process.exitcode == 0
    modules = set((tmp_path / "modules").read_text().splitlines())
    assert "mldiv.presets" in modules
    assert not {"ray", "optuna"} & modules
