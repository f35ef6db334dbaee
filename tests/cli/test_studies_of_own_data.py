"""Data of one's own, each kind from its files to a report by one command; what is fitted to little of it; no validation."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.build import build
from analysis.records.load import load
from analysis.rescoring.labels import read as read_labels
from analysis.rescoring.rescore import rescore
from mldiv.cli.flags import parse_flags
from mldiv.cli.main import main
from mldiv.cli.run import prepare
from mldiv.config import ConfigError
from mldiv.datasets.files import DataError
from mldiv.datasets.formats import idx
from mldiv.method.networks import build as network
from mldiv.records import study_files
from mldiv.storage import full_predictions
from mldiv.study import Study

STUDY = Study(
    name="two", question="What do both give?", scientific="method", searched=("alpha",), baseline="plain",
    arms={"plain": {"alpha": 0.0, "beta": 0.0}, "both": {}},
)  # fmt: skip
TINY = [
    "epochs=2", "switch_epoch=1", "pretrain_epochs=1", "width=0.25", "test_samples=2", "validation_samples=1", "fusion_dim=16",
    "gradient_points=0",
]  # fmt: skip


def stripes(draw, count, side, classes):
    """Images whose stripes' distance tells their class."""
    labels = np.arange(count) % classes
    rows = 200 * (np.arange(side)[None, :, None] % (labels[:, None, None] + 2) == 0)
    return (rows + draw.integers(0, 50, (count, side, side))).astype(np.uint8), labels.astype(np.uint8)


@pytest.fixture
def parts():
    draw = np.random.default_rng(0)
    return [array for count in (64, 26) for array in stripes(draw, count, 12, 3)]


@pytest.fixture
def place(parts, tmp_path):
    """A function that writes the images as a kind wants them; where they lie."""

    def files():
        for name, array in zip(idx.FILES, parts, strict=True):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(head + array.tobytes()))
        return tmp_path

    def folder():
        for split, images, labels in (("train", *parts[:2]), ("test", *parts[2:])):
            for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
                (tmp_path / split / f"class {label}").mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / split / f"class {label}" / f"{index}.png")
        return tmp_path

    def arrays():
        keys = ("train_images", "train_labels", "test_images", "test_labels")
        np.savez(tmp_path / "own.npz", **dict(zip(keys, parts, strict=True)))
        return tmp_path / "own.npz"

    return {"idx": files, "image_folder": folder, "npz": arrays}


def flags(out, kind, root, trials="0"):
    argv = ["--preset", "demo", "--in-process", "--seeds", "1", "--trials", trials, "--out", str(out), "--data", kind]
    return [*argv, "--data-root", str(root), "--ood", "noise", *(f"--set={setting}" for setting in TINY)]


def run(capsys, out, kind, root, *further, trials="0"):
    code = main(STUDY, build, [*flags(out, kind, root, trials), *further])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["idx", "image_folder", "npz"])
def test_one_command_from_own_images_to_a_report(place, tmp_path, capsys, kind):
    """90 images, of which the preset would take more than a thousand, and a batch of 64."""
    size = ["--set=image_size=12"] if kind == "image_folder" else []
    code, out, err = run(capsys, tmp_path / "study", kind, place[kind](), *size)
    assert code == 0, err
    assert "\nboth " in out and (tmp_path / "study" / "report.html").exists()
    header = study_files.read_study(tmp_path / "study")
    assert "fewer images than preset demo takes, so all there are, and batch_size 16 in place of 64" in err
    assert header.data.startswith(f"{kind}: 54 training, 10 validation and 26 test images of 12x12 pixels, 3 classes")
    assert header.data.endswith("so all there are, and batch_size 16 in place of 64")
    assert (header.settings["train_size"], header.settings["batch_size"]) == (None, 16)
    assert "in place of 64" in (tmp_path / "study" / "report.html").read_text()


