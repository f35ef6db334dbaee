"""The command line: bad input is one clear line and exit code 2 before Ray starts; the plan; the folder's identity."""

import contextlib
import dataclasses
import json
import os
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mldiv import records
from mldiv.cli.execute import idleness
from mldiv.cli.flags import RENAMED, RESULTS, parse_flags
from mldiv.cli.folder import open_folder
from mldiv.cli.main import main
from mldiv.cli.run import choose_arms, configure_trials, make_arms, prepare
from mldiv.cli.screen.display import clock
from mldiv.config import TrialConfig
from mldiv.evaluation.metrics import METRICS
from mldiv.method.kernels import KERNELS
from mldiv.method.networks import build
from mldiv.presets import PRESETS, configure
from mldiv.settings.setting import TRIAL, ConfigError, Log, sparing
from mldiv.storage.cache import Store
from mldiv.study import Study
from mldiv.sweep.simulate import first_wins, simulate
from mldiv.training import step_cost

MEASURE = step_cost.measure
#: Of the kernel sweep: each kernel and the baseline.
ARMS = len(KERNELS) + 1


@pytest.fixture(scope="module")
def study(load_study) -> Study:
    return load_study("kernel_sweep")


def refuse_to_build(folder, place):
    raise AssertionError("nothing may be built")


def prepared(study, *argv):
    return prepare(study, parse_flags(study, argv))


