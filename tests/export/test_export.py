"""What `mldiv export` writes of the stored study, read back through each tool's own reader; twice gives no doubles."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mldiv import __main__ as command
from mldiv.export import command as exporting
from mldiv.export import runs
from mldiv.records import study_files
from mldiv.records.contents import Assignment

pytestmark = pytest.mark.filterwarnings("ignore")  # of the tools' own code

GOLDEN = Path(__file__).resolve().parents[1] / "analysis" / "golden"
#: Trials of the stored study that are exported here: repeats of two arms, and one of a search.
SOME = ("0000", "0001", "0100", "0101", "search0")


@pytest.fixture
def study(tmp_path):
    """Five of the stored study's trials, with its tables and a picture."""
    folder = shutil.copytree(GOLDEN / "study", tmp_path / "study")
    study_files.write_assignments(folder, [item for item in study_files.read_assignments(folder) if item.trial in SOME])
    for name in ("table.md", "table.csv", "answer.md"):
        shutil.copy(GOLDEN / name, folder)
    Image.new("RGB", (8, 6), "red").save(folder / "reliability.png")
    return folder


def export(study, tool, capsys, count=5):
    code = command.main(["export", str(study), "--to", tool])
    assert code == 0, capsys.readouterr().err
    assert f"{count} runs of kernel_sweep are in" in capsys.readouterr().out
    return study / "export" / tool


def go_on(study, trial="0101"):
    """As a trial that has another end now."""
    folder = study_files.trial_folder(study, trial)
    record = study_files.read_trial(folder)
    record.test["pair"]["nll"] = 0.125
    study_files.write_trial(folder, record)


def choose_anew(study, trial="0001"):
    """As an arm whose search has chosen another setting since: the trial of the old choice no longer counts."""
    study_files.write_assignments(study, [item for item in study_files.read_assignments(study) if item.trial != trial])


def recorded(study, trial):
    folder = study_files.trial_folder(study, trial)
    return study_files.read_trial(folder), list(study_files.epoch_lines(folder / "metrics.jsonl"))


def test_every_number_of_a_trial_is_in_its_run(study):
    found = {run.trial: run for run in runs.read(study).runs}
    assert set(found) == set(SOME)
    run, (record, lines) = found["0101"], recorded(study, "0101")
    assert (run.arm, run.seed, run.phase, run.name) == ("mutual learning", 2, "repeat", "seed 2")
    assert found["search0"].name == "search search0" and found["search0"].arm == "with a"
    assert run.settings == {name: value for name, value in record.config.items()}
    assert run.scores["test/pair/nll"] == record.test["pair"]["nll"] and run.scores["epochs"] == 12
    assert run.scores["final/peer_1/accuracy"] == record.validation["peer_1"]["accuracy"]
    assert [line.values["validation/pair/nll"] for line in run.epochs] == [line["validation"]["pair"]["nll"] for line in lines]
    assert run.epochs[3].values["diversity/cosine/conv1.weight"] == 0.1
    assert run.epochs[-1].ended - run.epochs[0].ended == pytest.approx(11 * 0.5)
    assert not run.scores.keys() & run.epochs[-1].values.keys(), "a name means one thing"
    assert run.scores["total_seconds"] == record.seconds and run.epochs[-1].values["seconds"] == lines[-1]["seconds"]
    before = run.digest
    go_on(study)
    after = {run.trial: run for run in runs.read(study).runs}
    assert after["0101"].digest != before and after["0100"].digest == found["0100"].digest


def test_no_place_of_a_machine_is_exported(study):
    folder = study_files.trial_folder(study, "0101")
    record = study_files.read_trial(folder)
    record.config |= {"data_root": "/my/data", "pretrained": "/my/net.pt", "ood": "noise,npz@/my/letters.npz"}
    study_files.write_trial(folder, record)
    (found,) = (run.settings for run in runs.read(study).runs if run.trial == "0101")
    assert (found.get("data_root"), found["pretrained"], found["ood"]) == (None, "net.pt", "noise,npz@letters.npz")


def test_a_trial_that_answers_twice_is_one_run(study):
    items = study_files.read_assignments(study)
    study_files.write_assignments(study, [Assignment("with a", "search", 0, "0100"), *items])
    (run,) = (run for run in runs.read(study).runs if run.trial == "0100")
    assert run.roles == ["with a, search, seed 0", "mutual learning, repeat, seed 1"] and run.arm == "mutual learning"


