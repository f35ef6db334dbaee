"""A trial that fails means the same with Ray and without: the same record, the same exit code, the others go on."""

import json

import pytest
from helpers.small_study import STUDY, TINY

from analysis.build import build
from mldiv.cli.main import main
from mldiv.datasets.sources import DataError
from mldiv.records.study_files import find_trial, read_assignments
from mldiv.storage.object_store import SyncedFolder, working_copy
from mldiv.training import attempt

pytestmark = pytest.mark.ray

FLAGS = ["--preset", "demo", "--seeds", "1", "--trials", "1", *(f"--set={setting}" for setting in TINY)]
WAYS = ["in this process", "on Ray"]


@pytest.fixture(params=WAYS)
def way(request, shared_cluster, threads):
    """The flags of a way of training. Ray's groups are threads of this process, so that what is patched here is patched there;
    its clients are processes of their own."""
    return ["--in-process"] if request.param == WAYS[0] else ["--address", shared_cluster.address, "--parallel-trials", "1"]


def failing(error, where=lambda config: config.alpha > 0 and config.seed == 1):
    fitting = attempt.fitting

    def fit_or_fail(config, folder, **options):
        if where(config):
            raise error
        return fitting(config, folder, **options)

    return fit_or_fail


def ended(place):
    """How every trial ended, by arm and phase: status, the first line of the reason, and whether there is a traceback."""
    with working_copy(place, fetch=False) as copy:
        copy.pull_study()
        found = {}
        for item in read_assignments(copy.local):
            record = find_trial(copy.local, item.trial)
            first, _, rest = (record.reason or "").partition("\n")
            found[item.arm, item.phase] = record.status, first, rest.startswith("Traceback")
        return found


WELL = ("finished", "", False)
ALL_WELL = {("plain", "repeat"): WELL, ("both", "search"): WELL, ("both", "repeat"): WELL}


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("way", "error"),
    [
        (WAYS[0], FULL),
        (WAYS[1], FULL),
        pytest.param(WAYS[0], DataError("no such folder"), marks=pytest.mark.slow),
        pytest.param(WAYS[0], RuntimeError("a rank died"), marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    indirect=["way"],
)
def test_a_trial_that_fails(way, error, tmp_path, monkeypatch, capsys):
    """On Ray any error is told in the same words; a DataError among worker groups: test_sweep.py."""
    said = f"{type(error).__name__}: {error}"
    argv = [*FLAGS, *way, "--out", str(tmp_path / "x")]
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "fitting", failing(error))
        assert main(STUDY, lambda folder, place: "the table", argv) == 1
    out, err = capsys.readouterr()
    assert "the table" in out
    assert f"two: 1 trials failed, the first: {said}\n" in err
    assert "Traceback" not in err
    assert ended(tmp_path / "x") == ALL_WELL | {("both", "repeat"): ("failed", said, True)}
    assert main(STUDY, lambda folder, place: "the table", argv) == 0
    assert ended(tmp_path / "x") == ALL_WELL


def test_a_search_of_which_every_trial_fails(way, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(attempt, "fitting", failing(OSError(5, "Input/output error"), lambda config: True))
    assert main(STUDY, lambda folder, place: "", [*FLAGS, *way, "--out", str(tmp_path / "x")]) == 1
    failed = ("failed", "OSError: [Errno 5] Input/output error", True)
    assert ended(tmp_path / "x") == {("plain", "repeat"): failed, ("both", "search"): failed}
    said = capsys.readouterr().err
    assert "two: 2 trials failed, the first: OSError: [Errno 5] Input/output error\n" in said
    assert "nothing to compare (2 failed: OSError: [Errno 5] Input/output error)\n" in said and "Traceback" not in said


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_an_end_that_cannot_be_sent(way, shared_cluster, tmp_path, monkeypatch, capsys):
    """Of one trial, to an object store; what is sent later, its failure among it, gets there."""
    place = f"{shared_cluster.bucket}/{tmp_path.name}"
    argv = [*FLAGS, *way, "--out", f"{place}/two"]
    push, refused = SyncedFolder.push, []

    def refuse_one(copy, folders=True, patience=0.0):
        record = copy.local / "trial.json"
        if patience and folders and record.exists():
            config = json.loads(record.read_text())["config"]
            if config["alpha"] > 0 and config["seed"] == 1:
                refused.append(copy)
                raise OSError("the object store refuses it")
        push(copy, folders, patience)

    with monkeypatch.context() as patch:
        patch.setattr(SyncedFolder, "push", refuse_one)
        assert main(STUDY, lambda folder, place: "", argv) == 1
    assert len(refused) == 1
    said = "OSError: the object store refuses it"
    assert f"two: 1 trials failed, the first: {said}\n" in capsys.readouterr().err
    assert ended(f"{place}/two") == ALL_WELL | {("both", "repeat"): ("failed", said, True)}
    assert main(STUDY, lambda folder, place: "", argv) == 0
    assert ended(f"{place}/two") == ALL_WELL


def test_ctrl_c_ends_the_study(way, tmp_path, monkeypatch, capsys):
    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("mldiv.cli.screen.display.Display.update", interrupt)
    assert main(STUDY, lambda folder, place: "", [*FLAGS, *way, "--out", str(tmp_path / "x")]) == 130
    assert "To continue: run the same command again." in capsys.readouterr().err
    found = [find_trial(tmp_path / "x", path.name) for path in (tmp_path / "x" / "trials").iterdir()]
    assert found
    assert not any(record is not None and record.status == "failed" for record in found)


def test_a_study_of_which_every_trial_diverges(load_study, tmp_path, capsys):
    """It says so, and why, and ends with code 1; weights that are no numbers are in no table."""
    tiny = {"epochs": 1, "switch_epoch": 1, "pretrain_epochs": 1, "train_size": 16, "validation_size": 24, "test_size": 24}
    tiny |= {"batch_size": 16, "width": 0.25, "lr": 1e9, "test_samples": 2, "validation_samples": 1, "ood": "none"}
    flags = ["--preset", "demo", "--in-process", "--seeds", "2", "--trials", "0", "--arm", "rbf", "--out", str(tmp_path)]
    flags += [f"--set={name}={value}" for name, value in (tiny | {"switch_epoch": 0}).items()]
    assert main(load_study("kernel_sweep"), build, flags) == 1
    out, err = capsys.readouterr()
    assert "no trial of any arm's choice finished" in err and "Traceback" not in err
    assert "diverged: epoch 0" in err and "not finite" in err
    assert "No repeat failed" not in out
