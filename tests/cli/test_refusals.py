"""Bad input is one clear line and exit code 2, before Ray starts and before anything is written."""

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.command import prepared, refuse_to_build, run

from mldiv.__main__ import main as command
from mldiv.cli.main import main
from mldiv.evaluation.metrics import METRICS
from mldiv.method.kernels import KERNELS
from mldiv.method.losses import PARAM_DISTANCES, Distance
from mldiv.settings.setting import Log
from mldiv.study import Study

#: A file of one's own that defines a study.
OWN = """from mldiv.study import Study
STUDY = Study(name='mine', question='?', scientific='arm', arms={'a': {}}, searched=('lr',), baseline='a')
"""


@pytest.fixture(scope="module")
def study(load_study) -> Study:
    return load_study("kernel_sweep")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "demmo"], "--preset 'demmo' is unknown; did you mean 'demo'?"),
        (["--set", "schedule=linear"], "schedule = 'linear' is unknown; known: constant, cosine, step"),
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
        (["--in-process", "--address", "127.0.0.1:6379"], "--address needs Ray"),
        (["--margin", "nll"], "--margin nll: expected METRIC=SIZE"),
        (["--margin", "nll=1", "--margin", "nll=2"], "--margin nll=2: nll has two; leave one out"),
        *(
            ([f"--{name}", ""], f"--{name} is empty: name a place, or leave the flag out")
            for name in ("out", "cache", "data-root", "train-labels", "pretrained", "address")
        ),
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


def test_a_metric_that_cannot_score_is_refused(study, capsys, monkeypatch):
    """Every trial would end with it, once it is trained."""
    monkeypatch.setitem(METRICS, "per_image", lambda predictive, labels: predictive.probabilities[:, 0])
    code, _, err = run(study, capsys, "--preset", "demo", "--dry-run")
    assert code == 2 and err[0].startswith("kernel_sweep: metric 'per_image' cannot score predictions of 10 classes: ")


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (lambda a, b: (a @ b.T).mean(1), "similarities of 7 images have the shape (7,)"),
        (lambda a, b: -torch.cdist(a, b), ", not within [0, 1]"),
        (lambda a: a, "TypeError: "),
    ],
)
def test_a_kernel_whose_similarities_are_none_is_refused(study, capsys, monkeypatch, tmp_path, mine, said):
    """Of a wrong shape they were broadcast, and trained on; what raised failed at the switch."""
    monkeypatch.setitem(KERNELS, "mine", mine)
    arms = {"cosine": {}, "mine": {"kernel": "mine"}}
    code, _, err = run(
        replace(study, arms=arms, baseline="cosine"), capsys, "--preset", "demo", "--dry-run", "--out", str(tmp_path)
    )
    assert code == 2 and err[0].startswith("kernel_sweep: kernel 'mine': ") and said in err[0]