def test_what_cannot_be_read_is_said(study, capsys, monkeypatch):
    (study_files.trial_folder(study, "0001") / "trial.json").write_text("{")
    monkeypatch.setitem(exporting.TOOLS, "tensorboard", "helpers.no_tool")
    assert command.main(["export", str(study), "--to", "tensorboard"]) == 2
    assert "tensorboard is not installed (No module named 'helpers.no_tool'): python -m pip install" in capsys.readouterr().err
    assert len(runs.read(study).runs) == 4 and "not valid JSON" in runs.read(study).problems[0]
    monkeypatch.setitem(exporting.TOOLS, "tensorboard", "mldiv.export.runs")
    monkeypatch.setattr(runs, "export", lambda study, out: "look", raising=False)
    assert command.main(["export", str(study / "none"), "--to", "tensorboard"]) == 2
    assert "study.json: no such file" in capsys.readouterr().err
    assert command.main(["export", str(study), "--to", "tensorboard"]) == 0
    assert "left out: " in capsys.readouterr().out


def test_what_an_earlier_export_of_the_study_wrote_and_no_longer_counts_is_known(study, tmp_path, monkeypatch, capsys):
    said = []
    monkeypatch.setitem(exporting.TOOLS, "tensorboard", "mldiv.export.runs")
    monkeypatch.setattr(runs, "export", lambda study, out: said.append(set(study.gone)) or "look", raising=False)
    other = shutil.copytree(study, tmp_path / "other")
    (study_files.trial_folder(study, "0100") / "trial.json").write_text("{")  # it counts, although it cannot be read
    for place, changed in ((study, None), (other, None), (study, "0001"), (other, "0000"), (other, "0001")):
        if changed:
            choose_anew(place, changed)
        assert command.main(["export", str(place), "--to", "tensorboard", "--out", str(tmp_path / "out")]) == 0
    assert said == [set(), set(), set(), set(), {"0001"}]  # not what the other study has there too


def test_what_is_not_there_to_export_is_said(study, capsys, monkeypatch):
    folder = study_files.trial_folder(study, "0101")
    record = study_files.read_trial(folder)
    record.status = "running"
    study_files.write_trial(folder, record)
    (folder / "metrics.jsonl").unlink()
    assert runs.read(study).problems == ["trial 0101 is running, and none of its epochs has ended"]
    monkeypatch.setitem(exporting.TOOLS, "mlflow", "mldiv.export.runs")
    (study / "study.json").rename(study / "records.tar.xz")
    assert command.main(["export", str(study), "--to", "mlflow"]) == 2
    assert f"`python -m analysis {study} --unpack FOLDER` writes the records" in capsys.readouterr().err