def test_an_image_that_cannot_be_read_ends_the_command_with_its_name(place, tmp_path, capsys):
    """Though processes that read images are alive."""
    root = place["image_folder"]()
    (broken := root / "train" / "class 1" / "1.png").write_bytes(b"no image")
    code, out, err = run(capsys, tmp_path / "study", "image_folder", root, "--set=image_size=12")
    assert (code, out) == (2, "") and f"{broken}: not a readable JPEG or PNG image" in err
    assert "Traceback" not in err


def test_a_command_whose_images_stay_on_the_disk_ends(place, tmp_path, capsys, monkeypatch):
    """Though processes that read images are alive."""
    monkeypatch.setattr("mldiv.datasets.splits.IN_MEMORY_BYTES", 0)
    code, out, err = run(
        capsys, tmp_path / "study", "image_folder", place["image_folder"](), "--set=image_size=12", "--dry-run"
    )
    assert code == 0 and "epochs asked for" in out, err


def test_images_that_have_changed_are_read_again(place, parts, tmp_path):
    root, found = place["npz"](), []
    for test_images in (parts[2], 255 - parts[2]):
        keys = ("train_images", "train_labels", "test_images", "test_labels")
        np.savez(root, **dict(zip(keys, [*parts[:2], test_images, parts[3]], strict=True)))
        found.append(prepare(STUDY, parse_flags(STUDY, flags(tmp_path / "study", "npz", root))).header.fingerprint)
    assert len(set(found)) == 2


def test_without_validation_images_a_study_reports_what_it_can(place, tmp_path, capsys):
    code, out, err = run(capsys, tmp_path / "study", "npz", place["npz"](), "--set", "validation_size=0")
    assert code == 0, err
    assert "no validation images: temperatures and recalibrations are not fitted" in err
    (trial,) = {item.trial for item in study_files.read_assignments(tmp_path / "study") if item.arm == "both"}
    record = study_files.read_trial(tmp_path / "study" / "trials" / trial)
    assert (record.data["train"], record.data["validation"]) == (64, 0)
    assert record.validation == record.test_scaled == record.calibration_temperature == record.recalibrated == {}
    assert record.test["pair"]["nll"] > 0 and record.posterior["peer_1"].keys() == {"sigma_over_mean"}
    assert "after scaling" not in (tmp_path / "study" / "report.html").read_text()
    assert "\nboth " in out


def test_soft_labels_of_the_data_are_scored_by_from_training_to_tables(place, parts, tmp_path, capsys):
    """Against numpy, from the probabilities that stay; and scored anew under the very same labels nothing changes."""
    shares = [0.7 * np.eye(3)[labels] + 0.1 for labels in parts[1::2]]
    shares[1][::3] = np.roll(shares[1][::3], 1, axis=1)
    parts[1::2] = shares
    code, _, err = run(capsys, tmp_path / "study", "npz", place["npz"](), "--set", "shift_share=5")
    assert code == 0, err
    assert "soft labels of validation (NLL at least 0.639) and test (NLL at least 0.639): NLL and Brier are against each" in err
    (trial,) = {item.trial for item in study_files.read_assignments(tmp_path / "study") if item.arm == "both"}
    record = study_files.read_trial(folder := tmp_path / "study" / "trials" / trial)
    for member, logarithms in full_predictions.read(folder / full_predictions.FILE, trial).items():
        assert record.test[member]["nll"] == pytest.approx(-(shares[1] * logarithms).sum(1).mean(), abs=1e-3)
        assert record.test[member]["brier"] == pytest.approx(np.square(np.exp(logarithms) - shares[1]).sum(1).mean(), abs=1e-3)
        assert record.test[member]["accuracy"] == pytest.approx((logarithms.argmax(1) == shares[1].argmax(1)).mean())
        assert record.validation[member]["nll"] > 0.639
    np.savez(tmp_path / "soft.npz", labels=shares[1], fingerprint=record.data["test_fingerprint"])
    study = load(tmp_path / "study")
    rescore(study, read_labels(tmp_path / "soft.npz"))
    assert not study.problems and "100.0 % with the study's class" in study.rescored
    for member, found in study.records["both", 1].test.items():
        assert found == pytest.approx(record.test[member], abs=2e-3), member