def run(study, capsys, *argv):
    code = main(study, refuse_to_build, argv)
    out, err = capsys.readouterr()
    usual = "preset demo (no GPU", "reading the settings ...", "timing a few steps ..."
    return code, out, [line for line in err.splitlines() if not any(words in line for words in usual)]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "demmo"], "--preset 'demmo' is unknown; did you mean 'demo'?"),
        (["--data", "cifar1000"], "data = 'cifar1000' is unknown; did you mean 'cifar100'?"),
        (["--arch", "resnet21"], "arch = 'resnet21' is unknown; did you mean 'resnet"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--trials", "-1"], "--trials -1: must be at least 0"),
        (["--workers", "-2"], "--workers -2: must be at least 1"),
        (
            ["--workers", "3", "--preset", "demo", "--address", "127.0.0.1:1"],
            "--workers 3: the batch of 64 cannot be shared evenly",
        ),
        (["--workers", "4096"], "--workers 4096: this machine has"),
        (["--data", "cifar100"], "--data-root is missing"),
        (["--data", "cifar100", "--data-root", "/proc/nowhere"], "/proc/nowhere: no such folder"),
        (["--data", "cifar10", "--data-root", __file__], "a file, where a folder was expected"),
        (["--out", "/proc/mldiv"], "--out /proc/mldiv: cannot be written"),
        (["--cache", "/proc/mldiv", "--dry-run"], "--cache /proc/mldiv: cannot be written"),
        (["--cache-size", "0"], "--cache-size 0: must be greater than zero, and at most 1,000,000,000"),
        (["--parallel-trials", "0"], "--parallel-trials 0: must be at least 1"),
        (["--arch", "resnet18"], "width = 0.5: resnet18 comes in width 1 only"),
        (["--ood", "photos"], "ood = 'photos': expected one of none, photographs, "),
        (["--ood", "digits"], "ood = 'digits': the networks are trained on digits"),
        (["--ood", "cifar10"], "--data-root is missing"),
        (["--select", "test_nll"], "--select 'test_nll' is unknown; "),
        (["--in-process", "--stop-early"], "--stop-early needs Ray"),
        (["--in-process", "--workers", "2"], "--workers needs Ray"),
        (["--in-process", "--gpus-per-worker", "1"], "--gpus-per-worker needs Ray"),
        (["--in-process", "--cpus-per-worker", "1"], "--cpus-per-worker needs Ray"),
        (["--margin", "nll"], "--margin nll: expected METRIC=SIZE"),
        (["--lanes", "2", "--workers", "2"], "--lanes with --workers: trials that are stepped together have one worker"),
        (["--lanes", "auto", "--workers", "2"], "--lanes with --workers"),
        (["--in-process", "--lanes", "0"], "--lanes 0: must be at least 1"),
        (["--in-process", "--lanes", "2", "--set", "compile=on"], "--lanes 2: compile = 'on': lanes are neither compiled"),
        (["--set", "batch_size=2000"], "batch_size = 2000 exceeds the 1221 training images"),
        (["--set", "validation_size=1437"], "validation_size = 1437 of 1437 images cannot be taken"),
        (["--cpus-per-worker", "4096", "--dry-run"], "lower --workers, --cpus-per-worker or --gpus-per-worker"),
    ],
)
def test_bad_input_is_one_line_and_code_2(study, capsys, argv, message):
    code, out, err = run(study, capsys, *argv)
    assert code == 2
    assert not out and len(err) == 1
    assert err[0].startswith("kernel_sweep: ")
    assert message in err[0]
    assert "ray" not in sys.modules or not __import__("ray").is_initialized()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(study, capsys, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = run(study, capsys, "--out", str(tmp_path / "x"))
    assert code == 2 and "cannot be written" in err[0]


def test_unknown_flags_and_words_end_with_code_2(study):
    for argv in (["--prset", "demo"], ["--seeds", "many"]):
        with pytest.raises(SystemExit) as end:
            main(study, refuse_to_build, argv)
        assert end.value.code == 2


PLANNED = ["--dry-run", "--seeds", "2", "--trials", "3"]


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_flags_old_name_is_taken_and_the_new_one_said(study, capsys, old, new):
    value = [] if old == "--no-store" else ["3"]
    before, after = (parse_flags(study, [name, *value]) for name in (old, new))
    assert before == after != parse_flags(study, [])
    assert capsys.readouterr().err == f"{old} is called {new} now; the old name ends with the next version\n"
    if value:
        assert parse_flags(study, [f"{old}=3"]) == after


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("ablation", ["--set", "alpha=0", "--set", "beta=0"], "are the same trials with these settings"),
        ("kernel_sweep", ["--set", "beta=0", "--trials", "0"], "are the same trials with these settings"),
        ("kernel_sweep", ["--set", "kernel=linear"], "--set kernel=linear: every arm of this study has its own kernel"),
        ("kernel_sweep", ["--set", "lr=1", "--set", "lr=2"], "--set lr=2: lr is set twice"),
        ("kernel_sweep", ["--cache-size", "inf"], "--cache-size inf: must be greater than zero, and at most 1,000,000,000"),
        (
            "kernel_sweep",
            ["--cpus-per-worker", "nan"],
            "--cpus-per-worker nan: must be greater than zero, and finite",
        ),
        ("kernel_sweep", ["--gpus-per-worker", "inf"], "--gpus-per-worker inf"),
        ("kernel_sweep", ["--out", "~nosuchuser/x"], "--out ~nosuchuser/x: no path"),
        ("kernel_sweep", ["--data-root", "~nosuchuser"], "--data-root ~nosuchuser: no path"),
        ("kernel_sweep", ["--out", "s3://"], "--out s3://: name a folder in a bucket"),
        ("kernel_sweep", ["--out", "s3://bucket"], "--out s3://bucket: name a folder in a bucket, as in s3://bucket/results"),
        ("kernel_sweep", ["--set", "lr=" + "[" * 5000], "lr = "),
        ("kernel_sweep", ["--set", "lr=1" + "0" * 400], "lr = "),
        ("kernel_sweep", ["--set", "temperature=1e300"], "temperature = 1e+300: must be at most 10000"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(load_study, capsys, tmp_path, name, flags, said):
    place = [] if "--out" in flags else ["--out", str(tmp_path / "out")]
    code = main(load_study(name), lambda folder, place: "", ["--preset", "demo", "--in-process", *place, *flags])
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert said in err
    assert err.removeprefix(f"{name}: reading the settings ...\n").count("\n") == 1
    assert not (tmp_path / "out" / "study.json").exists()


def test_links_that_go_in_a_circle(load_study, capsys, tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    flags = ["--preset", "demo", "--in-process", "--out", str(tmp_path / "a" / "x")]
    assert main(load_study("kernel_sweep"), lambda folder, place: "", flags) == 2
    assert capsys.readouterr().err.removeprefix("kernel_sweep: reading the settings ...\n").count("\n") == 1


def test_an_empty_address_is_this_machine(study, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert parse_flags(study, []).address == "local"


def test_two_runs_in_one_folder(study, capsys, tmp_path):
    """The second says who holds it, and may look at the plan."""
    held = replace(prepared(study), place=str(tmp_path))
    with open_folder(held):
        code, _, err = run(study, capsys, "--in-process", "--out", str(tmp_path))
        assert code == 2 and f'"process": {os.getpid()}' in err[0] and "is in use by another run" in err[0]
        assert run(study, capsys, "--dry-run", "--out", str(tmp_path))[0] == 0
    with open_folder(held):
        pass
    assert not (tmp_path / ".running.json").exists()


def test_other_images_in_the_same_place_are_refused(study, capsys, tmp_path):
    record = prepared(study).header
    records.write_study(tmp_path, replace(record, fingerprint="of other images"))
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and "fingerprint ('of other images' there" in err[0] and "cp -r" not in err[0]
    records.write_study(tmp_path, replace(record, fingerprint=None))  # as mldiv 0.5.0 left it
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 0


def test_copied_trials_of_other_images_are_refused(study, capsys, tmp_path):
    """They would count as trained: a trial's name does not say which images lie at its place."""
    run_ = prepared(study)
    for data, code in (({"whole_fingerprint": "other"}, 2), ({"test_fingerprint": "other"}, 2), ({}, 0)):
        records.write_trial(
            tmp_path / "trials" / "a", records.TrialRecord("a", asdict(run_.base), status="finished", data=data)
        )
        assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == code
    changed = replace(run_.base, train_size=500)
    other = records.TrialRecord("a", asdict(changed), status="finished", data={"whole_fingerprint": "of another cut"})
    records.write_trial(tmp_path / "trials" / "a", other)
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 0


def test_a_study_from_before_a_setting_existed_was_trained_as_then(study, capsys, tmp_path):
    """Whatever its default is by now."""
    record = prepared(study, "--set", "stage_schedule=continue").header
    old = {name: value for name, value in record.settings.items() if name != "stage_schedule"}
    records.write_study(tmp_path, replace(record, settings=old))
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and "stage_schedule ('continue' there, 'restart' here)" in err[0]
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run", "--set", "stage_schedule=continue")[0] == 0


@pytest.fixture
def few_images(tmp_path):
    """The flags for a folder of 120 training and 40 test images."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 60), ("val", 20)):
        for label in "ab":
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / label / f"{index}.png")
    return ["--preset", "demo", "--data", "image_folder", "--data-root", str(tmp_path / "images"), "--set", "image_size=8"]


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ({"train_size": 1024, "validation_size": 256, "test_size": 512}, {}),
        ({"train_size": 64, "validation_size": 16, "test_size": 512}, {"train_size": 64, "validation_size": 16}),
        ({"train_size": 110, "validation_size": 16, "test_size": 30}, {"test_size": 30}),
        ({"train_size": 64, "validation_size": 16, "test_size": 30}, None),
    ],
)
def test_of_a_data_set_smaller_than_the_presets_cut_all_is_taken(study, capsys, monkeypatch, few_images, cut, kept):
    monkeypatch.setitem(PRESETS, "demo", replace(PRESETS["demo"], cut=cut))
    base = prepared(study, *few_images).base
    assert {name: value for name in cut if (value := getattr(base, name)) is not None} == (cut if kept is None else kept)
    said = capsys.readouterr().err
    if kept is None:
        assert said == ""
    else:
        images = f"{kept.get('train_size', 102)} training, {kept.get('validation_size', 18)} validation and "
        assert f"fewer images than preset demo takes, so all there are: image_folder: {images}" in said


@pytest.mark.parametrize("setting", ["train_size=500", "validation_size=130", "test_size=50"])
def test_what_the_user_asks_of_a_small_data_set_is_refused(study, capsys, tmp_path, few_images, setting):
    code, _, err = run(study, capsys, *few_images, "--set", setting, "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 2 and len(err) == 1 and setting.replace("=", " = ") in err[0]


def test_a_metric_that_cannot_score_is_refused(study, capsys, monkeypatch):
    """Every trial would end with it, once it is trained."""
    monkeypatch.setitem(METRICS, "per_image", lambda predictive, labels: predictive.probabilities[:, 0])
    code, _, err = run(study, capsys, "--preset", "demo", "--dry-run")
    assert code == 2 and err[0].startswith("kernel_sweep: metric 'per_image' cannot score predictions of 10 classes: ")


def test_dry_run_prints_the_plan_and_starts_nothing(study, capsys, tmp_path):
    code, out, _ = run(study, capsys, *PLANNED, "--out", str(tmp_path / "x"))
    assert code == 0
    assert not (tmp_path / "x").exists()
    assert f"{5 * ARMS} trials, 0 of them recorded already" in out
    assert f"{12 * 5 * ARMS:,} epochs asked for" in out
    assert "mutual learning: 3 Optuna trials over lr, kl_weight, temperature, switch_epoch, then 2 seeds" in out
    assert f"while arms are searched, {ARMS} trials at once at most (--open-suggestions)" in out
    assert re.search(r"\n  [1-9]\d* epochs of pretraining to train\n", out)
    assert re.search(r"\d+ shared, \d+ to train \(if every search ends at its defaults\)\n", out)
    assert "digits: 1,221 training" in out
    assert "nothing shared" not in out
    _, out, _ = run(study, capsys, *PLANNED, "--no-cache", "--cache", str(tmp_path / "store"), "--out", str(tmp_path / "x"))
    assert out.endswith("x, nothing shared\n") and " 0 shared, " in out


def test_dry_run_says_how_long_it_would_take(study, capsys, tmp_path):
    """Half a minute, then what the groups share: the sum written out."""
    _, out, _ = run(study, capsys, *PLANNED, "--out", str(tmp_path / "x"), "--cache", str(tmp_path / "store"))
    work = simulate(prepared(study, *PLANNED).plan(tmp_path / "x"), Store(tmp_path / "store"), first_wins)
    seconds = work.first_stage + 10 * work.second_stage + 100 * work.pretraining + 1000 * work.trials
    groups = int(re.search(r"(\d+) worker groups of 1 side by side", out)[1])
    assert f"about {clock(30 + seconds / groups)}\n" in out
    _, out, _ = run(
        study, capsys, *PLANNED, "--parallel-trials", "1", "--out", str(tmp_path / "x"), "--cache", str(tmp_path / "store")
    )
    assert f"1 worker groups of 1 side by side on this machine: about {clock(30 + seconds)}\n" in out
    _, out, _ = run(study, capsys, *PLANNED, "--in-process", "--out", str(tmp_path / "x"), "--cache", str(tmp_path / "store"))
    assert f"one trial after the other in this process: about {clock(10 + seconds)}\n" in out
    here = [*PLANNED, "--in-process", "--out", str(tmp_path / "x"), "--cache", str(tmp_path / "store"), "--lanes"]
    assert f"3 trials at a time in this process: about {clock(10 + seconds)}\n" in run(study, capsys, *here, "3")[1]
    assert "one trial after the other in this process" in run(study, capsys, *here, "auto")[1]


def test_dry_run_times_steps_here_and_now(study, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("mldiv.training.step_cost.measure", MEASURE)
    few = ["--width", "0.25", "--seeds", "1", "--trials", "0", "--arm", "rbf", "--set", "validation_size=64"]
    code, out, _ = run(study, capsys, *few, "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 0
    assert "2 trials, 0 of them recorded already" in out
    assert re.search(r"side by side on this machine: about (\d+ min )?\d+ s\n", out)


@pytest.mark.parametrize(
    ("emulated", "flags", "said"),
    [
        (True, ["--set", "precision=bf16"], True),
        (False, ["--set", "precision=bf16"], False),
        (True, [], False),
        (True, ["--set", "precision=bf16", "--address", "auto"], False),
        (True, ["--set", "precision=bf16", "--address", "auto", "--in-process"], True),
    ],
)
def test_bf16_without_instructions_for_it_is_said(study, capsys, monkeypatch, emulated, flags, said):
    monkeypatch.setattr("mldiv.cli.run.emulates_bf16", lambda: emulated)
    prepare(study, parse_flags(study, ["--preset", "demo", "--dry-run", *flags]))
    assert ("--set precision=float32" in capsys.readouterr().err) == said


def test_batch_opens_more_trials(study, capsys, tmp_path):
    given = ["--dry-run", "--out", str(tmp_path / "x"), "--trials", "3", "--seeds", "2", "--open-suggestions", "2"]
    assert f"{2 * ARMS} trials at once at most" in run(study, capsys, *given)[1]
    assert prepared(study, *given).header.batch == 2
    assert prepared(study, *given, "--trials", "1").plan(tmp_path).open_at_once() == ARMS
    code, _, err = run(study, capsys, "--open-suggestions", "0")
    assert code == 2
    assert "--open-suggestions 0: must be at least 1" in err[0]


def test_groups_that_searches_cannot_keep_busy(study, tmp_path):
    searched = prepared(study, "--open-suggestions", "2").plan(tmp_path)
    assert idleness(searched, 2 * ARMS) is None
    said = f"room for {2 * ARMS + 1} trials at once, but the arms' searches keep {2 * ARMS} busy"
    assert said in idleness(searched, 2 * ARMS + 1)
    assert idleness(prepared(study, "--trials", "0").plan(tmp_path), 100) is None


def test_set_changes_any_setting(study, capsys, tmp_path):
    given = ["--set", "epochs=20", "--set", "switch_epoch=5", "--set", "channels_last=true", "--set", "schedule=step"]
    base = prepared(study, *given).base
    assert (base.epochs, base.switch_epoch, base.channels_last, base.schedule) == (20, 5, True, "step")
    assert configure_trials(study, parse_flags(study, ["--set", "train_size=null"]), "small").train_size is None
    for wrong, message in (
        ("epoch=20", "did you mean 'epochs'?"),
        ("epochs", "expected NAME=VALUE"),
        ("epochs=many", "epochs = 'many': expected int"),
        ("seed=3", "use --seeds"),
        ("data_root=x", "use --data-root"),
        ("lr=-1", "must be at least 1e-30"),
    ):
        code, _, err = run(study, capsys, "--set", wrong, "--out", str(tmp_path / "x"))
        assert code == 2, wrong
        assert message in err[0]
        assert not (tmp_path / "x").exists(), wrong


def test_a_setting_that_contradicts_its_flag(study, capsys, tmp_path):
    code, _, err = run(study, capsys, "--arch", "resnet8", "--set", "arch=resnet20", "--out", str(tmp_path / "x"))
    assert code == 2
    assert "--set arch=resnet20 contradicts --arch resnet8" in err[0]
    assert not (tmp_path / "x").exists()
    assert prepared(study, "--width", "1", "--set", "width=1.0").base.width == 1


@pytest.mark.parametrize("name", ["recipe", "diversity_form"])
def test_what_chooses_defaults_never_sees_the_test_data(load_study, name, capsys, tmp_path):
    code, _, err = run(load_study(name), capsys, "--set", "test_split=official", "--out", str(tmp_path / "x"))
    assert code == 2
    assert "never sees the test data" in err[0]
    assert prepared(load_study(name)).base.test_split == "development"


def test_some_arms_alone(load_study, capsys, tmp_path):
    study = load_study("ablation")
    code, out, _ = run(study, capsys, "--arm", "with both", "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 0
    assert "mutual learning: " in out and "with both: " in out
    assert "single" not in out
    header = prepared(study, "--arm", "with both").header
    assert header.arms == ["mutual learning", "with both"] and header.compare == ["with both"] and not header.contrasts
    whole = [flag for arm in prepared(study).header.arms[3:] for flag in ("--arm", arm)]
    assert len(prepared(study, *whole).header.contrasts) == 5
    assert len(prepared(study, *whole[:6]).header.contrasts) == 4  # the two terms' and both's, without deterministic twins
    named = prepared(load_study("initialization"), "--arm", "both scratch, no diversity").header
    assert named.compare == ["both scratch, no diversity"]
    sizes = [flag for size in ("as it is", "epochs / 4") for flag in ("--arm", f"with both, {size}")]
    assert prepared(load_study("budget"), *sizes).header.compare == ["with both, as it is"]
    code, _, err = run(study, capsys, "--arm", "with bot")
    assert code == 2
    assert "did you mean 'with both'?" in err[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline": "mutual"}, "baseline names 'mutual', which is no arm; did you mean 'mutual learning'?"),
        ({"compare": ("rfb",)}, "compare names 'rfb', which is no arm; did you mean 'rbf'?"),
        ({"members": {"rfb": "peers"}}, "members names 'rfb', which is no arm"),
        ({"members": {"rbf": "peer_1"}}, "members['rbf'] = 'peer_1': expected pair or peers"),
        ({"contrasts": {"c": {"rfb": 1.0, "cosine": -1.0}}}, "contrasts['c'] names 'rfb', which is no arm"),
        ({"contrasts": {"c": {"rbf": 1.0, "cosine": 1.0}}}, "the weights of a contrast add up to 0"),
        ({"contrasts": {"c": {}}}, "contrasts['c'] = {}: the weights"),
        ({"ranges": {"lrr": Log(1, 2)}}, "ranges names 'lrr', which is no setting; did you mean 'lr'?"),
    ],
)
def test_what_a_design_names_wrongly_is_refused_before_any_work(study, capsys, tmp_path, changes, said):
    """Without --dry-run it would train all, and fail when the report is written, each time anew."""
    for flags in ([], ["--arm", "rbf"]):
        code, _, err = run(replace(study, **changes), capsys, "--out", str(tmp_path), "--dry-run", *flags)
        assert code == 2 and said in err[0] and err[0].endswith("Mend it where the study is defined")


def test_no_part_of_a_flag_is_the_flag(study, capsys):
    with pytest.raises(SystemExit):
        run(study, capsys, "--seed", "7", "--dry-run")
    assert "unrecognized arguments: --seed 7; did you mean --seeds?\n" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(study, capsys, "--lanes", "x")
    assert "argument --lanes: 'x': expected a number or auto\n" in capsys.readouterr().err


def test_the_usage_names_what_was_called(study, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["own/question.py", "--help"])
    with pytest.raises(SystemExit):
        parse_flags(study, None)
    assert capsys.readouterr().out.startswith("usage: own/question.py [-h]")


def test_of_a_single_arm_it_is_said_that_nothing_is_compared(study, capsys, tmp_path):
    alone = replace(study, arms={"cosine": {}}, baseline="cosine", contrasts={}, compare=())
    prepared(alone, "--preset", "demo", "--out", str(tmp_path / "x"))
    assert "'cosine' is the only arm: nothing is compared" in capsys.readouterr().err


def test_the_folder_of_another_study_is_no_place_for_this_one(study, capsys, tmp_path):
    records.write_study(tmp_path, dataclasses.replace(prepared(study).header, name="another"))
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and "It is another study's folder: take another --out" in err[0] and "--set" not in err[0]


def test_a_folder_of_another_configuration_is_refused(study, capsys, tmp_path):
    header = prepared(study, "--out", str(tmp_path)).header
    records.write_study(tmp_path, header)
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--seeds", "2", "--arch", "resnet20", "--dry-run")
    assert code == 2 and len(err) == 1
    assert (
        "seeds ([1, 2, 3] there, [1, 2] here)" in err[0]
        and '(--seeds 3 --set arch="resnet8")' in err[0]
        and "arch ('resnet8' there, 'resnet20' here)" in err[0]
    )
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--arm", "rbf", "--dry-run")
    said = f"study: arms ({header.arms} there, {[header.baseline, 'rbf']} here). Use the same flags"
    assert code == 2 and said in err[0], "what follows from the arms is not said again"
    records.write_study(tmp_path, dataclasses.replace(header, settings=header.settings | {"data_root": "/moved"}))
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 0
    (tmp_path / "study.json").write_text("{")
    code, _, err = run(study, capsys, "--out", str(tmp_path))
    assert code == 2 and "study.json: not valid JSON" in err[0]
    assert err[0].endswith("remove it and run the study's command again, which writes it anew and keeps every trial")


NAMES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "studies").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_study_has_a_plan(load_study, name, capsys, tmp_path):
    study = load_study(name)
    code, out, _ = run(study, capsys, "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 0
    assert out.startswith(f"{name}: {study.question}\n")
    for arm in prepared(study).header.arms:
        assert f"\n  {arm}: " in out


@pytest.mark.parametrize(
    "name", ["joint_search", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "joint_search")]
)
def test_every_study_can_be_judged_by_two_objectives(load_study, name, capsys, tmp_path):
    rule = "validation_nll_and_ece"
    code, out, _ = run(load_study(name), capsys, "--dry-run", "--out", str(tmp_path / "x"), "--select", rule)
    assert code == 0
    assert load_study(name).baseline in out


@pytest.mark.parametrize("name", NAMES)
def test_what_a_study_compares_are_arms_of_its_own(load_study, name):
    """Its baseline, what is compared with it, and its contrasts, each of which is a difference: its weights sum to 0."""
    study = load_study(name)
    header = prepared(study).header
    assert {study.baseline, *header.compare, *study.members} <= set(header.arms)
    assert study.baseline not in header.compare
    for contrast, weights in header.contrasts.items():
        assert set(weights) <= set(header.arms), contrast
        assert sum(weights.values()) == pytest.approx(0, abs=1e-12), contrast  # thirds do not add up to the bit
        assert sum(weight for weight in weights.values() if weight > 0) > 0, contrast


def test_the_arms_are_what_their_names_say(load_study):
    def made(name, preset="demo", **settings):
        study, base = load_study(name), configure(preset, settings)
        return {arm.name: arm.config for arm in make_arms(study, base, choose_arms(study, (), base))}

    arms = made("ablation", "paper")
    acting = {name: (config.mutual_weight > 0, config.alpha > 0, config.beta > 0) for name, config in arms.items()}
    bayesian = {
        "single BNN": (False, False, False), "two single BNNs": (False, False, False),
        "mutual learning": (True, False, False), "with parameter diversity": (True, True, False),
        "with feature diversity": (True, False, True), "with both": (True, True, True),
    }  # fmt: skip
    twins = {"two deterministic networks": (False, False, False), "deterministic mutual learning": (True, False, False)}
    dear = {
        "one deterministic network, twice the arithmetic": (False, False, False),
        "one deterministic network, taught by a finished one": (True, False, False),
        "eight deterministic networks": (False, False, False),
        "four peers, with both": (True, True, True),
    }  # fmt: skip
    assert acting == bayesian | twins | dear
    assert {name for name, config in arms.items() if not config.bayesian} == set(acting) - set(bayesian) - {
        "four peers, with both"
    }
    assert [config.peers for config in arms.values()] == [2] * 8 + [1, 8, 1, 4]
    wide, taught, *_ = dear
    assert [name for name, config in arms.items() if config.teacher == "pretrained"] == [taught]
    assert set(made("ablation")) == set(bayesian | twins)
    assert set(made("ablation", "paper", arch="resnet18")) == set(acting) - {wide}
    assert set(made("ablation", "paper", data="cifar10")) == set(acting)
    switches = {name: config.switch_epoch for name, config in made("stage_switch").items()}
    shares = {"at once": 0, "after 1/6": 2, "after 1/3": 4, "after 1/2": 6, "after 2/3": 8, "after 5/6": 10}
    twins = {f"{name}, without the terms": epoch for name, epoch in shares.items() if epoch}
    assert switches == {"never": 12} | shares | twins
    kernels = made("kernel_sweep")
    assert {name for name, config in kernels.items() if config.kernel == name and config.diverse} == set(KERNELS)
    assert not kernels["mutual learning"].diverse


def test_the_results_place_is_named_once(study, monkeypatch, tmp_path):
    monkeypatch.setenv(RESULTS, str(tmp_path))
    prepared_run = prepared(study)
    assert prepared_run.place == f"{tmp_path}/kernel_sweep" and prepared_run.store.place == f"{tmp_path}/trunks"
    assert prepared(study, "--out", "elsewhere").place == str(Path("elsewhere").resolve())


def test_header_is_json_and_says_what_the_analysis_needs(study):
    header = json.loads(json.dumps(dataclasses.asdict(prepared(study).header)))
    assert header["arms"][0] == header["baseline"] == "mutual learning" and len(header["arms"]) == ARMS
    assert header["settings"]["epochs"] == 12 and header["environment"]["commit"]


#: Other values of study.json's fields, of the right type, where "other", 17, ["other"] or {"other": {}} is not.
OTHER = {"plugin_files": {"other": "other.py"},
    "early_stopping": "other", "surface": {"alpha": [1.0, 2.0]}, "members": {"other": "pair"}, "searched": {"other": []},
    "seeds": [17], "looks": [17], "level": 0.5, "search_seeds": [17], "margins": {"nll": 1.0, "accuracy": 1.0, "ece": 1.0},
    "plugins": {"other": "0123456789ab"},
}  # fmt: skip


def other(name, value):
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    return OTHER.get(name) or {str: "other", int: 17, list: ["other"], dict: {"other": {}}}[type(value)]


@pytest.fixture
def described(monkeypatch):
    """Dry runs look at the folder alone: what they say takes a second, and is not looked at here."""
    monkeypatch.setattr("mldiv.cli.dry_run.describe", lambda *given: "")


def test_whatever_differs_in_a_folder_is_refused(study, capsys, tmp_path, described):
    """Every field of study.json and every setting, but what moves no number: versions, words about the data, paths."""
    header = prepared(study).header
    left_out = {"settings", "schema", "chosen", "importance", "drawn", "grown"}
    changed = {name: {name: other(name, value)} for name, value in vars(header).items() if name not in left_out}
    changed |= {name: {"settings": header.settings | {name: "other"}} for name in header.settings if name != "data"}
    taken = {"environment", "data", "trends", "plugin_files", "kernel_defaults"} | sparing(TrialConfig, TRIAL)
    asked = prepared(study, "--out", str(tmp_path), "--dry-run")
    for name, changes in changed.items():
        records.write_study(tmp_path, dataclasses.replace(header, **changes))
        refused = contextlib.nullcontext() if name in taken else pytest.raises(ConfigError)
        with refused as error, open_folder(asked):
            pass
        if name not in taken:
            assert f"{name} ({changes.get(name, 'other')!r} there" in str(error.value), name
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 2  # as the last one was


def test_a_folder_from_before_a_setting_was_there_goes_on_with_its_default(study, capsys, tmp_path, described):
    header = prepared(study).header
    settings = {name: value for name, value in header.settings.items() if name != "mutual_weight"}
    records.write_study(tmp_path, dataclasses.replace(header, settings=settings))
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 0
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--dry-run", "--set", "mutual_weight=0.5")
    assert code == 2 and "mutual_weight (1.0 there, 0.5 here)" in err[0]


def multiply_adds(config, classes, channels, size):
    """Of a network's convolutions and linear layers, for one image."""
    module = build(config.arch, classes=classes, channels=channels, width=config.width, seed=0, image_size=size).eval()
    found = []

    def count(layer, inputs, output):
        places = output[0, 0].numel() if output.dim() == 4 else 1
        found.append(layer.weight.numel() * places)

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    module(torch.zeros(1, channels, size, size))
    return sum(found)


@pytest.mark.parametrize("preset", ["quick", "small", "paper"])
def test_the_wider_network_takes_the_arithmetic_of_two(load_study, preset):
    study, base = load_study("ablation"), configure(preset, {})
    wide = {arm.name: arm.config for arm in make_arms(study, base, choose_arms(study, (), base))}[
        "one deterministic network, twice the arithmetic"
    ]
    shape = (10, 1, 8) if base.data == "digits" else (10, 3, 32)
    assert multiply_adds(wide, *shape) / multiply_adds(base, *shape) == pytest.approx(2, rel=0.05)