@pytest.mark.parametrize("times", [1, 2])
def test_tensorboard_by_its_event_accumulator(study, times, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for turn in range(times):
        out = export(study, "tensorboard", capsys)
        if times == 2 and turn == 0:
            go_on(study)
    assert sorted(str(path.parent.relative_to(out)) for path in out.rglob("*tfevents*")) == [
        "mutual learning/seed 1 0100", "mutual learning/seed 2 0101", "single/seed 1 0000", "single/seed 2 0001", "study",
        "with a/search search0",
    ]  # fmt: skip
    record, lines = recorded(study, "0101")
    events = EventAccumulator(str(out / "mutual learning" / "seed 2 0101")).Reload()
    found = events.Scalars("validation/pair/nll")
    assert [(item.step, item.value) for item in found] == [
        (line["epoch"], pytest.approx(line["validation"]["pair"]["nll"])) for line in lines
    ]
    (nll,) = events.Scalars("test/pair/nll")
    assert nll.value == pytest.approx(record.test["pair"]["nll"]) and nll.step == 11
    assert (times == 2) == (nll.value == 0.125)
    params = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"batch_size" in params and b"mutual learning" in params
    events = EventAccumulator(str(out / "study")).Reload()
    assert events.Tags()["images"] == ["reliability.png"] and events.Images("reliability.png")[0].width == 8
    (text,) = events.Tensors("table.md/text_summary")
    assert text.tensor_proto.string_val[0].decode() == (study / "table.md").read_text()
    choose_anew(study)
    choose_anew(study, "search0")
    out = export(study, "tensorboard", capsys, count=3)
    assert not list(out.rglob("*0001")) and not (out / "with a").exists() and len(list(out.rglob("*tfevents*"))) == 4


def test_mlflow_by_its_client(study, capsys):
    mlflow = pytest.importorskip("mlflow")
    out = export(study, "mlflow", capsys)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{out}/mlflow.db")

    def there():
        (experiment,) = (item for item in client.search_experiments() if item.name != "Default")
        assert experiment.name == "kernel_sweep"
        return {run.data.tags["mldiv.trial"]: run for run in client.search_runs([experiment.experiment_id])}, len(
            client.search_runs([experiment.experiment_id])
        )

    first, count = there()
    assert set(first) == {*SOME, "study"} and count == 6
    record, lines = recorded(study, "0101")
    run = first["0101"]
    assert (run.info.run_name, run.data.tags["arm"], run.info.status) == ("seed 2", "mutual learning", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in record.config.items()}
    assert run.data.metrics["test/pair/nll"] == record.test["pair"]["nll"]
    history = client.get_metric_history(run.info.run_id, "validation/pair/nll")
    assert [(item.step, item.value) for item in sorted(history, key=lambda item: item.step)] == [
        (line["epoch"], line["validation"]["pair"]["nll"]) for line in lines
    ]
    files = {item.path for item in client.list_artifacts(first["study"].info.run_id)}
    assert files == {"table.md", "table.csv", "answer.md", "reliability.png"}
    table = client.download_artifacts(first["study"].info.run_id, "table.md", str(study.parent))
    assert Path(table).read_text() == (study / "table.md").read_text()
    go_on(study)
    export(study, "mlflow", capsys)
    second, count = there()
    assert count == 6 and second["0101"].data.metrics["test/pair/nll"] == 0.125
    assert {name for name in first if first[name].info.run_id != second[name].info.run_id} == {"0101"}
    choose_anew(study)
    export(study, "mlflow", capsys, count=4)
    assert set(there()[0]) == {*SOME, "study"} - {"0001"}


def test_mlflow_has_each_number_under_a_name_of_its_own(study, capsys):
    """Sets of other images are called by their folders; two names that MLflow does not take were one."""
    mlflow = pytest.importorskip("mlflow")
    folder = study_files.trial_folder(study, "0101")
    record = study_files.read_trial(folder)
    record.other = {"pair": {f"{name}/auroc_entropy": number for number, name in enumerate(("a+b", "a&b", "a_b", "a:2b:b"), 1)}}
    study_files.write_trial(folder, record)
    out = export(study, "mlflow", capsys)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{out}/mlflow.db")
    everywhere = [item.experiment_id for item in client.search_experiments()]
    (run,) = client.search_runs(everywhere, "tags.`mldiv.trial` = '0101'")
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("other/")}
    assert sorted(found.values()) == [1, 2, 3, 4]
    assert found["other/pair/a_b/auroc_entropy"] == 3


def test_mlflow_does_not_write_into_places_that_its_url_cannot_name(study, capsys):
    pytest.importorskip("mlflow")
    assert command.main(["export", str(study), "--to", "mlflow", "--out", str(study / "a%b")]) == 2
    assert "a%b: MLflow cannot write into a folder with % in its path; name another by --out" in capsys.readouterr().err
    assert not (study / "a%b").exists()


def offline(folder):
    """The records of an offline run by kind, as W&B's own `leet inspect` prints them: items of lists and updates as objects."""
    tool = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(
        tool, capture_output=True, text=True, check=True, env=os.environ | {"WANDB_ERROR_REPORTING": "false"}
    )
    found = {}
    for line in map(json.loads, lines.stdout.splitlines()):
        found.setdefault(line["type"], []).append(line.get(line["type"], {}))
    return found


def merged(updates):
    return {name: value for update in updates for name, value in update.get("update", {}).items()}


