"""A study grows: by seeds, arms and searched trials; every trial that is there stays, and only what is missing is trained."""

import contextlib
import io
import shutil
from dataclasses import asdict, replace
from functools import partial

import pytest
from helpers import small_study
from helpers.small_study import TINY

from analysis.build import build
from analysis.records.load import load
from mldiv.cli.main import main
from mldiv.records import study_files
from mldiv.records.study_files import find_trial, read_assignments, read_study
from mldiv.study import Study

STUDY = Study(
    name="grown", question="What do both give?", scientific="method", searched=("temperature", "alpha", "beta"),
    baseline="plain", arms={"plain": {"alpha": 0.0, "beta": 0.0}, "one": {"alpha": 0.0}, "both": {}},
    contrasts={"both less one": {"both": 1.0, "one": -1.0}},
)  # fmt: skip
PLAIN = replace(STUDY, searched=())


@pytest.fixture
def run(tmp_path):
    """A function that runs a study in a folder: its exit code, what it said, and the trials that it trained."""

    def run(name, *flags, study=STUDY):
        folder = tmp_path / name
        argv = ["--preset", "demo", "--in-process", "--out", str(folder), "--cache", str(tmp_path / "cache"), *flags]
        before = trials(folder)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            code = main(
                study,
                partial(build, formats=("md",)),
                [*argv, *(f"--set={setting}" for setting in TINY if setting.partition("=")[0] not in str(flags))],
            )
        assert {trial: found for trial, found in trials(folder).items() if trial in before} == before, "none is trained again"
        return code, err.getvalue(), trials(folder).keys() - before.keys()

    return run


def trials(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("trials/*/trial.json")}


def described(folder):
    """All that a study says, less when and where."""
    left = {"environment", "attempts", "seconds", "cost", "grown"}
    of_trials = {name: asdict(find_trial(folder, name)) for name in {item.trial for item in read_assignments(folder)}}
    found = [asdict(read_study(folder)), *(of_trials[name] for name in sorted(of_trials))]
    return [{name: value for name, value in of.items() if name not in left} for of in found]


def test_more_seeds_are_the_study_that_had_them_at_once(run, tmp_path):
    assert run("grown", "--seeds", "1", "--arm", "both", study=PLAIN)[0] == 0
    code, said, trained = run("grown", "--seeds", "2", "--arm", "both", study=PLAIN)
    assert code == 0 and "extends the study in" in said and "2 seeds in place of 1; trials that are recorded are kept" in said
    repeats = {item.trial: (item.arm, item.seed) for item in read_assignments(tmp_path / "grown")}
    assert sorted(repeats[trial] for trial in trained) == [(arm, seed) for arm in ("both", "plain") for seed in (2,)]
    shutil.rmtree(tmp_path / "cache")
    assert run("at once", "--seeds", "2", "--arm", "both", study=PLAIN)[0] == 0
    assert described(tmp_path / "grown") == described(tmp_path / "at once")
    study = load(tmp_path / "grown")
    assert not study.problems and not study.missing() and {len(study.finished(arm)) for arm in study.arms} == {2}
    for file in ("assignments.jsonl", "table.md", "answer.md"):
        grown, once = ((tmp_path / name / file).read_text() for name in ("grown", "at once"))
        told = [line for line in grown.splitlines() if "**The study grew after a report**: of 1 seed of 2 arms." not in line]
        assert sorted(told) == sorted(once.splitlines())
        assert (len(told) < len(grown.splitlines())) == (file == "answer.md")


def searched(folder):
    return [(item.arm, item.trial) for item in read_assignments(folder) if item.phase == "search"]


