"""A compact copy says what the records themselves say: scores exactly, intervals to within rounding."""

import functools
import gc
import io
import json
import lzma
import re
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import small_study
from helpers.synthetic_records import make
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.build import analyse
from analysis.compact import archive, copy
from analysis.compact.archive import packed
from analysis.compact.copy import ARCHIVE, MANIFEST, compact, load
from analysis.compact.planes import LEAST_BITS, MOST_BITS, restored, rounded
from analysis.records.predictions import Predictions
from analysis.stats.calibration import reliability
from mldiv.records import study_files
from mldiv.records.checked_files import Damaged, RecordError

OF_SOMEBODY = {
    "data_root": "/home/somebody/data", "train_labels": "/home/somebody/worse.npy", "pretrained": "/home/somebody/net.pt",
    "ood": "noise,image_folder@/home/somebody/textures,npz@below/letters.npz",
}  # fmt: skip
STUDY = Path(__file__).parents[2] / "docs" / "results" / "demo"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where copies are unpacked."""
    (place := tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A compact copy of the demo's records; tests only read it."""
    folder = tmp_path_factory.mktemp("copies") / "demo"
    compact(STUDY, folder)
    return folder


def files(path):
    with tarfile.open(path, "r:xz") as held:
        return {entry.name: held.extractfile(entry).read() for entry in held}


def write(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARCHIVE).write_bytes(packed(content))
    return folder


