"""A study scored anew under labels of a file: its own give the recorded scores, others those of independent formulas."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.small_study import trial
from scipy.special import softmax
from sklearn.metrics import log_loss, roc_auc_score

from analysis.build import analyse
from analysis.records.load import load
from analysis.records.repeats import gather
from analysis.rescoring import labels
from analysis.rescoring.labels import Labels
from analysis.rescoring.rescore import rescore
from mldiv.records import study_files
from mldiv.records.checked_files import RecordError
from mldiv.records.study_files import read_trial
from mldiv.storage import full_predictions

MEMBERS = ("peer_1", "peer_2", "pair")


@pytest.fixture(scope="module")
def own(trained):
    """The labels of the study's test images, in their order."""
    frame = pd.read_parquet(trial(trained) / "predictions.parquet")
    return frame[frame["member"] == "pair"]["label"].to_numpy().astype(int)


@pytest.fixture(scope="module")
def probabilities(trained):
    """By member, [images, classes], read without mldiv."""
    frame = pd.read_parquet(trial(trained) / "probabilities.parquet")
    return {
        name: np.exp(np.stack(rows["log_probabilities"]).astype(float))
        for name, rows in frame.groupby("member", observed=True, sort=False)
    }


def soft_labels(own):
    """Shares that leave most images their class."""
    draws = np.random.default_rng(1)
    return softmax(np.eye(10)[own] * 4 + draws.normal(size=(len(own), 10)), axis=1)


def rescored(folder, values):
    study = load(folder)
    rescore(study, Labels("new.npy", values))
    return study


def test_the_own_labels_give_the_recorded_scores(trained, own):
    study = rescored(trained, own)
    assert study.records.keys() == load(trained).records.keys()
    for record in study.records.values():
        recorded = read_trial(trained / "trials" / record.id)
        for member in MEMBERS:
            edge = 2 / 24 / 10  # an image of one class that float16 moves over the edge of a bin
            assert record.test[member].pop("classwise_ece") == pytest.approx(
                recorded.test[member].pop("classwise_ece"), abs=edge
            )
            assert record.test[member] == pytest.approx(recorded.test[member], abs=1e-3)
            assert record.uncertainty[member] == pytest.approx(recorded.uncertainty[member], abs=1e-6)
        assert record.generalized["test"] == pytest.approx(recorded.generalized["test"], abs=1e-3)
        assert not record.test_scaled and not record.shift and not record.recalibrated and not record.calibration_temperature


def test_other_labels_against_sklearn(trained, own, probabilities):
    other = np.where(np.arange(len(own)) % 3 == 0, (own + 1) % 10, own)
    study = rescored(trained, other)
    record = study.records["both", 1]
    for member in MEMBERS:
        found, (predicted,) = record.test[member], study.predictions("both", 1, "pair" if member == "pair" else member)
        normed = probabilities[member] / probabilities[member].sum(1, keepdims=True)
        assert found["nll"] == pytest.approx(log_loss(other, normed, labels=range(10)), abs=2e-3)
        assert found["brier"] == pytest.approx(np.square(probabilities[member] - np.eye(10)[other]).sum(1).mean(), abs=1e-6)
        wrong = probabilities[member].argmax(1) != other
        assert found["accuracy"] == pytest.approx(1 - wrong.mean()) and 0 < wrong.sum() < len(wrong)
        auroc = roc_auc_score(wrong, predicted.entropy)
        assert record.uncertainty[member]["error_auroc_entropy"] == pytest.approx(auroc)
    assert record.test["pair"]["nll"] != pytest.approx(read_trial(trial(trained)).test["pair"]["nll"], abs=0.01)


