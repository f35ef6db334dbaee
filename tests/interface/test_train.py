"""A pair trained from Python, on a data set or on own images, is the trial that a study trains."""

import numpy as np
import pytest
import torch
from helpers.first_stages import differing
from helpers.plugins import forget
from helpers.small_study import trial
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import mldiv
from mldiv.config import ConfigError, TrialConfig, from_dict
from mldiv.datasets.files import DataError
from mldiv.datasets.sources import DATASETS
from mldiv.interface import training
from mldiv.interface.own.data import own_data
from mldiv.method.networks import MODELS
from mldiv.records import checked_files, study_files
from mldiv.training.loop import Diverged
from mldiv.training.worker_cache import dataset


@pytest.fixture(scope="module")
def digits():
    """Training and test images of the digits with their labels, and how they are augmented."""
    return DATASETS["digits"].read(None, 8)


@pytest.fixture(scope="module")
def settings(trained):
    return study_files.read_trial(trial(trained)).config


@pytest.fixture(scope="module")
def own(settings, digits, tmp_path_factory):
    """The trial of a study, trained again with its images given as arrays; its folder."""
    folder, heard = tmp_path_factory.mktemp("own") / "pair", []
    (images, labels), test = digits
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    (folder / "store").mkdir(parents=True)
    (folder / "store" / "own.txt").touch()
    try:
        with torch.device("meta"):
            pair = mldiv.train(
                from_dict(settings), (images.numpy(), labels.numpy()), test=test, folder=folder, names=np.arange(10), padding=1,
                progress=lambda line: heard.append(line["epoch"]),
            )  # fmt: skip
        assert (torch.get_num_threads(), torch.get_default_dtype()) == (2, torch.float64)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
    return pair, folder, heard


def test_own_images_are_trained_on_as_a_study_does(own, trained):
    """Bit for bit: the digits under another name, whatever the caller has set of torch."""
    pair, folder, heard = own
    alike = [torch.load(place / "checkpoint.pt", weights_only=True)["pair"] for place in (folder, trial(trained))]
    assert differing(*alike) == []
    expected = study_files.read_trial(trial(trained))
    assert pair.record.test == expected.test and pair.record.data == expected.data
    assert pair.config == from_dict(expected.config).replace(data="own")
    assert heard == [0, 1] == list(pair.history["epoch"])
    assert pair.record.environment["threads"] == 1


def test_settings_may_name_what_a_plug_in_enters(tmp_path):
    """The refusal of an unknown kernel says plugins=[FILE], which `train` did not take."""
    (tmp_path / "own.py").write_text(
        "from mldiv.method.kernels import KERNELS, cosine\n\n\n"
        "def mine(a, b):\n    return cosine(a, b)\n\n\nKERNELS['mine_of_train'] = mine\n"
    )
    named = {"kernel": "mine_of_train", "arch": "resnet8", "width": 0.25, "epochs": 1, "switch_epoch": 0, "pretrain_epochs": 1,
             "data": "digits", "image_size": None, "ood": "none"}  # fmt: skip
    try:
        pair = mldiv.train(named, plugins=[str(tmp_path / "own.py")])
    finally:
        forget("own")
    assert pair.config.kernel == "mine_of_train" and list(pair.record.environment["plugins"]) == ["own"]


def test_what_is_kept_can_be_loaded_and_is_not_trained_again(own, digits):
    pair, folder, _ = own
    (images, labels), test = digits
    again = mldiv.train(pair.config, (images, labels), test=test, folder=folder, names="0123456789", padding=1)
    for other in (mldiv.load(folder), again):
        assert other.record == pair.record
        assert np.array_equal(other.predict(test[0][:48]).mean, pair.predict(test[0][:48]).mean)
    assert {file.name for file in folder.iterdir() if file.is_dir()} == {"store"}
    assert (folder / "store" / "own.txt").exists(), "what is not the trial's stays"


def test_a_folder_of_something_else_is_refused(own, digits, trained):
    pair, folder, _ = own
    (images, labels), test = digits
    with pytest.raises(ConfigError, match="a trial with the same settings, but other images"):
        mldiv.train(pair.config, (255 - images, labels), test=test, folder=folder, padding=1)
    with pytest.raises(ConfigError, match=rf"a trial with other settings \(seed = {pair.config.seed}, not 9\): take"):
        mldiv.train(pair.config.replace(seed=9), (images, labels), test=test, folder=folder, padding=1)
    with pytest.raises(ConfigError, match="holds a study"):
        mldiv.train(pair.config, folder=trained)
    assert study_files.read_trial(folder) == pair.record