def test_wandb_by_its_offline_datastore(study, capsys, monkeypatch):
    pytest.importorskip("wandb", minversion="0.31", reason="its `leet inspect` reads what it wrote")
    monkeypatch.setenv("WANDB_DATA_DIR", str(study / "waiting"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(study / "waiting"))
    out = export(study, "wandb", capsys)
    folders = {path.name.split("-")[-1]: path for path in out.glob("wandb/offline-run-*")}
    assert set(folders) == {*SOME, "study"}
    record, lines = recorded(study, "0101")
    found = offline(folders["0101"])
    (header,), history, summary = found["run"], [row["item"] for row in found["history"]], merged(found["summary"])
    config = merged([header["config"]])
    assert (header["run_id"], header["run_group"], header["display_name"]) == ("0101", "mutual learning", "seed 2")
    assert header["project"] == "kernel_sweep" and not header.get("host")
    assert history[-1]["_timestamp"] - history[0]["_timestamp"] == pytest.approx(11 * 0.5)
    assert {name: config[name] for name in record.config} == record.config
    assert [(row["_step"], row["validation/pair/nll"]) for row in history] == [
        (line["epoch"], line["validation"]["pair"]["nll"]) for line in lines
    ]
    assert summary["test/pair/nll"] == record.test["pair"]["nll"]
    (row,) = (row["item"] for row in offline(folders["study"])["history"])
    assert row["table.nrows"] == 5 and row["reliability.width"] == 8
    go_on(study)
    export(study, "wandb", capsys)
    again = {path.name.split("-")[-1]: path for path in out.glob("wandb/offline-run-*")}
    assert len(list(out.glob("wandb/offline-run-*"))) == 6
    assert {name for name in folders if again[name] != folders[name]} == {"0101"}
    assert merged(offline(again["0101"])["summary"])["test/pair/nll"] == 0.125
    choose_anew(study)
    export(study, "wandb", capsys, count=4)
    assert {path.name.split("-")[-1] for path in out.glob("wandb/offline-run-*")} == {*SOME, "study"} - {"0001"}


@pytest.fixture
def three(study, tmp_path):
    """Studies of one trial, the same, and tables of their own; two of them have one name."""
    study_files.write_assignments(study, [item for item in study_files.read_assignments(study) if item.trial == "0101"])
    header = json.loads((study / "study.json").read_text())
    places = [study, *(shutil.copytree(study, tmp_path / name) for name in ("other", "namesake"))]
    for place in places[1:]:
        (place / "study.json").write_text(json.dumps(header | {"name": "ablation"}))
        (place / "table.md").write_text(f"that of {place.name}")
    return places


def export_into(out, tool, *places):
    for place in places:
        assert command.main(["export", str(place), "--to", tool, "--out", str(out)]) == 0


def test_studies_in_one_folder_have_each_a_run_of_its_files_in_tensorboard(three, tmp_path):
    pytest.importorskip("tensorboard")
    export_into(tmp_path / "out", "tensorboard", *three, *three)
    files = [path.read_bytes() for path in (tmp_path / "out").glob("study*/*tfevents*")]
    assert len(files) == 3
    assert [sum(name in file for file in files) for name in (b"that of other", b"that of namesake")] == [1, 1]


def test_studies_in_one_folder_have_each_a_run_of_its_files_in_mlflow(three, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    export_into(tmp_path / "out", "mlflow", *three)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/out/mlflow.db")

    def there():
        found = client.search_runs([item.experiment_id for item in client.search_experiments()], "run_name = 'study'")
        return {run.info.run_id: Path(client.download_artifacts(run.info.run_id, "table.md")).read_text() for run in found}

    first = there()
    assert sorted(first.values())[1:] == ["that of namesake", "that of other"] and len(first) == 3
    export_into(tmp_path / "out", "mlflow", *three)
    assert there() == first


def test_studies_in_one_folder_have_each_all_of_their_runs_for_wandb(three, tmp_path):
    """A trial that is in two of them is in both projects."""
    pytest.importorskip("wandb")
    out = tmp_path / "out"
    export_into(out, "wandb", three[0])
    time.sleep(1)  # a run's folder is called by the second
    export_into(out, "wandb", three[1])
    first = sorted(path.name for path in (out / "wandb").glob("offline-run-*"))
    assert len(first) == 4
    export_into(out, "wandb", *three[:2])
    assert sorted(path.name for path in (out / "wandb").glob("offline-run-*")) == first
