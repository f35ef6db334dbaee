"""A trained pair from its folder: predicts what its trial recorded, whatever form images come in; what is missing is said."""

import builtins
import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.small_study import trial
from PIL import Image
from torchvision.transforms import functional as tf

import mldiv
from analysis.compact.copy import compact
from mldiv.config import ConfigError, from_dict
from mldiv.datasets.files import DataError
from mldiv.evaluation import predictive
from mldiv.interface.images import as_bytes
from mldiv.records import checked_files, study_files
from mldiv.records.checked_files import Damaged, RecordError
from mldiv.storage.files import dump
from mldiv.training.worker_cache import dataset


@pytest.fixture(scope="module")
def pair(trained):
    return mldiv.load(trained, arm="both", seed=1)


@pytest.fixture(scope="module")
def tested(pair):
    """The images of the trial's test scores, uint8 [24, 1, 8, 8]."""
    return dataset(pair.config).test.images


@pytest.fixture(scope="module")
def found(pair, tested):
    return pair.predict(tested, keep_samples=True)


def test_a_notebooks_cell(trained):
    """Loads a pair, and scores images that lie in no data set."""
    from sklearn.datasets import load_digits

    pair = mldiv.load(trained, arm="both", seed=1)
    digits = load_digits()
    found = pair.predict(digits.images / 16)
    accuracy = (found.labels == digits.target).mean()
    unsure = found.mutual_information.argsort()[::-1][:10]

    assert found.mean.shape == (1797, 10) and found.peers.shape == (2, 1797, 10) and found.samples is None
    assert found.names == tuple("0123456789")
    assert repr(pair).startswith("TrainedPair('resnet8', peers=2, data='digits', seed=1, id='") and len(repr(pair)) < 100
    assert 0.1 < accuracy < 1 and len(set(unsure)) == 10


def test_the_images_of_the_test_scores_give_what_is_recorded(pair, tested, trained):
    """To the last bit: the same weight samples, batches and threads; of floats too, whose levels `train` has rounded."""
    recorded = pd.read_parquet(trial(trained) / "predictions.parquet")
    found, sixteenths = pair.predict(tested), (tested.double() * 16 / 255).round() / 16
    assert np.array_equal(pair.predict(sixteenths).peers, found.peers) and not torch.equal(sixteenths, tested / 255)
    for member, mean in {"pair": found.mean, **dict(zip(("peer_1", "peer_2"), found.peers, strict=True))}.items():
        rows = recorded[recorded["member"] == member]
        assert np.array_equal(mean.argmax(-1), rows["predicted"])
        assert np.array_equal(mean.max(-1), rows["confidence"])
    rows = recorded[recorded["member"] == "pair"]
    assert np.array_equal(found.entropy, rows["entropy"]) and np.array_equal(found.confidence, rows["confidence"])
    assert np.array_equal(found.mutual_information, rows["mutual_information"])


def test_entropy_and_mutual_information_are_those_of_the_samples(found):
    """By the formulas, in numpy and double precision."""
    samples = found.samples.astype(float)
    assert samples.shape == (2, 2, 24, 10)
    every = samples.reshape(4, 24, 10)
    entropy = -(every.mean(0) * np.log(every.mean(0))).sum(-1)
    np.testing.assert_allclose(found.mean, every.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.peers, samples.mean(1), atol=1e-6)
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-5)
    np.testing.assert_allclose(found.mutual_information, entropy + (every * np.log(every)).sum(-1).mean(0), atol=1e-5)
    assert found.mutual_information.max() > 0.001


def test_images_of_every_form_are_the_same_images(pair, tested, found):
    pictures = [Image.fromarray(image) for image in tested[:, 0].numpy()]
    forms = {
        "channels last": tested.permute(0, 2, 3, 1).numpy(), "no channels": tested[:, 0],
        "whole numbers": tested.numpy().astype("u2"),
        "floats": tested.numpy().astype("f8") / 255, "read only": np.broadcast_to(tested.numpy(), tested.shape),
        "bytes the other way round": (tested.numpy() / 255).astype(">f4"),
        "a list": list(tested.numpy()), "tensors": list(tested.float() / 255), "pictures": pictures,
        "in colours": [picture.convert("RGB") for picture in pictures],
    }  # fmt: skip
    for name, images in forms.items():
        np.testing.assert_allclose(pair.predict(images).mean, found.mean, atol=1e-6, err_msg=name)