@pytest.mark.slow
def test_more_searched_trials_keep_what_was_suggested(run, tmp_path):
    """The journal too; what is chosen is of all of them, and its repeats alone count."""
    run("grown", "--seeds", "1", "--trials", "2", "--arm", "both")
    before = searched(tmp_path / "grown")
    repeated = [item for item in read_assignments(tmp_path / "grown") if item.phase == "repeat"]
    worst = find_trial(tmp_path / "grown", before[2][1])
    for name in {trial for arm, trial in before if arm == "both"}:
        record = find_trial(tmp_path / "grown", name)
        record.validation["pair"]["nll"] += 10  # whatever comes is better
        study_files.write_trial(tmp_path / "grown" / "trials" / name, record)
    code, said, trained = run("grown", "--seeds", "1", "--trials", "4", "--arm", "both")
    assert code == 0 and "4 searched trials of an arm in place of 2" in said and worst.status == "finished"
    after = searched(tmp_path / "grown")
    assert set(before) < set(after) and len(after) == 8
    new = {item.arm: item.trial for item in read_assignments(tmp_path / "grown") if item.phase == "repeat"}
    assert {item.trial for item in repeated if item.arm == "both"}.isdisjoint({new["both"]})
    assert new["both"] in trained and len(read_assignments(tmp_path / "grown")) == 10
    assert {trial for _, trial in set(after) - set(before)} <= trained
    study = load(tmp_path / "grown")
    assert not study.problems and not study.missing()
    assert read_study(tmp_path / "grown").chosen["both"]["alpha"] == find_trial(tmp_path / "grown", new["both"]).config["alpha"]


def test_more_arms_keep_the_search_although_it_draws_more(run, tmp_path):
    """Alone, "one" draws temperature and beta; with "both" alpha stands between them."""
    run("grown", "--seeds", "1", "--trials", "3", "--arm", "one")
    assert not read_study(tmp_path / "grown").drawn and not read_study(tmp_path / "grown").contrasts
    before = searched(tmp_path / "grown")
    code, said, trained = run("grown", "--seeds", "1", "--trials", "3")
    assert code == 0 and "3 arms in place of 2" in said
    header, after = read_study(tmp_path / "grown"), searched(tmp_path / "grown")
    assert header.arms == list(STUDY.arms) and header.compare == ["one", "both"] and header.contrasts == STUDY.contrasts
    assert header.drawn == [["temperature", "beta"], ["alpha"]] and set(before) < set(after)
    assert trained == {item.trial for item in read_assignments(tmp_path / "grown") if item.arm == "both"}
    of_both = [find_trial(tmp_path / "grown", trial).config for arm, trial in after if arm == "both"]
    of_one = [find_trial(tmp_path / "grown", trial).config for arm, trial in after if arm == "one"]
    assert [config["beta"] for config in of_both] == [config["beta"] for config in of_one]
    assert len({config["alpha"] for config in of_both}) == 3
    assert not run("grown", "--seeds", "1", "--trials", "3")[2]
    assert "| both less one " in (tmp_path / "grown" / "answer.md").read_text()


def test_a_study_may_gain_contrasts_and_lose_none(run, tmp_path):
    """They train nothing: what a later version of a study contrasts is told of an older one's trials too."""
    flags = ["--seeds", "1", "--trials", "0"]
    run("grown", *flags, study=replace(STUDY, contrasts={}))
    code, _, trained = run("grown", *flags)
    assert code == 0 and not trained and read_study(tmp_path / "grown").contrasts == STUDY.contrasts
    code, err, _ = run("grown", *flags, study=replace(STUDY, contrasts={}))
    assert code == 2 and "contrasts" in err


