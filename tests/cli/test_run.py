"""The command line: what the flags mean, the plan that a dry run prints, the study that is recorded."""

import dataclasses
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.command import prepared, run
from PIL import Image

from mldiv.cli import execute
from mldiv.cli.execute import idleness
from mldiv.cli.flags import RENAMED, RESULTS, parse_flags
from mldiv.cli.run import configure_trials, prepare
from mldiv.cli.screen.display import clock
from mldiv.method.kernels import KERNELS
from mldiv.presets import PRESETS
from mldiv.storage.cache import Store
from mldiv.storage.object_store import SyncedFolder
from mldiv.study import Study
from mldiv.sweep.simulate import first_wins, simulate
from mldiv.training import step_cost
from mldiv.training.first_stage import environment_id, first_stage_id
from mldiv.training.worker_cache import dataset

MEASURE = step_cost.measure
#: Of the kernel sweep: each kernel and the baseline.
ARMS = len(KERNELS) + 1

PLANNED = ["--dry-run", "--seeds", "2", "--trials", "3"]


@pytest.fixture(scope="module")
def study(load_study) -> Study:
    return load_study("kernel_sweep")


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_flags_old_name_is_taken_and_the_new_one_said(study, capsys, old, new):
    value = [] if old == "--no-store" else ["3"]
    before, after = (parse_flags(study, [name, *value]) for name in (old, new))
    assert before == after != parse_flags(study, [])
    assert capsys.readouterr().err == f"{old} is called {new} now; the old name ends with the next version\n"
    if value:
        assert parse_flags(study, [f"{old}=3"]) == after


