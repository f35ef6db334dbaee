"""``--seeds auto``: seeds are added, look by look, until all is decided; killed anywhere it ends as it would have."""

import contextlib
import io
import shutil
from dataclasses import asdict
from functools import partial

import pytest
from helpers.small_study import TINY

from analysis.build import build, undecided
from analysis.records.load import load
from mldiv.cli.main import main
from mldiv.records.study_files import find_trial, read_assignments, read_study
from mldiv.study import Study
from mldiv.sweep.looks import Sequential
from mldiv.training import attempt as attempt_module
from mldiv.training.fit import fitting

STUDY = Study(
    name="two", question="What do both give?", scientific="method", searched=(), baseline="plain",
    arms={"plain": {"alpha": 0.0, "beta": 0.0}, "both": {}},
)  # fmt: skip


def run(folder, *flags, asked=undecided, way=("--in-process",)):
    """The exit code, what was said, and what was printed."""
    argv = ["--preset", "demo", "--out", str(folder), *way, *flags, *(f"--set={setting}" for setting in TINY)]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("analysis.build.undecided", asked)
        code = main(STUDY, partial(build, formats=("md",)), argv)
    return code, err.getvalue(), out.getvalue()


def scores(folder):
    found = {item.trial: find_trial(folder, item.trial) for item in read_assignments(folder)}
    return {trial: (asdict(record)["test"], record.config["seed"]) for trial, record in found.items()}


@pytest.mark.parametrize(
    ("most", "looks"),
    [(4, [3, 4]), (5, [3, 5]), (6, [3, 6]), (12, [3, 5, 8, 12]), (13, [3, 5, 8, 13]), (30, [3, 5, 8, 12, 18, 30])],
)
def test_when_it_looks(most, looks):
    assert Sequential(most).looks() == looks


def test_seeds_are_added_until_all_is_decided(tmp_path):
    """Each look is of a whole study of so many seeds; the trials are those of a fixed study, which are there already."""
    heard = []

    def decided_at_five(folder):
        study = load(folder)
        heard.append((len(study.seeds), len(study.looks), study.missing()))
        return ["both"] if len(study.seeds) < 5 else []

    assert run(tmp_path / "fixed", "--seeds", "5")[0] == 0
    shutil.copytree(tmp_path / "fixed" / "trials", tmp_path / "auto" / "trials")
    code, said, _ = run(tmp_path / "auto", "--seeds", "auto:8", asked=decided_at_five)
    assert code == 0 and heard == [(3, 1, []), (5, 2, [])]
    assert "look at 3 seeds: undecided: both; going on to 5 seeds" in said
    assert "look at 5 seeds: every comparison is decided" in said and len(list((tmp_path / "auto" / "trials").iterdir())) == 10
    header = read_study(tmp_path / "auto")
    assert (header.seeds, header.looks, header.level) == ([1, 2, 3, 4, 5], [3, 5, 8], 0.05 / 3)
    assert scores(tmp_path / "auto") == scores(tmp_path / "fixed") and len(scores(tmp_path / "auto")) == 10
    code, said, _ = run(tmp_path / "auto", "--seeds", "auto:8", asked=decided_at_five)
    assert code == 0 and "all trials are recorded, nothing to train" in said and read_study(tmp_path / "auto") == header


@pytest.mark.slow
def test_a_killed_study_ends_as_it_would_have(tmp_path, monkeypatch):
    """Killed in the first look, between looks, and in the last; with the analysis' own verdicts."""
    assert run(tmp_path / "whole", "--seeds", "auto:4", "--margin", "nll=1e-9")[0] == 0
    trained = []

    def killed(config, *args, **options):
        trained.append(config.id)
        if len(trained) in (2, 9):
            raise KeyboardInterrupt
        return fitting(config, *args, **options)

    def killed_between(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(attempt_module, "fitting", killed)
    flags = ["--seeds", "auto:4", "--margin", "nll=1e-9"]
    assert run(tmp_path / "cut", *flags)[0] == 130
    with contextlib.suppress(KeyboardInterrupt):
        run(tmp_path / "cut", *flags, asked=killed_between)
    assert run(tmp_path / "cut", *flags)[0] == 130
    assert load(tmp_path / "cut").looks == [[1, 2, 3]]
    assert run(tmp_path / "cut", *flags)[0] == 0
    assert scores(tmp_path / "cut") == scores(tmp_path / "whole") and len(scores(tmp_path / "cut")) == 8
    assert (tmp_path / "cut" / "answer.md").read_text() == (tmp_path / "whole" / "answer.md").read_text()
    assert "With 4 seeds, the stated most, that stays undecided" in (tmp_path / "cut" / "answer.md").read_text()


def test_a_trial_that_failed_is_mended_before_more_seeds_are_added(tmp_path, monkeypatch):
    def broken(config, *args, **options):
        if config.seed == 2:
            raise RuntimeError("no memory")
        return fitting(config, *args, **options)

    monkeypatch.setattr(attempt_module, "fitting", broken)
    code, said, _ = run(tmp_path, "--seeds", "auto:4", asked=lambda folder: ["both"])
    assert code == 1 and "2 trials failed" in said and read_study(tmp_path).seeds == [1, 2, 3]
    monkeypatch.undo()
    assert run(tmp_path, "--seeds", "auto:4", asked=lambda folder: ["both"])[0] == 0 and read_study(tmp_path).seeds[-1] == 4


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seeds", "auto:3"], "--seeds auto, at most 3: must be at least 4"),
        (["--seeds", "auto:1000000"], "--seeds auto, at most 1000000: must be at most 100,000"),
    ],
)
def test_nonsense_is_refused(tmp_path, flags, said):
    code, err, _ = run(tmp_path / "x", *flags)
    assert code == 2 and said in err and not (tmp_path / "x").exists()
    for seeds in ("auto:", "auto:many", "automatic", "auto:5:6"):
        with pytest.raises(SystemExit):
            run(tmp_path / "x", "--seeds", seeds)


def test_a_plan_of_looks_is_not_changed_once_it_is_stated(tmp_path):
    run(tmp_path / "auto", "--seeds", "auto:4", asked=lambda folder: [])
    for flags in (["--seeds", "auto:5"], ["--seeds", "4"]):
        code, err, _ = run(tmp_path / "auto", *flags)
        assert code == 2 and "looks ([3, 4] there" in err and "(--seeds auto:4)" in err
    run(tmp_path / "fixed", "--seeds", "1")
    code, err, _ = run(tmp_path / "fixed", "--seeds", "auto")
    assert code == 2 and "looks ([] there, [3, 5, 8, 12] here)" in err and "(--seeds 1)" in err


def test_the_dry_run_says_what_is_trained_at_first_and_at_most(tmp_path):
    _, _, out = run(tmp_path / "x", "--seeds", "auto", "--dry-run")
    assert "looks at 3, 5, 8, 12 seeds, at a level of 1.25% each\n  at most 24 trials\n  until the first look:\n" in out
    assert "\n  6 trials, 0 of them recorded already\n" in out


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_too(tmp_path, shared_cluster, threads):
    way = ["--address", shared_cluster.address, "--parallel-trials", "1"]
    code, said, _ = run(tmp_path, "--seeds", "auto:4", asked=lambda folder: ["both"], way=way)
    assert code == 0 and "going on to 4 seeds" in said and len(scores(tmp_path)) == 8 and not load(tmp_path).missing()