def test_images_of_another_size_are_cut_and_resized(pair, tested, found):
    larger = tested.repeat_interleave(4, 2).repeat_interleave(4, 3)
    wide = torch.nn.functional.pad(larger, (5, 5))
    assert np.array_equal(pair.predict(wide).mean, pair.predict(larger).mean)
    assert np.array_equal(pair.predict(larger.float() / 255).labels, pair.predict(larger).labels)
    assert (pair.predict(larger).labels == found.labels).mean() > 0.8


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 3), "u1"), r"\(2, 8, 8, 3\): expected 1 channel, last"),
        (np.zeros((8, 8), "u1"), "a single image is images"),
        (np.zeros((300, 64)), r"images of shape \(300, 64\): .* with 1 channel, or grey ones \[images, height, width\]; "),
        (np.zeros((300, 8, 8, 3), "u1"), r"images of shape \(300, 8, 8, 3\): expected 1 channel"),
        (np.zeros((300, 1, 8, 1), "u1"), r"images of shape \(300, 1, 8, 1\): the channels may be first or last"),
        (np.full((2, 1, 8, 8), 255.0), "float images from 255 to 255, .* give uint8 for values up to 255"),
        (np.full((2, 1, 8, 8), -0.5), "from -0.5 to -0.5"),
        (np.where(np.arange(20)[:, None, None, None] == 17, np.nan, np.zeros((20, 1, 8, 8))), "^image 17 holds NaN"),
        (np.full((2, 1, 8, 8), 256), "whole numbers from 256 to 256"),
        (np.zeros((2, 1, 8, 8), bool), "torch.bool"),
        (np.zeros((2, 1, 8, 1), "u1"), "say layout='HWC' or 'CHW'"),
        ([np.zeros((1, 8, 8), "u1"), np.zeros((1, 9, 9), "u1")], "no images of one shape"),
        (["a.png"], "no images of one shape and type"),
        (np.zeros((0, 1, 8, 8), "u1"), "no images"),
        (np.zeros((2, 1, 0, 8), "u1"), r"images of shape \(2, 1, 0, 8\): no pixels"),
        ([Image.new("F", (8, 8), 0.5)], "^image 0: a picture of floats.*: give arrays"),
        ([Image.new("L", (8, 8))] * 20 + [Image.new("I", (8, 8), 200)], "^image 20: a picture of mode I, .*: give arrays"),
        ([Image.new("I", (8, 8), 70_000)], "^image 0: more than 16 bits per channel: give arrays"),
        ([Image.new("L", (8, 8)), np.zeros((8, 8), "u1")], "^image 1: a ndarray among Pillow's pictures"),
        (None, "no images, but None"),
        (np.array(5), r"no images, but array\(5\)"),
        (torch.tensor(1), r"no images, but tensor\(1\)"),
        ({"images": 1}, "no images, but {'images': 1}"),
        ({1, 2}, "no images, but {1, 2}"),
        ([Image.new("L", (0, 8))], "^image 0: a picture without pixels: give arrays"),
    ],
)  # fmt: skip
def test_what_are_no_images_is_said(pair, images, message):
    with pytest.raises(DataError, match=message):
        pair.predict(images)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"samples": 1.5}, "samples = 1.5: expected a whole number from 0 on"),
        ({"samples": -1}, "samples = -1: expected a whole number from 0"),
        ({"batch_size": 0}, "batch_size = 0: expected a whole number from 1 on"),
        ({"seed": -1}, "seed = -1: expected"),
        ({"seed": "a"}, "seed = 'a': expected"),
        ({"threads": 0}, "threads = 0: expected a whole number from 1"),
        ({"keep_samples": "no"}, "keep_samples = 'no': expected True or False"),
    ],
)
def test_numbers_that_cannot_be_are_refused(pair, tested, asked, message):
    with pytest.raises(ConfigError, match=message):
        pair.predict(tested, **asked)