def test_a_file_is_no_folder(digits, settings, tmp_path):
    (tmp_path / "own.py").touch()
    with pytest.raises(ConfigError, match=r"own.py is a file: take another folder"):
        mldiv.train(settings, digits[0], folder=tmp_path / "own.py")
    with pytest.raises(ConfigError, match=r"own.py is a file: take another folder"):
        mldiv.train(settings, digits[0], folder=tmp_path / "own.py" / "pair")


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        ("demo", {}, "settings: a dict by name, or a TrialConfig, in place of 'demo'"),
        ({}, {"threads": 0}, "threads = 0: expected a whole number from 1"),
        ({}, {"padding": -1}, "padding = -1: expected a whole number from 0"),
        ({}, {"padding": 8}, "padding = 8: shifts images of 8 pixels a side out of sight"),
        ({}, {"flip": "no"}, "flip = 'no': expected True or False"),
        ({}, {"device": "gpu"}, "device = 'gpu': "),
        ({}, {"progress": None}, "progress = None: expected a function of an epoch's line"),
        ({}, {"device": "mps"}, "device = 'mps': pairs are trained on 'cpu' and 'cuda'"),
        pytest.param(
            {}, {"device": "cuda"}, "there is no GPU here: device='cpu'",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)  # fmt: skip
def test_what_is_given_is_refused_before_any_work(digits, monkeypatch, config, given, message):
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=message):
        mldiv.train(config, digits[0], **given)


@pytest.mark.parametrize("given", [{"test": ([], [])}, {"names": "ab"}, {"padding": 0}, {"flip": True}, {"layout": "CHW"}])
def test_what_says_how_given_images_are_is_refused_of_a_data_set_by_name(monkeypatch, given):
    """It was passed over: a test set of one's own gave the scores of another."""
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=f"{next(iter(given))}= is of images that are given, and none are: data='digits'"):
        mldiv.train({"data": "digits"}, **given)


def make(settings, data, test=None, names=None, layout=None, padding=None, flip=False, **changes):
    config = from_dict(settings).replace(data="own", train_size=None, test_size=None, validation_size=None, **changes)
    if test is None:
        config = config.replace(test_split="development")
    return own_data(config, data, test, names=names, padding=padding, flip=flip, layout=layout)


def test_own_images_are_split_by_class_without_loss(settings):
    images, labels = np.arange(60, dtype=np.uint8).repeat(64).reshape(60, 8, 8), np.arange(60) % 3
    data = make(settings, (images, labels), validation_fraction=0.2)
    parts = {name: split.images[:, 0, 0, 0].tolist() for name, split in data.splits.items()}
    assert sorted(image for part in parts.values() for image in part) == list(range(60))
    for split in data.splits.values():
        counts = split.labels.bincount()
        assert counts.max() - counts.min() <= 1
        assert torch.equal(split.labels, split.images[:, 0, 0, 0].long() % 3)
    assert (data.classes, data.channels, data.padding, data.flip, data.test_split) == (3, 1, 1, False, "development")
    data = make(settings, (images, labels), padding=3, flip=True, names=(name for name in "abc"))
    assert (data.padding, data.flip, data.names) == (3, True, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("config", "points"),
    [
        (None, 0.5),
        ({"lr": 0.01}, 0.5),
        ({"gradient_points": 0.0}, 0.0),
        ({"gradient_points": 2.0}, 2.0),
        (TrialConfig(), 0.0),
        (TrialConfig(gradient_points=0.25), 0.25),
    ],
)
def test_each_terms_gradients_are_recorded_unless_asked_otherwise(digits, monkeypatch, config, points):
    """Settings by name leave it to `train`; a whole configuration says it."""
    seen = []

    def stop(config, folder, **_):
        seen.append(config)
        raise InterruptedError

    monkeypatch.setattr(training, "fit", stop)
    with pytest.raises(InterruptedError):
        mldiv.train(config, digits[0], test=digits[1])
    assert seen[0].gradient_points == points


def test_a_pair_from_python_leaves_its_terms_gradients(digits, settings, tmp_path):
    """In stage two both diversity terms' too: the last of two epochs holds the point that half a point an epoch gives."""
    named = {name: value for name, value in settings.items() if name != "gradient_points"}
    mldiv.train(named, digits[0], test=digits[1], folder=tmp_path)
    *_, last = checked_files.read_lines(tmp_path / "metrics.jsonl")
    assert last["stage"] == 2 and [point["at"] for point in last["gradients"]] == [1.0]
    assert all(last["gradients"][0][term]["mean_1"] > 0 for term in ("nll", "param_diversity", "feature_diversity"))