def test_an_empty_address_is_this_machine(study, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert parse_flags(study, []).address == "local"


def test_a_study_that_trains_here_hears_of_no_cluster(study, monkeypatch):
    """Its memory was that of a cluster's nodes, which is unknown, and so anything was let begin."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert parse_flags(study, []).address == "127.0.0.1:1"
    assert parse_flags(study, ["--in-process"]).address == "local"


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
        taken = "all test images" if "train_size" in kept else "all training images" if kept else "all there are"
        assert f"fewer images than preset demo takes, so {taken}: image_folder: {images}" in said


@pytest.mark.parametrize("setting", ["train_size=500", "validation_size=130", "test_size=50"])
def test_what_the_user_asks_of_a_small_data_set_is_refused(study, capsys, tmp_path, few_images, setting):
    code, _, err = run(study, capsys, *few_images, "--set", setting, "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 2 and len(err) == 1 and setting.replace("=", " = ") in err[0]


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
    _, out, _ = run(study, capsys, *PLANNED, "--no-cache", "--out", str(tmp_path / "x"))
    assert out.endswith("x, nothing shared\n") and " 0 shared, " in out


def test_dry_run_counts_what_its_trials_can_use(study, capsys, tmp_path):
    """First stages of another torch, processor or plug-in lie there too; so may a copy that a person has made."""
    argv = ["--dry-run", "--in-process", "--arm", "rbf", "--seeds", "1", "--trials", "0"]
    argv += ["--out", str(tmp_path / "x"), "--cache", str(tmp_path / "store")]
    config = prepared(study, *argv).plan(tmp_path / "x").ask().config
    own = environment_id(dataset(config), torch.device("cpu"), threads=1)
    for environment, shared in (("0123456789abcdef", 8), (own, 16)):
        Store(tmp_path / "store").publish(f"trunks/{first_stage_id(config)}-{environment}/00008", {})
        Store(tmp_path / "store").publish(f"trunks/{first_stage_id(config)}-{environment}/00008 (copy)", {})
        code, out, _ = run(study, capsys, *argv)
        assert code == 0 and f"  24 epochs asked for: {shared} shared, {24 - shared} to train\n" in out
        begun = prepared(study, *(item for item in argv if item != "--dry-run"))
        forecast = execute.make_forecast(begun, SyncedFolder(tmp_path / "x"), begun.plan(tmp_path / "x"))
        assert forecast.count({}).shared == shared, "the time left while it runs"


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
        (True, ["--set", "precision=bf16", "--in-process"], True),
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


def test_flags_of_a_search_say_where_nothing_is_searched(study, capsys):
    """They are kept: a folder that grows by a search later has to name them from the start."""
    flags = ["--stop-early", "--open-suggestions", "2", "--select", "validation_nll_and_ece"]
    assert prepared(study, *flags, "--trials", "0").header.batch == 2
    assert "nothing is searched (--trials above 0 does): --stop-early, --open-suggestions, --select" in capsys.readouterr().err
    prepared(study, *flags, "--trials", "1")
    prepared(study, "--trials", "0")
    assert "nothing is searched" not in capsys.readouterr().err


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


def test_a_setting_with_a_flag_of_its_own_is_the_same_by_set(study):
    """A network had its recipe, and a data set the preset's cut, by the flag alone."""
    for name, value, preset in (("arch", "vit", "demo"), ("data", "cifar10", "demo"), ("data", "digits", "small")):
        by_flag, by_set = ([f"--{name}", value], ["--set", f"{name}={value}"])
        found = [configure_trials(study, parse_flags(study, argv), preset) for argv in (by_flag, by_set)]
        assert found[0] == found[1] != configure_trials(study, parse_flags(study, []), preset), (name, value)


def test_the_usage_names_what_was_called(study, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["own/question.py", "--help"])
    with pytest.raises(SystemExit):
        parse_flags(study, None)
    assert capsys.readouterr().out.startswith("usage: own/question.py [-h]")


def test_of_a_single_arm_it_is_said_that_nothing_is_compared(study, capsys, tmp_path):
    alone = replace(study, arms={"cosine": {}}, baseline="cosine", contrasts={}, compare=())
    prepared(alone, "--preset", "demo", "--out", str(tmp_path / "x"))
    assert "'cosine' is the only arm: nothing is compared" in capsys.readouterr().err


def test_a_folder_of_images_that_nothing_reads_is_told_of(study, capsys, tmp_path):
    """Without --data a study of digits was trained, beside the images that were meant."""
    said = "--data-root: digits need none, and nothing is read there; --data says what it holds"
    flags = ["--preset", "demo", "--data-root", str(tmp_path), "--out", str(tmp_path / "x")]
    prepared(study, *flags)
    assert said in capsys.readouterr().err
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "other.png")
    prepared(study, *flags, "--ood", f"image_folder@{tmp_path}")
    assert said not in capsys.readouterr().err


def test_the_results_place_is_named_once(study, monkeypatch, tmp_path):
    monkeypatch.setenv(RESULTS, str(tmp_path))
    prepared_run = prepared(study)
    assert prepared_run.place == f"{tmp_path}/kernel_sweep" and prepared_run.store.place == f"{tmp_path}/trunks"
    assert prepared(study, "--out", "elsewhere").place == str(Path("elsewhere").resolve())
    monkeypatch.setenv(RESULTS, "")
    assert prepared(study).place == str(Path("results/kernel_sweep").resolve()), "an empty variable is none"


def test_header_is_json_and_says_what_the_analysis_needs(study):
    header = json.loads(json.dumps(dataclasses.asdict(prepared(study).header)))
    assert header["arms"][0] == header["baseline"] == "mutual learning" and len(header["arms"]) == ARMS
    assert header["settings"]["epochs"] == 12 and header["environment"]["commit"]


def test_interrupted_it_counts_trials_as_the_bar_does(monkeypatch):
    """Two arms may ask for one trial (ablation: a single BNN and two of them), of which the bar counts two."""
    said = list[str]()
    plan = SimpleNamespace(assignments=[SimpleNamespace(trial=trial) for trial in "aab"], trials=lambda: 3)
    monkeypatch.setattr(execute, "unfinished", lambda folder, plan: ["b"])
    execute.interrupted(SimpleNamespace(say=said.append), None, plan)
    assert said[0].startswith("interrupted; 2 of 3 trials are recorded")
