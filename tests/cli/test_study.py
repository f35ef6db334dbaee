"""The command line: bad input is one clear line and exit code 2 before Ray starts; the plan; the folder's identity."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest

from mldiv import records
from mldiv.conduct import idleness
from mldiv.flags import RESULTS, parse_flags
from mldiv.invocation import Run
from mldiv.study import Study

ROOT = Path(__file__).resolve().parents[2]


def load(name):
    return runpy.run_path(str(ROOT / "studies" / f"{name}.py"))["STUDY"]


@pytest.fixture(scope="module")
def study() -> Study:
    return load("kernel_sweep")


def refuse_to_build(folder, place):
    raise AssertionError("nothing may be built")


def run(study, capsys, *argv):
    code = study.main(refuse_to_build, argv)
    out, err = capsys.readouterr()
    return code, out, [line for line in err.splitlines() if "preset demo (no GPU" not in line]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "demmo"], "--preset 'demmo' is unknown; did you mean 'demo'?"),
        (["--data", "cifar1000"], "data = 'cifar1000' is unknown; did you mean 'cifar100'?"),
        (["--arch", "resnet21"], "arch = 'resnet21' is unknown; did you mean 'resnet"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--samples", "-1"], "--samples -1: must be at least 0"),
        (["--workers", "-2"], "--workers -2: must be at least 1"),
        (
            ["--workers", "3", "--preset", "demo", "--address", "127.0.0.1:1"],
            "--workers 3: the batch of 64 cannot be shared evenly",
        ),
        (["--workers", "4096"], "--workers 4096: this machine has"),
        (["--data", "cifar100"], "--data-root is missing"),
        (["--data", "cifar100", "--data-root", "/nowhere"], "/nowhere: no such folder"),
        (["--data", "cifar10", "--data-root", __file__], "a file, where a folder was expected"),
        (["--out", "/proc/mldiv"], "--out /proc/mldiv: cannot be written"),
        (["--store", "/proc/mldiv", "--dry-run"], "--store /proc/mldiv: cannot be written"),
        (["--store-size", "0"], "--store-size 0: must be greater than zero"),
        (["--groups", "0"], "--groups 0: must be at least 1"),
        (["--arch", "resnet18"], "width = 0.5: resnet18 comes in width 1 only"),
        (["--ood", "photos"], "ood = 'photos' is unknown; did you mean 'photographs'?"),
        (["--ood", "digits"], "ood = 'digits': the networks are trained on digits"),
        (["--ood", "cifar10"], "--data-root is missing"),
        (["--select", "test_nll"], "--select 'test_nll' is unknown; known: validation_nll"),
        (["--in-process", "--stop-early"], "--stop-early needs Ray"),
        (["--in-process", "--workers", "2"], "--workers needs Ray"),
    ],
)
def test_bad_input_is_one_line_and_code_2(study, capsys, argv, message):
    code, out, err = run(study, capsys, *argv)
    assert code == 2 and not out and len(err) == 1
    assert err[0].startswith("kernel_sweep: ") and message in err[0]
    assert "ray" not in sys.modules or not __import__("ray").is_initialized()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(study, capsys, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = run(study, capsys, "--out", str(tmp_path / "x"))
    assert code == 2 and "cannot be written" in err[0]


def test_unknown_flags_and_words_end_with_code_2(study):
    for argv in (["--prset", "demo"], ["--seeds", "many"]):
        with pytest.raises(SystemExit) as end:
            study.main(refuse_to_build, argv)
        assert end.value.code == 2


def test_dry_run_prints_the_plan_and_starts_nothing(study, capsys, tmp_path):
    code, out, _ = run(study, capsys, "--dry-run", "--out", str(tmp_path / "x"), "--seeds", "2", "--samples", "3")
    assert code == 0 and not (tmp_path / "x").exists()
    assert "35 trials, 0 of them recorded already" in out and "420 epochs asked for" in out
    assert "mutual learning: 3 Optuna trials over lr, kl_weight, temperature, then 2 seeds" in out
    assert "while arms are searched, 7 trials at once at most (--batch)" in out
    assert " epochs of pretraining to train" in out and "about" in out and "digits: 1,221 training" in out


def test_batch_opens_more_trials(study, capsys, tmp_path):
    given = ["--dry-run", "--out", str(tmp_path / "x"), "--samples", "3", "--seeds", "2", "--batch", "2"]
    assert "14 trials at once at most" in run(study, capsys, *given)[1]
    one = Run(study, parse_flags(study, given))
    assert one._header()["batch"] == 2 and one.study.plan(one.base, tmp_path, 1, 2).open_at_once() == 7
    plan = one.study.plan(one.base, tmp_path, 3, 2)
    assert idleness(plan, 14) is None and "room for 15 trials at once, but the arms' searches keep 14 busy" in idleness(
        plan, 15
    )
    assert idleness(one.study.plan(one.base, tmp_path, 0, 2), 100) is None
    code, _, err = run(study, capsys, "--batch", "0")
    assert code == 2 and "--batch 0: must be at least 1" in err[0]


def test_set_changes_any_setting(study, capsys, tmp_path):
    given = ["--set", "epochs=20", "--set", "switch_epoch=5", "--set", "channels_last=true", "--set", "schedule=step"]
    base = Run(study, parse_flags(study, given)).base
    assert (base.epochs, base.switch_epoch, base.channels_last, base.schedule) == (20, 5, True, "step")
    assert Run(study, parse_flags(study, ["--preset", "small", "--set", "train_size=null"])).base.train_size is None
    for wrong, message in (
        ("epoch=20", "did you mean 'epochs'?"),
        ("epochs", "expected NAME=VALUE"),
        ("epochs=many", "epochs = 'many': expected int"),
        ("seed=3", "use --seeds"),
        ("data_root=x", "use --data-root"),
        ("lr=-1", "must be greater than zero"),
    ):
        code, _, err = run(study, capsys, "--set", wrong, "--out", str(tmp_path / "x"))
        assert code == 2 and message in err[0] and not (tmp_path / "x").exists()


def test_a_setting_that_contradicts_its_flag(study, capsys, tmp_path):
    code, _, err = run(study, capsys, "--arch", "resnet8", "--set", "arch=resnet20", "--out", str(tmp_path / "x"))
    assert code == 2 and "--set arch=resnet20 contradicts --arch resnet8" in err[0] and not (tmp_path / "x").exists()
    code, _, err = run(study, capsys, "--width", "1", "--set", "width=1.0", "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 0


def test_what_chooses_defaults_never_sees_the_test_data(capsys, tmp_path):
    code, _, err = run(load("recipe"), capsys, "--set", "test_split=official", "--out", str(tmp_path / "x"))
    assert code == 2 and "never sees the test data" in err[0]


def test_some_arms_alone(capsys, tmp_path):
    study = load("ablation")
    code, out, _ = run(study, capsys, "--arm", "with both", "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 0 and "mutual learning: " in out and "with both: " in out and "single" not in out
    header = Run(study, parse_flags(study, ["--arm", "with both"]))._header()
    assert header["arms"] == ["mutual learning", "with both"] and header["compare"] == ["with both"] and not header["contrasts"]
    whole = [flag for arm in list(study.arms)[3:] for flag in ("--arm", arm)]
    assert len(Run(study, parse_flags(study, whole))._header()["contrasts"]) == 3
    starts = load("initialization")
    named = Run(starts, parse_flags(starts, ["--arm", "both scratch, no diversity"]))._header()
    assert named["compare"] == ["both scratch, no diversity"]
    code, _, err = run(study, capsys, "--arm", "with bot")
    assert code == 2 and "did you mean 'with both'?" in err[0]


def test_a_folder_of_another_configuration_is_refused(study, capsys, tmp_path):
    run(study, capsys, "--dry-run", "--out", str(tmp_path))
    flags = parse_flags(study, ["--out", str(tmp_path)])
    header = Run(study, flags)._header()
    records.write_json(tmp_path / "study.json", header)
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--seeds", "5", "--arch", "resnet20", "--dry-run")
    assert code == 2 and len(err) == 1
    assert "seeds ([1, 2, 3] there, [1, 2, 3, 4, 5] here)" in err[0] and "arch ('resnet8' there, 'resnet20' here)" in err[0]
    elsewhere = header | {"settings": header["settings"] | {"data_root": "/moved"}}
    records.write_json(tmp_path / "study.json", elsewhere)
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 0
    (tmp_path / "study.json").write_text("{")
    code, _, err = run(study, capsys, "--out", str(tmp_path))
    assert code == 2 and "study.json: not valid JSON" in err[0]


@pytest.mark.parametrize("rule", ["validation_nll", "validation_nll_and_ece"])
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "studies").glob("*.py")))
def test_every_study_has_a_plan(name, rule, capsys, tmp_path):
    code, out, _ = run(load(name), capsys, "--dry-run", "--out", str(tmp_path / "x"), "--select", rule)
    assert code == 0 and out.startswith(f"{name}: ") and load(name).baseline in out


def test_the_results_place_is_named_once(study, monkeypatch, tmp_path):
    monkeypatch.setenv(RESULTS, str(tmp_path))
    one = Run(study, parse_flags(study, []))
    assert one.place == f"{tmp_path}/kernel_sweep" and one.store.place == f"{tmp_path}/trunks"
    assert Run(study, parse_flags(study, ["--out", "elsewhere"])).place == str(Path("elsewhere").resolve())


def test_header_is_json_and_says_what_the_analysis_needs(study):
    header = json.loads(json.dumps(Run(study, parse_flags(study, []))._header()))
    assert header["arms"][0] == header["baseline"] == "mutual learning" and len(header["arms"]) == 7
    assert header["settings"]["epochs"] == 12 and header["environment"]["commit"]