def test_without_test_images_training_images_stand_in(settings, digits, monkeypatch):
    seen = []

    def stop(config, folder, *, workspace, **_):
        seen.append((config.data, config.test_split, workspace.data(config).test_split, len(workspace.data(config).test)))
        raise InterruptedError

    monkeypatch.setattr(training, "fit", stop)
    for test in (None, digits[1]):
        with pytest.raises(InterruptedError):
            mldiv.train(from_dict(settings).replace(test_size=None), digits[0], test=test)
    assert seen == [("own", "development", "development", round(0.15 * 1437)), ("own", "official", "official", 360)]


@pytest.mark.parametrize("first", [0, 1])
def test_a_loader_of_pictures_whose_first_are_grey_keeps_the_colours_of_the_others(settings, first):
    batches = [([Image.new(*how)] * 40, [0, 1] * 20) for how in (("L", (8, 8), 100), ("RGB", (8, 8), (255, 0, 0)))]
    images = make(settings, [batches[first], batches[1 - first]]).train.images
    assert images.amax((0, 2, 3)).tolist() == [255, 100, 100]


def test_loaders_and_data_sets_of_images_are_taken(settings):
    images, labels = torch.rand(40, 3, 8, 8), torch.arange(40) % 2
    whole = make(settings, (images, labels))
    items = TensorDataset(images, labels)
    for data in (
        DataLoader(items, batch_size=7),
        items,
        Items(items),
        [(images[:30], labels[:30]), (images[30:], labels[30:])],
    ):
        assert make(settings, data).whole_fingerprint == whole.whole_fingerprint
    assert torch.equal(
        torch.cat([part.images for part in whole.splits.values()]).unique(), (images * 255).round().byte().unique()
    )