def test_soft_labels_against_torch(trained, own, probabilities):
    shares = soft_labels(own)
    record = rescored(trained, shares).records["both", 1]
    for member in MEMBERS:
        logits, target = torch.tensor(np.log(probabilities[member])), torch.tensor(shares)
        assert record.test[member]["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), abs=2e-3)
        assert record.test[member]["brier"] == pytest.approx(
            10 * float(torch.nn.functional.mse_loss(torch.tensor(probabilities[member]), target)), abs=1e-6
        )
        assert record.test[member]["accuracy"] == pytest.approx((probabilities[member].argmax(1) == shares.argmax(1)).mean())
    hard = rescored(trained, shares.argmax(1)).records["both", 1]
    assert hard.test["pair"]["accuracy"] == record.test["pair"]["accuracy"]
    assert hard.test["pair"]["nll"] != pytest.approx(record.test["pair"]["nll"], abs=0.01)


def test_the_report_says_at_its_top_whose_labels_these_are(trained, own, tmp_path, command):
    shares, out = soft_labels(own), tmp_path / "out"
    np.savez(tmp_path / "soft.npz", labels=shares, fingerprint=read_trial(trial(trained)).data["test_fingerprint"])
    before = (trained / "table.md").read_bytes()
    done = command(trained, "--labels", tmp_path / "soft.npz", "--out", out)
    assert done.returncode == 0, done.stderr
    same = 100 * (shares.argmax(1) == own).mean()
    said = f"SCORED ANEW under the labels in soft.npz, which are not the study's own: 24 images, {same:.1f} % with the study's"
    for name in ("table.md", "answer.md"):
        text = (out / name).read_text()
        assert said in text[:500] and "as the file says. They are soft: NLL and Brier are against" in text
        assert "Not made anew, and left out: scores after temperature" in text
    assert "SCORED ANEW" in (out / "table.tex").read_text() and said in (out / "report.html").read_text()
    table, plain = (out / "table.md").read_text(), before.decode()
    for title in ("NLL scaled", "NLL vector", "temperature"):
        assert f"| {title}" in plain and f"| {title}" not in table
    for words in ("after scaling", "after temperature scaling, its"):
        assert words in (trained / "report.html").read_text() and words not in (out / "report.html").read_text()
    assert (trained / "table.md").read_bytes() == before and (out / "reliability.png").exists()


def test_by_default_they_stand_apart_from_the_study_s_own(study, own, command):
    np.save(study.parent / "mine.npy", own)
    before = (study / "table.md").read_bytes()
    assert command(study, "--labels", study.parent / "mine.npy", "--format", "md").returncode == 0
    text = (study / "labels-mine" / "table.md").read_text()
    assert (study / "table.md").read_bytes() == before
    assert "100.0 % with the study's class (in another order about " in text and "taken on trust" in text


def test_a_trial_without_its_full_predictions_is_left_out_by_name(study, own):
    (trial(study) / "probabilities.parquet").unlink()
    found = rescored(study, own)
    assert set(found.records) == {("plain", 1)}
    assert any("the trial kept no full predictions" in problem for problem in found.problems)
    (trial(study, "plain") / "probabilities.parquet").unlink()
    with pytest.raises(RecordError, match="no finished repeat has its full predictions, which --keep-predictions full keeps"):
        rescored(study, own)


def test_a_column_of_a_plugin_reads_full_predictions(trained, own):
    """As docs/scores.md says: a new metric without training."""
    repeat = gather(load(trained))["both"][1]
    full = full_predictions.read(repeat.folder / "probabilities.parquet", repeat.record.id)
    for member in MEMBERS:
        nll = -full[member][np.arange(len(own)), own].mean()
        assert nll == pytest.approx(repeat.record.test[member]["nll"], abs=1e-3)


def test_another_trials_full_predictions_are_found_out(study, own):
    mine, others = (trial(study, arm) / "probabilities.parquet" for arm in ("both", "plain"))
    shutil.copy(others, mine)
    assert "holds the predictions of another trial" in " ".join(rescored(study, own).problems)
    full_predictions.write(mine, full_predictions.read(others, others.parent.name), mine.parent.name)
    assert "does not fit predictions.parquet" in " ".join(rescored(study, own).problems)


def test_no_predictions_are_no_fault_where_none_were_asked_for(study):
    folder = trial(study)
    (folder / "predictions.parquet").unlink()
    assert "predictions.parquet cannot be read" in " ".join(load(study).problems)
    record = read_trial(folder)
    record.config["keep_predictions"] = "none"
    study_files.write_trial(folder, record)
    made = analyse(study)
    assert not made.study.problems and made.repeats["both"][1].predictions is None


def write_csv(path, own, text=None):
    path.write_text(text if text is not None else "label\n" + "".join(f"{label}\n" for label in own))


def shuffled(own):
    order = np.random.default_rng(0).permutation(len(own))
    return pd.DataFrame({"image": order, "label": own[order], "fingerprint": "abc"})


#: Names of classes that count from 1, the last first.
BACKWARDS = [f"class {number}" for number in range(10, 0, -1)]
#: The same with as many digits each.
PADDED = [f"class {number:02d}" for number in range(10, 0, -1)]
FORMS = {
    "a.npy": lambda path, own: np.save(path, own),
    "b.npy": lambda path, own: np.save(path, (0.9995 * np.eye(10)[own]).astype("float32")),
    "c.npz": lambda path, own: np.savez(path, labels=own.astype("uint8")),
    "a.csv": write_csv,
    "b.csv": lambda path, own: write_csv(path, own, "".join(f"{label}\n" for label in own)),
    "c.csv": lambda path, own: shuffled(own).to_csv(path, index=False),
    "d.csv": lambda path, own: pd.DataFrame(np.eye(10)[own]).to_csv(path, index=False),
    "e.csv": lambda path, own: pd.DataFrame(np.eye(10)[own][:, ::-1], columns=range(9, -1, -1)).to_csv(path, index=False),
    "f.csv": lambda path, own: pd.DataFrame(np.eye(10)[own][:, ::-1], columns=BACKWARDS).to_csv(path, index=False),
    "g.csv": lambda path, own: pd.DataFrame(np.eye(10)[own][:, ::-1], columns=PADDED).to_csv(path, index=False),
    "a.parquet": lambda path, own: shuffled(own).to_parquet(path),
    "b.parquet": lambda path, own: pd.DataFrame(np.eye(10)[own], columns=list("abcdefghij")).to_parquet(path),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_classes(name, tmp_path):
    own = np.random.default_rng(2).integers(0, 10, 30)
    FORMS[name](tmp_path / name, own)
    found = labels.read(tmp_path / name)
    assert np.array_equal(found.classes, own) and np.array_equal(found.shares(10), np.eye(10)[own])
    assert found.fingerprint == ("abc" if name in ("c.csv", "a.parquet") else None)


def text(content):
    return lambda path, own: path.write_text(content)


def array(make):
    return lambda path, own: np.save(path, make(own))


WRONG = {
    "count.npy": (array(lambda own: own[1:]), "labels of 23 images, there are 24 test images .a cut of the data"),
    "range.npy": (array(lambda own: own + 5), r"image \d+ has label 1\d: expected 0 to 9"),
    "negative.npy": (array(lambda own: own - 9), "no number, not finite, or negative"),
    "share.npy": (array(lambda own: own + 0.5), "no whole number: soft labels are"),
    "sum.npy": (array(lambda own: 51 * np.eye(10)[own]), "the shares of image 0 add up to 51: divide them"),
    "classes.npy": (array(lambda own: np.eye(11)[own]), "shares of 11 classes, where the data have 10"),
    "cube.npy": (array(lambda own: np.ones((24, 5, 2))), r"shape \(24, 5, 2\): expected"),
    "words.npy": (array(lambda own: own.astype(str)), "no number"),
    "nan.npy": (array(lambda own: np.where(own > 4, np.nan, 1.0)), "not finite"),
    "pickle.npy": (array(lambda own: np.array([{}] * 24)), "cannot be read .ValueError: Object arrays"),
    "empty.npy": (array(lambda own: own[:0]), "an array of shape"),
    "other.npz": (lambda path, own: np.savez(path, labels=own, fingerprint="abc"), "of the test images abc, where the study's"),
    "none.npz": (lambda path, own: np.savez(path, y=own), "holds y, and no labels"),
    "twice.csv": (text("image,label\n0,1\n0,1\n"), "image is not every number from 0 to 1, once each"),
    "two.csv": (text("fingerprint,label\na,1\nb,1\n"), "names several fingerprints"),
    "index.csv": (lambda path, own: pd.DataFrame({"label": own}).to_csv(path), "its first column has no name: leave it out"),
    "torn.parquet": (text("PAR1"), "cannot be read"),
    "labels.txt": (text("1"), "labels come in .npy, .npz, .csv, .parquet"),
    "missing.npy": (lambda path, own: None, "cannot be read .No such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_in_a_line(name, trained, own, tmp_path, command):
    make, message = WRONG[name]
    make(tmp_path / name, own)
    done = command(trained, "--labels", tmp_path / name, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    with pytest.raises(RecordError, match=message):
        rescored_from = labels.read(tmp_path / name)
        rescore(load(trained), rescored_from)


def test_labels_are_for_one_study(trained, own, tmp_path, command):
    np.save(tmp_path / "own.npy", own)
    done = command(trained, trained, "--labels", tmp_path / "own.npy")
    assert done.returncode == 2 and "--labels is for one study" in done.stderr