@settings(max_examples=60)
@given(st.integers(LEAST_BITS, MOST_BITS), st.integers(0, 2**32), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_rounding_moves_no_prediction_to_another_bin_and_no_mean(bits, seed, share, edges):
    """Also of predictions that are all right or all wrong, on the edges of bins, or all but certain; nor of a copy's own."""
    draws = np.random.default_rng(seed)
    trials, images = 3, 40
    label = draws.integers(0, 10, images).astype(np.int16)
    members = []
    for _ in range(trials):
        confidence = draws.integers(3, 16, images) / 15 if edges else 1 - 0.8 * draws.random(images) ** 4
        correct = draws.random(images) < share
        of_label = np.where(correct, confidence, np.maximum(1 - confidence, 1e-9) * draws.random(images))
        predicted = np.where(correct, label, label + 1)
        members.append(Predictions(label, predicted, *(of.astype(np.float32) for of in (confidence, of_label))))
    once = restored(rounded(members, bits), label, bits)
    for was, found in zip([*members, *members], [*once, *restored(rounded(once, bits), label, bits)], strict=True):
        assert (found.correct == was.correct).all() and (found.label == was.label).all()
        bins = [reliability(of.confidence, of.correct) for of in (was, found)]
        assert abs(bins[0].ece - bins[1].ece) < 1e-6 + 2 * edges / images  # float32 may put an edge on either side
    for was, found in zip(members, once, strict=True):
        assert np.abs(found.confidence - was.confidence).max() <= 1 / 15 / 2 ** (bits - 4) + 1e-6
        assert found.nll.mean() == pytest.approx(was.nll.mean(), rel=1e-5, abs=1e-6)


def test_predictions_by_soft_labels_are_refused():
    """Their label's probability is no class's, and none could be restored from the confidence."""
    ones, nine, seven = np.ones(2, np.int16), np.full(2, 0.9, np.float32), np.full(2, 0.7, np.float32)
    soft = Predictions(ones, ones, nine, seven, entropy=seven)
    with pytest.raises(Damaged, match="another confidence"):
        rounded([soft], MOST_BITS)


def test_a_copy_by_soft_labels_leaves_out_the_predictions_and_says_so(tmp_path):
    study = make(
        tmp_path / "study", {"a": [0.5, 0.6], "b": [0.6, 0.7]}
    )  # a right one's confidence is not the label's probability
    words = compact(study, tmp_path / "copy")
    assert "which holds scores, and not" in words and "nor any predictions of soft labels by " in words
    found = load(tmp_path / "copy")
    assert found.problems == [] and {record.test["pair"]["nll"] for record in found.records.values()} == {0.5, 0.6, 0.7}


def test_a_copy_has_the_scores_and_all_but_the_intervals_of_the_records(copied):
    made, whole = analyse(copied), analyse(STUDY)
    assert made.study.problems == whole.study.problems == []
    for key, record in whole.study.records.items():
        assert made.study.records[key].test == record.test
        assert made.study.records[key].config == record.config
    for metric, effects in whole.differences.items():
        for arm, effect in effects.items():
            found = made.differences[metric][arm]
            assert found.mean == effect.mean and found.images == effect.images == 360
            assert found.interval == pytest.approx(effect.interval, abs=1e-4 * (effect.interval[1] - effect.interval[0]))
    assert made.answer() == whole.answer()


def test_a_copy_is_small_the_same_again_and_says_what_it_leaves_out(copied, tmp_path):
    words = compact(STUDY, tmp_path / "again")
    data = (copied / ARCHIVE).read_bytes()
    assert (tmp_path / "again" / ARCHIVE).read_bytes() == data
    assert f"{len(data):,} bytes" in words and len(data) < 100_000
    said = json.loads(files(copied / ARCHIVE)[MANIFEST])
    assert said["words"] == load(copied).copy in words and said["bits"] == MOST_BITS
    assert "not the entropy, mutual information and scaled confidence of images" in said["words"]


def test_no_place_of_a_machine_is_published(tmp_path):
    study = make(tmp_path / "study", {"a": [0.5]}, predictions=False, settings=json.loads((STUDY / "study.json").read_text())[
        "settings"] | OF_SOMEBODY)  # fmt: skip
    trial = study / "trials" / "0000" / "trial.json"
    assert '"lr": 0.05' in trial.read_text()
    record = study_files.read_trial(trial.parent)
    record.config |= OF_SOMEBODY
    record.status, record.test = "failed", {}
    study_files.write_trial(trial.parent, record)
    header = json.loads((study / "study.json").read_text())
    header |= {"plugins": {"own": "0123456789ab"}, "plugin_files": {"own": "/home/somebody/own.py"}}
    (study / "study.json").write_text(json.dumps({name: value for name, value in header.items() if name != "checksum"}))
    compact(study, tmp_path / "copy")
    assert not [name for name, data in files(tmp_path / "copy" / ARCHIVE).items() if b"somebody" in data]
    found = load(tmp_path / "copy")
    assert found.problems == [] and found.header.settings["train_labels"] == "worse.npy"
    assert found.records["a", 1].config["ood"] == "noise,image_folder@textures,npz@below/letters.npz"


@pytest.mark.slow
def test_less_room_costs_bits_then_the_peers_then_all_predictions(tmp_path, monkeypatch):
    by_content = functools.cache(lambda items: packed(dict(items)))  # every limit tries again all that is larger
    monkeypatch.setattr(copy, "packed", lambda files: by_content(tuple(sorted(files.items()))))
    steps = []
    while True:
        try:
            words = compact(STUDY, tmp_path / str(len(steps)))
        except RecordError as error:
            assert "settings, scores and epochs alone take" in str(error)
            break
        steps.append(("nor any" in words, "which holds scores," in words, -int((re.search(r"(\d+) bits", words) or [0, 0])[1])))
        monkeypatch.setattr(copy, "LIMIT_BYTES", (tmp_path / str(len(steps) - 1) / ARCHIVE).stat().st_size - 1)
    assert steps[0] == (False, False, -MOST_BITS) and steps[-1][1]
    assert steps == sorted(steps, key=lambda step: (step[1], step[0], step[2])) and len(steps) > 8
    alone = next(place for place, step in enumerate(steps) if step[0] and not step[1])
    study = load(tmp_path / str(alone))
    assert study.problems == [] and "nor any predictions of peer_1, peer_2" in study.copy
    assert study.predictions("cosine", 1) and study.predictions("cosine", 1, "peers") is None
    made = analyse(tmp_path / str(len(steps) - 1))
    assert made.study.problems == [] and made.differences["nll"]["cosine"].images is None
    assert made.differences["nll"]["cosine"].mean == analyse(STUDY).differences["nll"]["cosine"].mean


def test_records_that_are_not_whole_are_not_copied(tmp_path):
    study = make(tmp_path / "study", {"a": [0.5], "b": [0.6]}, predictions=False)
    with pytest.raises(RecordError, match="made of whole records, and trials/0000"):
        compact(study, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_what_was_unpacked_goes_with_the_study(copied, temporary):
    study = load(copied)
    assert study.folder.name == "demo" and list(temporary.iterdir())
    del study
    gc.collect()
    assert not list(temporary.iterdir())


def sparse(name):
    entry = tarfile.TarInfo(name)
    entry.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(2**60),
    }
    entry.size = 1
    return entry


def link(name):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry


@pytest.mark.parametrize("entry", [
    tarfile.TarInfo("../study.json"), tarfile.TarInfo("/study.json"), tarfile.TarInfo("trials/../../x/trial.json"),
    tarfile.TarInfo("trials/a/checkpoint.pt"), link("study.json"), sparse("study.json"),
], ids=lambda entry: f"{entry.name}, {entry.type!r}")  # fmt: skip
def test_an_archive_with_anything_else_in_it_is_refused(entry, tmp_path, temporary):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as held:
        held.addfile(entry, io.BytesIO(b"x" * entry.size))
    (tmp_path / ARCHIVE).write_bytes(lzma.compress(file.getvalue()))
    with pytest.raises(Damaged, match=rf"{ARCHIVE}: holds '.*', which does not belong there"):
        load(tmp_path)
    assert not list(temporary.iterdir())


def test_an_archive_that_is_cut_or_unpacks_to_too_much_is_refused(copied, tmp_path, monkeypatch):
    data = (copied / ARCHIVE).read_bytes()
    (tmp_path / ARCHIVE).write_bytes(data[:-100])
    with pytest.raises(Damaged, match=r"records.tar.xz: is cut, or unpacks to more than"):
        load(tmp_path)
    (tmp_path / ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(Damaged, match=r"records.tar.xz: cannot be unpacked"):
        load(tmp_path)
    monkeypatch.setattr(archive, "MOST_BYTES", 10**8)
    (tmp_path / ARCHIVE).write_bytes(lzma.compress(bytes(10**8 + 1)))
    with pytest.raises(Damaged, match=r"is cut, or unpacks to more than 100,000,000"):
        load(tmp_path)


@pytest.mark.parametrize("change", [
    {MANIFEST: b"{}"}, {MANIFEST: b'{"words": "", "bits": 99, "members": {}}'}, {"predictions/label.npy": b"x"},
    {"predictions/pair/mean_nll.npy": None}, {"predictions/pair/correct.npy": None}, {"study.json": b"{}"},
], ids=lambda change: next(iter(change)))  # fmt: skip
def test_a_copy_that_cannot_be_is_refused_in_a_line(change, copied, tmp_path):
    content = files(copied / ARCHIVE)
    content |= {
        name: files(copied / ARCHIVE)["predictions/label.npy"] if data is None else data for name, data in change.items()
    }
    with pytest.raises(RecordError, match=ARCHIVE) as refused:
        load(write(tmp_path / "copy", content))
    assert "\n" not in str(refused.value) and "unpacked" not in str(refused.value).replace("cannot be unpacked", "")


def test_predictions_of_another_study_are_named(copied, tmp_path):
    """Scores stand in trial.json, predictions beside: a copy is held against itself as records are."""
    content = files(copied / ARCHIVE)
    means = np.load(io.BytesIO(content["predictions/pair/mean_nll.npy"]))
    file = io.BytesIO()
    np.save(file, means[::-1])
    study = load(write(tmp_path / "copy", content | {"predictions/pair/mean_nll.npy": file.getvalue()}))
    assert any("predictions.parquet gives nll" in problem for problem in study.problems)


def test_the_command_copies_and_reads(command, tmp_path):
    done = command(STUDY, "--compact", tmp_path / "copy")
    assert done.returncode == 0 and str(tmp_path / "copy" / ARCHIVE) in done.stdout
    done = command(tmp_path / "copy", "--format", "md")
    assert done.returncode == 0 and sorted(path.name for path in (tmp_path / "copy").iterdir()) == [
        "answer.md", ARCHIVE, "table.md"]  # fmt: skip
    assert "Read from a compact copy" in (tmp_path / "copy" / "table.md").read_text()
    done = command(STUDY, STUDY, "--compact", tmp_path / "both")
    assert done.returncode == 2 and "one study" in done.stderr


@pytest.mark.slow
def test_a_study_goes_on_from_its_copy(command, tmp_path):
    """What was trained before is not trained again, and the copy of both is one of the whole study."""
    study, copy, again = (tmp_path / name for name in ("study", "copy", "again"))
    assert small_study.run(study, seeds=1)[0] == 0
    compact(study, copy)
    done = command(copy, "--unpack", again)
    assert done.returncode == 0 and f"--out {again}" in done.stdout
    trained = of_trials(again)
    assert trained.keys() == of_trials(study).keys()
    assert small_study.run(again, seeds=2)[0] == 0
    assert {name: of_trials(again)[name] for name in trained} == trained
    assert [record.status for record in load(again).records.values()] == ["finished"] * 4
    assert "nor any predictions" not in compact(again, tmp_path / "grown")


def of_trials(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("trials/*/trial.json")}


def test_a_copy_is_unpacked_into_a_new_folder_alone(command, copied, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for places, said in (([copied, "--unpack", tmp_path / "full"], "holds something already"),
                         ([tmp_path, "--unpack", tmp_path / "new"], f"holds no {ARCHIVE}"),
                         ([copied, copied, "--unpack", tmp_path / "new"], "one compact copy")):  # fmt: skip
        done = command(*places)
        assert done.returncode == 2, said
        assert said in done.stderr
    assert not (tmp_path / "new").exists()