def test_what_cannot_be_extended_is_refused_with_the_way_out(run, tmp_path):
    """Which takes over the finished trials that the two have in common."""
    run("there", "--seeds", "2", "--arm", "both", study=PLAIN)
    for flags, asked in (
        (["--seeds", "1", "--arm", "both"], "--seeds 2"),
        (["--seeds", "2", "--arm", "one"], "--arm both"),
        (["--seeds", "3", "--margin", "nll=1"], "--margin nll=0.005 --margin accuracy=0.3 --margin ece=0.5"),
        (["--seeds", "3", "--set", "batch_size=8"], "--set batch_size=16"),
    ):
        code, err, trained = run("there", *flags, study=PLAIN)
        assert code == 2 and not trained and f"Use the same flags to continue it ({asked}), or another --out" in err
    assert f"`mkdir {tmp_path}/there-2 && cp -r {tmp_path}/there/trials {tmp_path}/there-2`" in err
    (tmp_path / "none").mkdir()
    shutil.copy(tmp_path / "there" / "study.json", tmp_path / "none")
    code, err, _ = run("none", "--seeds", "3", "--set", "batch_size=8", study=PLAIN)
    assert code == 2 and "none-2, which shares first stages with it" in err and "cp -r" not in err, "nothing is trained there"
    shutil.copytree(tmp_path / "there" / "trials", tmp_path / "there-2" / "trials")
    code, _, trained = run("there-2", "--seeds", "1", "--margin", "nll=1", study=PLAIN)
    assert code == 0 and len(trained) == 1, "of plain, one and both that which was not there"
    assert find_trial(tmp_path / "there-2", *trained).config["alpha"] == 0


def test_a_study_goes_on_under_what_it_says_of_itself(run, tmp_path):
    """Also a setting that acts on nothing there, which would be refused of a new study, and an arm that names what all have."""
    arms = {"plain": {"beta": 0.0}, "feature": {"prior_mode": "relative"}}
    study = Study(
        name="old", question="?", scientific="beta", searched=(), baseline="plain", arms=arms, settings={"alpha": 0.0}
    )
    old = ["--set", "param_transform=exp", "--dry-run"]
    code, err, _ = run("old", "--seeds", "2", *old, study=study)
    assert code == 2 and "--set param_transform=exp: every arm of this study has its own" in err
    run("new", "--seeds", "1", study=study)
    header = read_study(tmp_path / "new")
    changes = {"plain": {"beta": 0.0}, "feature": {}}
    (tmp_path / "old").mkdir()
    study_files.write_study(
        tmp_path / "old", replace(header, changes=changes, settings=header.settings | {"param_transform": "exp"})
    )
    code, err, _ = run("old", "--seeds", "2", *old, study=study)
    assert code == 0 and "2 seeds in place of 1" in err
    code, err, _ = run("old", "--seeds", "2", "--dry-run", study=study)
    assert code == 2 and '(--set param_transform="exp")' in err


def test_a_folder_is_taken_up_with_other_predictions_kept(study, capsys):
    """Finished trials stay as they are, with what they kept; a word that is none is refused."""
    flags = ["--preset", "demo", "--in-process", "--seeds", "1", "--trials", "1", "--out", str(study)]
    flags += [f"--set={setting}" for setting in TINY]
    before, built = trials(study), partial(build, formats=("md",))
    assert main(small_study.STUDY, built, [*flags, "--keep-predictions", "none"]) == 0
    assert "nothing to train" in capsys.readouterr().err and trials(study) == before
    assert read_study(study).settings["keep_predictions"] == "none" and not load(study).problems
    assert main(small_study.STUDY, built, [*flags, "--keep-predictions", "all"]) == 2
    assert "keep_predictions = 'all' is unknown" in capsys.readouterr().err


def test_a_study_from_before_a_setting_is_told_the_value_that_it_had(run, tmp_path):
    """As those of 0.5.0, whose study.json does not name `weighting`."""
    (tmp_path / "old").mkdir()
    run("new", "--seeds", "1", "--set", "weighting=raw", study=PLAIN)
    header = read_study(tmp_path / "new")
    settings = {name: value for name, value in header.settings.items() if name != "weighting"}
    study_files.write_study(tmp_path / "old", replace(header, settings=settings))
    code, err, _ = run("old", "--seeds", "2", study=PLAIN)
    assert code == 2 and 'Use the same flags to continue it (--set weighting="raw")' in err
    assert run("old", "--seeds", "2", "--set", 'weighting="raw"', "--dry-run", study=PLAIN)[0] == 0