@pytest.mark.parametrize(
    "mine",
    [
        lambda a, s, b, t: 0,
        Distance(lambda a, s, b, t: a - b, symmetric=True),
        Distance(lambda a, s, b, t: (-a).log().sum(), symmetric=True),
    ],
)
def test_a_distance_that_is_no_number_is_refused(study, capsys, monkeypatch, tmp_path, mine):
    monkeypatch.setitem(PARAM_DISTANCES, "mine", mine)
    arms = {"cosine": {}, "mine": {"param_distance": "mine"}}
    code, _, err = run(
        replace(study, arms=arms, baseline="cosine"), capsys, "--preset", "demo", "--dry-run", "--out", str(tmp_path)
    )
    assert code == 2 and err[0].startswith("kernel_sweep: distance 'mine': ")


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {}}, "it has no arms: name at least the baseline's"),
        ({"baseline": "mutual"}, "baseline names 'mutual', which is no arm; did you mean 'mutual learning'?"),
        ({"baseline": None}, "baseline names None, which is no arm"),
        ({"arms": {2: {}, "cosine": {"beta": 0.1}}, "baseline": "cosine"}, "the name of an arm = 2: expected a text"),
        ({"name": "../mine"}, "name = '../mine': expected the name of a folder"),
        ({"name": ".."}, "name = '..': expected the name of a folder"),
        ({"name": "."}, "name = '.': expected the name of a folder"),
        ({"name": ""}, "name = '': expected the name of a folder"),
        ({"question": None}, "question = None: expected a text"),
        ({"contrasts": {1: {"rbf": 1.0, "cosine": -1.0}}}, "the name of a contrast = 1: expected a text"),
        ({"compare": ("rfb",)}, "compare names 'rfb', which is no arm; did you mean 'rbf'?"),
        ({"members": {"rfb": "peers"}}, "members names 'rfb', which is no arm"),
        ({"members": {"rbf": "peer_1"}}, "members['rbf'] = 'peer_1': expected pair or peers"),
        ({"contrasts": {"c": {"rfb": 1.0, "cosine": -1.0}}}, "contrasts['c'] names 'rfb', which is no arm"),
        ({"contrasts": {"c": {"rbf": 1.0, "cosine": 1.0}}}, "the weights of a contrast add up to 0"),
        ({"contrasts": {"c": {"rbf": float("nan"), "cosine": 1.0}}}, "the weights of a contrast add up to 0"),
        ({"contrasts": {"c": {"rbf": "1", "cosine": -1.0}}}, "the weights of a contrast add up to 0"),
        ({"contrasts": {"c": {}}}, "contrasts['c'] = {}: the weights"),
        ({"contrasts": {"rbf": {"rbf": 1.0, "cosine": -1.0}}}, "contrasts['rbf'] has the name of an arm"),
        ({"ranges": {"lrr": Log(1, 2)}}, "ranges names 'lrr', which is no setting; did you mean 'lr'?"),
        ({"samples": {"dmo": 5}}, "samples names 'dmo', which is no preset; did you mean 'demo'?"),
        ({"samples": {"demo": "5"}}, "samples['demo'] = '5': expected a number from 0 on"),
        ({"batch": 0}, "batch = 0: expected a number from 1 on"),
        ({"batch": 1.5}, "batch = 1.5: expected a number from 1 on"),
        ({"search_seeds": 0}, "search_seeds = 0: expected"),
    ],
)
def test_what_a_design_names_wrongly_is_refused_before_any_work(study, capsys, tmp_path, changes, said):
    """Without --dry-run it would train all, and fail when the report is written, each time anew."""
    for flags in ([], ["--arm", "rbf"]):
        code, _, err = run(replace(study, **changes), capsys, "--out", str(tmp_path), "--dry-run", *flags)
        assert code == 2 and said in err[0] and err[0].endswith("Mend it where the study is defined")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"alhpa": 1.0}, "arm 'mine': no setting is called 'alhpa'; did you mean 'alpha'?"),
        ({"alpha": "1"}, "arm 'mine': alpha = '1': expected float"),
    ],
)
def test_an_arm_with_what_is_no_setting_is_named(study, capsys, tmp_path, changes, said):
    """A study of a dozen arms has a dozen places where it may stand."""
    arms = {"cosine": {}, "mine": changes}
    code, _, err = run(replace(study, arms=arms, baseline="cosine"), capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and err == [f"kernel_sweep: {said}"]


def test_numbers_of_numpy_are_numbers(study):
    """Weights made by it were refused as none."""
    weights, samples = {"rbf": np.float32(1), "cosine": np.float32(-1)}, {"demo": np.int64(3)}
    own = replace(study, arms={"rbf": {}, "cosine": {}}, baseline="rbf", compare=(), contrasts={"c": weights}, samples=samples)
    assert list(own.faults(["rbf", "cosine"])) == []


@pytest.mark.parametrize(
    ("field", "made", "said"),
    [
        ("arms", 5, "the function arms of the study kernel_sweep returned 5: expected what each sets by its name"),
        ("arms", {"cosine": 5}, "returned {'cosine': 5}: expected what each sets by its name"),
        ("contrasts", {"c": 5}, "returned {'c': 5}: expected each contrast's weights by its name"),
        ("ranges", 5, "returned 5: expected a setting's range by its name"),
    ],
)
def test_what_a_designs_function_returns_is_checked_as_what_stands_there(study, capsys, tmp_path, field, made, said):
    """It ended in a traceback of ours."""
    code, _, err = run(replace(study, **{field: lambda *_: made}), capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and said in err[0], err


@pytest.mark.parametrize("field", ["arms", "contrasts", "ranges", "surface", "sizes", "trends"])
def test_a_designs_function_that_fails_is_named(study, capsys, tmp_path, field):
    """It ended in a traceback of ours."""

    def wrong(*given):
        return given[7]

    line = wrong.__code__.co_firstlineno + 1
    code, _, err = run(replace(study, **{field: wrong}), capsys, "--out", str(tmp_path), "--dry-run")
    said = f"the function {field} of the study kernel_sweep: IndexError: tuple index out of range (line {line})"
    assert code == 2 and said in err[-1], err


def test_what_could_not_be_read_of_a_study_is_refused_before_any_work(study, capsys, tmp_path):
    """All was trained, and then its study.json could not be read, nor was it when the same command wrote it anew."""
    code, _, err = run(replace(study, trends=lambda base: 5), capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and "kernel_sweep: the study: trends = 5: expected dict" in err[-1], err


def test_arms_that_the_study_itself_makes_alike_are_mended_there(study, capsys, tmp_path):
    """It sent to a --set that nobody had given."""
    arms = {"cosine": {}, "mine": {"kernel": "cosine"}}
    code, _, err = run(replace(study, arms=arms, baseline="cosine"), capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and "mend them where the study is defined, or take back the --set that makes them so" in err[0], err


def test_words_may_be_written_in_figures(study):
    """`--set fusion_blocks=2` was refused as a number that is no text."""
    assert prepared(study, "--set", "fusion_blocks=2").base.fusion_blocks == "2"
    assert prepared(study, "--set", 'fusion_blocks="2"').base.fusion_blocks == "2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("STUDY = 3", "STUDY is of the type int"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere' (line 1)"),
        ("STUDY = (", "mine.py, line 1)"),
        (OWN.replace("baseline", "basline"), "unexpected keyword argument 'basline'"),
        (OWN.replace("{'a': {}}", "['a']"), "TypeError: arms: expected what each sets by its name"),
        (OWN.replace("{'a': {}}", "{'a': {'alpha'}}"), "TypeError: arms: expected what each sets by its name"),
        (OWN.replace("('lr',)", "('lr')"), "TypeError: searched = 'lr': expected a tuple of names, such as ('lr',) (line 2)"),
        (OWN.replace("('lr',)", "5"), "TypeError: searched = 5: expected a tuple of names"),
        (OWN.replace("'mine'", "5"), "TypeError: name = 5: expected a text (line 2)"),
        (OWN.replace("baseline='a'", "baseline='ab'"), "baseline names 'ab', which is no arm; did you mean 'a'? Mend it"),
        *(
            (OWN.replace("baseline='a'", f"baseline='a', {name}={given}"), f"TypeError: {name}{said}")
            for name, given, said in (
                ("compare", "5", " = 5: expected a tuple of names"),
                ("contrasts", "5", ": expected each contrast's weights by its name"),
                ("contrasts", "{'x': 5}", ": expected each contrast's weights by its name"),
                ("members", "5", ": expected whose predictions count by an arm's name"),
                ("settings", "5", ": expected values by a setting's name"),
                ("samples", "5", ": expected numbers by a preset's name"),
                ("ranges", "5", ": expected a setting's range by its name"),
                ("surface", "5", " = 5: expected a function"),
                ("sizes", "5", " = 5: expected a function"),
                ("trends", "5", " = 5: expected a function"),
            )
        ),
    ],
)
def test_a_file_that_defines_no_study_says_why(tmp_path, capsys, text, said):
    """In one line, not by a traceback."""
    (tmp_path / "mine.py").write_text(text)
    code = command(["run", str(tmp_path / "mine.py"), "--preset", "demo", "--dry-run", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().err.splitlines()
    assert code == 2 and said in printed[-1] and "Traceback" not in "".join(printed), printed


@pytest.mark.parametrize("argv", [["studies"], ["run", "nosuch"], ["check-plugin"]], ids=lambda argv: argv[0])
def test_a_plugin_that_cannot_be_loaded_is_a_line_whatever_the_command(tmp_path, capsys, argv):
    (tmp_path / "mine.py").write_text("import nowhere")
    named = [] if argv == ["check-plugin"] else ["--plugin"]
    assert command([*argv, *named, str(tmp_path / "mine.py")]) == 2
    assert capsys.readouterr().err.startswith(f"mldiv: plug-in {tmp_path}/mine.py: ModuleNotFoundError")


def test_no_part_of_a_flag_is_the_flag(study, capsys):
    with pytest.raises(SystemExit):
        run(study, capsys, "--seed", "7", "--dry-run")
    assert "unrecognized arguments: --seed 7; did you mean --seeds?\n" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(study, capsys, "--lanes", "x")
    assert "argument --lanes: 'x': expected a number or auto\n" in capsys.readouterr().err


def test_a_place_of_what_is_not_shared_is_refused(study, capsys):
    """It was passed over."""
    with pytest.raises(SystemExit):
        run(study, capsys, "--cache", "somewhere", "--no-cache")
    assert "argument --no-cache: not allowed with argument --cache\n" in capsys.readouterr().err