def test_the_layout_can_be_said(pair):
    images = torch.arange(2 * 3 * 3 * 3).reshape(2, 3, 3, 3).byte()
    assert torch.equal(as_bytes(images, 3, 3, "CHW"), images)
    assert torch.equal(as_bytes(images, 3, 3, "HWC"), images.permute(0, 3, 1, 2))
    assert torch.equal(as_bytes(images.permute(0, 2, 3, 1)[:, :2], None, None, None), images[:, :, :2, :2])
    with pytest.raises(DataError, match="layout = 'NCHW': expected HWC or CHW"):
        pair.predict(images, layout="NCHW")


def test_pictures_are_read_as_a_folder_of_them_is():
    """The shorter side resized, the middle cut out; grey of 16 bits scaled."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = tf.pil_to_tensor(tf.center_crop(tf.resize(picture, 16), 16))
    assert torch.equal(as_bytes([picture], 3, 16, None)[0], expected)
    assert as_bytes([picture], None, None, None).shape == (1, 3, 30, 30)
    wide = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    assert torch.equal(as_bytes([wide.crop((0, 0, 30, 30))], 1, 30, None)[0, 0], torch.from_numpy(pixels[:, :30, 0]))


def test_a_call_repeats_and_another_seed_does_not(pair, tested, found):
    torch.manual_seed(3)
    assert np.array_equal(pair.predict(tested).peers, pair.predict(tested).peers)
    seeded = pair.predict(tested, seed=5)
    assert np.array_equal(seeded.mean, pair.predict(tested, seed=5).mean)
    assert not np.array_equal(seeded.mean, found.mean) and np.allclose(seeded.mean, found.mean, atol=0.2)
    assert not np.array_equal(pair.predict(tested, samples=5).mean, found.mean)


def test_no_samples_are_the_networks_of_the_means(pair, tested):
    found = pair.predict(tested, samples=0)
    peer, form = pair.module.peers[0], pair.form
    images = (tested.float() / 255 - form.mean[0]) / form.std[0]
    with torch.no_grad():
        expected = peer(images, weights=peer.mean)[0].softmax(-1)
    np.testing.assert_allclose(found.peers[0], expected, atol=1e-6)


def test_many_images_are_predicted_a_batch_at_a_time(pair, tested, found, monkeypatch):
    sizes, predict = [], predictive.predict
    monkeypatch.setattr(
        predictive, "predict", lambda peer, images, *more: sizes.append(len(images)) or predict(peer, images, *more)
    )
    assert len(pair.predict(tested.repeat(50, 1, 1, 1)).labels) == 1200
    assert max(sizes) == pair.config.batch_size == 16
    np.testing.assert_allclose(pair.predict(tested, batch_size=7).mean, found.mean, atol=1e-6)
    assert max(sizes[-8:]) == 7


def test_the_callers_threads_stay(pair, tested):
    torch.set_num_threads(2)
    pair.predict(tested)
    assert torch.get_num_threads() == 2
    with pytest.raises(DataError):
        pair.predict(tested.expand(-1, 3, -1, -1))
    assert torch.get_num_threads() == 2


def test_its_history_has_a_row_per_epoch(pair, trained):
    lines = list(checked_files.read_lines(trial(trained) / "metrics.jsonl"))
    assert list(pair.history["stage"]) == [1, 2]
    assert list(pair.history["validation.pair.nll"]) == [line["validation"]["pair"]["nll"] for line in lines]
    assert list(pair.history["lr"]) == [line["lr"] for line in lines]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "name an arm; there are 'plain', 'both'"),
        ({"arm": "neither"}, "no arm is called 'neither'; there are 'plain', 'both'"),
        ({"arm": "both", "seed": 7}, "arm 'both': seed 7 has no trial; there are 1$"),
    ],
)
def test_an_arm_or_seed_that_there_is_not(trained, asked, message):
    with pytest.raises(ConfigError, match=message):
        mldiv.load(trained, **asked)


def test_the_arm_that_is_asked_for_is_loaded(trained):
    weights = {arm: mldiv.load(trained, arm=arm, seed=1).config.alpha for arm in ("plain", "both")}
    assert weights["plain"] == 0 < weights["both"]


def test_a_trials_folder_or_an_address_serves_as_well(pair, trained, tested):
    places = {"alone": (trial(trained), {}), "address": (trained.as_uri(), {"arm": "both"})}
    places["a trial's address"] = (trial(trained).as_uri(), {})
    for name, (place, asked) in places.items():
        other = mldiv.load(place, **asked)
        assert other.record == pair.record and other.lines == pair.lines, name
        assert np.array_equal(other.predict(tested).mean, pair.predict(tested).mean), name
    with pytest.raises(ConfigError, match="is no study's folder"):
        mldiv.load(trial(trained), arm="both")


def test_a_place_without_records_is_said(tmp_path):
    with pytest.raises(RecordError, match=r"trial.json: no such file"):
        mldiv.load(tmp_path / "nowhere")


def test_what_is_no_folder_of_a_pair_is_said(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"trial.json is a file: give the folder"):
        mldiv.load(trial(trained) / "trial.json")
    compact(trained, tmp_path)
    with pytest.raises(ConfigError, match="a compact copy has no weights"):
        mldiv.load(tmp_path, arm="both")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="there is no GPU here: device='cpu'"):
            mldiv.load(trained, arm="both", device="cuda")


def edit(folder, **changes):
    record = study_files.read_trial(folder)
    for name, value in changes.items():
        setattr(record, name, value)
    study_files.write_trial(folder, record)


@pytest.mark.parametrize("status", ["running", "failed", "diverged"])
def test_a_trial_that_did_not_finish_is_refused(study, status):
    edit(trial(study), status=status, reason="a disk\nfull of words")
    with pytest.raises(RecordError, match=rf"is {status} \(a disk\)"):
        mldiv.load(study, arm="both")


def test_lost_weights_are_said_with_what_would_do(study):
    (trial(study) / "checkpoint.pt").unlink()
    with pytest.raises(RecordError, match=r"checkpoint.pt: no such file. It holds the weights"):
        mldiv.load(study, arm="both")


class Rude:
    def __reduce__(self):
        return exec, ("import builtins; builtins.rude = True",)


def test_weights_that_are_none_are_refused_and_nothing_in_them_is_run(study):
    path = trial(study) / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    shown = {
        "another trial's": saved | {"trial": "0123456789abcdef"},
        "another epoch's": saved | {"epoch": 1},
        "not those of this network": saved | {"pair": {}},
        "not a whole file of tensors": saved | {"rude": Rude()},
    }
    for message, state in shown.items():
        path.write_bytes(dump(state))
        with pytest.raises(Damaged, match=message):
            mldiv.load(study, arm="both")
    assert not hasattr(builtins, "rude")


def test_a_record_of_an_older_version_takes_the_form_from_the_data(study, pair):
    folder = trial(study)
    edit(folder, data={name: value for name, value in pair.record.data.items() if name not in pair.form.__dict__})
    assert mldiv.load(study, arm="both").form == pair.form
    record = json.loads((folder / "trial.json").read_text())
    config = from_dict(record["config"]).replace(data="cifar10")
    edit(folder, config=record["config"] | {"data": "cifar10"}, id=config.id)
    renamed = folder.rename(folder.with_name(config.id))
    with pytest.raises(
        DataError, match=r"does not say in its record how images .* give its folder, load\(\.\.\., data_root=FOLDER"
    ):
        mldiv.load(renamed)


@pytest.mark.parametrize("changes", [{"mean": 3}, {"train": None}, {"names": 3}, {"std": ["a"]}])
def test_a_damaged_form_is_said(study, changes):
    edit(trial(study), data=study_files.read_trial(trial(study)).data | changes)
    with pytest.raises(Damaged, match="what its record says of its images is damaged"):
        mldiv.load(study, arm="both")


@pytest.mark.parametrize(("here", "said"), [({}, r"mine \(0123456789ab\).*plugins="), ({"mine": "ba"}, r"\(ba, not 0123")])
def test_a_plug_in_is_asked_for_by_name(study, monkeypatch, here, said):
    monkeypatch.setattr("mldiv.interface.loading.hashes", lambda: here)
    edit(trial(study), environment=study_files.read_trial(trial(study)).environment | {"plugins": {"mine": "0123456789ab"}})
    with pytest.raises(ConfigError, match=said):
        mldiv.load(study, arm="both")