class Items(IterableDataset):
    """A data set of single images and labels that has no length."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((np.zeros((4, 8, 8), "u1"), [0, 1, 0]), {}, r"shape \(3,\) for 4"),
        ((np.zeros((4, 8, 8), "u1"), [0, 1, 0, -1]), {}, "^label -1 of image 3: a whole number from 0 on"),
        ([(np.zeros((4, 8, 8), "u1"), [0] * 4), (np.zeros((2, 8, 8), "u1"), [0, -2])], {}, "^label -2 of image 5"),
        ((np.zeros((4, 8, 8), "u1"), [0.0, 1.0, 0.0, 1.0]), {}, "labels of type float64, such as "),
        ((np.zeros((4, 8, 8), "u1"), ["a", "b", "a", "b"]), {}, "labels of type <U1"),
        ((np.zeros((4, 8, 8), "u1"), [0, 0, 0, 0]), {}, "labels of 1 class: at least 2"),
        ((np.zeros((4, 8, 8), "u1"), [1, 1, 2, 2]), {}, "from 1 to 2, .* labels begin at 0"),
        ((np.zeros((6, 8, 8), "u1"), [0, 0, 10, 10, 20, 20]), {}, "18 between 0 and that have no training image: labels begin"),
        ((np.zeros((4, 8, 8), "u1"), [0, 0, 1, 1]), {"test": (np.zeros((1, 8, 8), "u1"), [2])}, "test labels go up to 2, tra"),
        ((np.zeros((2, 8, 8), "u1"), [[0.5, 0.5], [0.5, 0.6]]), {}, "labels: the shares of image 1 add up to 1.1"),
        ((np.zeros((2, 8, 8), "u1"), np.full((2, 2), 0.5)), {"names": "abc"}, "soft labels share out 2 classes, there are 3"),
        ((np.zeros((4, 8, 8), "u1"), [0, 1, 0, 2]), {"names": ["cat", "dog"]}, "labels go up to 2, and 2 classes are named"),
        ((np.zeros((4, 5, 8, 8), "u1"), [0, 1, 0, 1]), {}, "expected 1 or 3 channels, .* of another number say layout="),
        ([np.zeros((4, 8, 8), "u1")], {}, "a ndarray, where .images, labels. were expected"),
        ([], {}, "no images"),
        ((np.zeros((0, 8, 8), "u1"), np.zeros(0, int)), {}, "no images"),
        ((np.zeros((0, 8, 8), "u1"), []), {}, "no images"),
        (TensorDataset(torch.zeros(0, 8, 8)), {}, "no images"),
        (TensorDataset(torch.zeros(4, 8, 8)), {}, "a tuple of 1, where .image, label. was expected of item 0"),
        (Items([{"image": np.zeros((8, 8), "u1"), "label": 0}]), {}, "a dict, where .image, label. was expected of item 0"),
        (5, {}, "a int, where .images, labels. were expected"),
        ((np.zeros((4, 8, 8), "u1"), [0, 1, 0, 2**40]), {}, "label 1099511627776 of image 3: at most 32767, .*numpy.unique"),
        ((np.zeros((4, 8, 8), "u1"), [0, 1, 0, 1]), {"names": 2}, "names = 2: expected the classes' names in the order"),
        ((np.zeros((4, 8, 8), "u1"), [0, 0, 1, 1]), {"test": (np.zeros((0, 8, 8), "u1"), np.zeros(0, int))}, "no images"),
        ((np.random.default_rng(0).normal(size=(4, 8, 8)), [0, 1, 0, 1]), {}, "not normalised"),
        ((np.zeros((4, 8, 8), "u1"), [0, 1, 0, 1]), {}, "images cannot be taken: 2 to 2 can be, with 2 classes on either side"),
        ((np.zeros((4, 8, 8), "u1"), [0, 1, 0, 2]), {}, "test_size .none: validation_fraction, .* class 1 has a single image"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_said(settings, data, options, message):
    with pytest.raises(DataError, match=message):
        make(settings, data, **options)


def test_a_class_without_a_training_image_is_noted(settings):
    images = np.zeros((8, 8, 8), "u1")
    data = make(settings, (images, [0, 0, 0, 1, 1, 1, 3, 3]), test=(images, [2] * 8), validation_fraction=0.4)
    assert data.notes[0] == "class 2 has no training images"
    named = make(settings, (images, [1] * 4 + [2] * 4), test=(images, [3] * 8), names="abcd", validation_fraction=0.4)
    assert named.notes[0] == "classes 0, 3 have no training images" and named.classes == 4
    assert training._Given(torch.device("cpu"), named).messages == list(named.notes)


def test_settings_by_name_and_a_data_set_by_name():
    """One epoch of a few digits; what diverges is raised, and a misspelt setting is named."""
    tiny = {
        "data": "digits", "arch": "resnet8", "width": 0.25, "train_size": 48, "validation_size": 24, "test_size": 24,
        "epochs": 1, "switch_epoch": 1, "batch_size": 16, "initialization": "scratch", "test_samples": 2, "ood": "none",
    }  # fmt: skip
    pair = mldiv.train(tiny)
    assert pair.record.status == "finished" and pair.config == TrialConfig(**tiny, gradient_points=0.5)
    assert pair.config.id == TrialConfig(**tiny).id
    assert len(pair.predict(dataset(pair.config).test.images).labels) == 24
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        mldiv.train(tiny | {"widht": 1})
    with pytest.raises(Diverged, match="epoch 0"):
        mldiv.train(tiny | {"lr": 1e12, "clip_norm": 0.0})


class Own(nn.Module):
    """Gives features that are detached."""

    feature_channels = (4,)

    def __init__(self, classes, channels, width, image_size):
        super().__init__()
        self.convolution, self.classifier = nn.Conv2d(channels, 4, 3), nn.Linear(4, classes)

    def forward(self, images):
        features = self.convolution(images)
        return self.classifier(features.mean((2, 3))), (features.detach(),)


class Bare(Own):
    """Gives logits alone."""

    def forward(self, images):
        return super().forward(images)[0]


class Lazy(Own):
    """Has a layer whose weights an image would decide."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.convolution = nn.LazyConv2d(4, 3)


@pytest.mark.parametrize(
    ("network", "said"),
    [(Own, "no gradient of its features"), (Bare, "forward must return"), (Lazy, "Lazy has lazy layers")],
)
def test_an_own_network_is_tried_before_training(digits, monkeypatch, network, said):
    """Detached features were trained on without a word: the feature term moved nothing."""
    monkeypatch.setitem(MODELS, "own", network)
    with pytest.raises(ConfigError, match=f"network 'own': {said}"):
        mldiv.train({"arch": "own", "epochs": 2, "switch_epoch": 1}, digits[0])


class Frozen(Own):
    """Has a frozen classifier, and gives no gradient out of training."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.classifier.requires_grad_(False)

    def forward(self, images):
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            features = self.convolution(images)
            return self.classifier(features.mean((2, 3))), (features,)


def test_a_network_with_a_frozen_layer_is_taken_and_the_layer_stays(digits, monkeypatch):
    """It was refused for its evaluation; the frozen layer had a posterior, which learned."""
    monkeypatch.setitem(MODELS, "own", Frozen)
    pair = mldiv.train({"arch": "own", "epochs": 1, "switch_epoch": 1}, digits[0])
    assert pair.record.status == "finished"
    assert [names for peer in pair.module.peers for names in peer.names] == [["convolution.weight"]] * 2