@pytest.mark.parametrize(
    ("further", "trials", "said"),
    [
        (["--set", "validation_size=0"], "1", "the search of arm 'both' chooses by validation images: --trials 0 searches"),
        (["--set", "train_size=1000"], "0", "train_size = 1000: there are only"),
        (["--set", "batch_size=128"], "0", "batch_size = 128 exceeds the 54 training images"),
        (["--set", "train_labels=x.txt"], "0", "--set train_labels=x.txt: use --train-labels"),
        (["--train-labels", "/nowhere/x.txt"], "0", "/nowhere/x.txt: cannot be read (No such file or directory)"),
        (["--pretrained", "/nowhere/x.pt"], "0", "/nowhere/x.pt: cannot be read (No such file or directory)"),
        (["--pretrained", __file__], "0", "test_studies_of_own_data.py: no file of tensors alone"),
        (["--download"], "0", "--download: images of your own cannot be downloaded; --data-root names them: a file NAME.npz"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_any_work(place, tmp_path, capsys, further, trials, said):
    code, out, err = run(capsys, tmp_path / "study", "npz", place["npz"](), *further, trials=trials)
    assert code == 2 and not out and said in err
    assert not (tmp_path / "study" / "trials").exists()


def test_none_is_none(place, tmp_path, capsys):
    """In any spelling, where a setting may be that."""
    for none in ("None", "none", "null"):
        code, out, _ = run(
            capsys, tmp_path / "study", "npz", place["npz"](), "--set", f"train_size={none}", "--set", "test_size=20",
            "--set", "validation_size=10", "--dry-run",
        )  # fmt: skip
        assert code == 0 and "npz: 54 training, 10 validation and 20 test images" in out
    assert "lr = 'None': expected float" in run(capsys, tmp_path / "study", "npz", place["npz"](), "--set", "lr=None")[2]


def test_other_labels_and_weights_are_said_on_the_screen_and_in_the_record(place, tmp_path, capsys):
    (tmp_path / "noisy.txt").write_text("0 1 2 2 " * 16)
    torch.save(network("resnet8", classes=10, channels=1, width=0.25, seed=3).state_dict(), tmp_path / "own.pt")
    given = ["--train-labels", str(tmp_path / "noisy.txt"), "--pretrained", str(tmp_path / "own.pt")]
    argv = flags(tmp_path / "study", "npz", place["npz"]())
    header = prepare(STUDY, parse_flags(STUDY, argv + given)).header
    err = capsys.readouterr().err
    assert err.count("tensors; left at their random start: linear.weight ([10, 16] there, [3, 16] here)") == 1
    assert "trained with the labels of noisy.txt, " in header.data
    assert "not the data set's own, which validation, temperatures and test keep" in header.data
    assert len(header.settings["train_labels_hash"]) == len(header.settings["pretrained_hash"]) == 16
    study_files.write_study(tmp_path / "study", header)
    assert main(STUDY, build, [*argv, *given[2:], "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert "train_labels_hash" in err and "fingerprint" in err and "holds another configuration" in err
    assert f"continue it (--train-labels {tmp_path / 'noisy.txt'} as it was then), or another --out" in err
    (tmp_path / "noisy.txt").rename(tmp_path / "moved.txt")
    assert main(STUDY, build, [*argv, "--train-labels", str(tmp_path / "moved.txt"), *given[2:], "--dry-run"]) == 0
    with pytest.raises(ConfigError, match="--pretrained: no arm's peers start from it"):
        prepare(STUDY, parse_flags(STUDY, [*argv, *given[2:], "--set", "initialization=scratch"]))


def test_other_images_that_cannot_be_read_are_named_before_training(place, tmp_path):
    root = place["image_folder"]()
    asked = [*flags(tmp_path / "out", "digits", root), f"--ood=image_folder@{root}"]
    prepare(STUDY, parse_flags(STUDY, asked))
    bad = next((root / "test" / "class 0").iterdir())
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"{bad.name}: not a readable JPEG or PNG image \(.*\); replace or remove it"):
        prepare(STUDY, parse_flags(STUDY, asked))
