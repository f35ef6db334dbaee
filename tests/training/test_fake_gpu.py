"""Whole trials on CUDA tensors without values: what mixes devices, or layouts that CUDA's kernels refuse, fails here."""

import contextlib
import dataclasses
import itertools
import random
import re

import pytest
import torch
from helpers.fake_gpu import backward, fake_gpu
from torch import nn

from benchmarks import paper_size
from benchmarks.device_checks import Replayed
from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets.splits import ImageData, Split
from mldiv.evaluation.metrics import scores
from mldiv.evaluation.predictive import predictives
from mldiv.method.architectures.cifar import BatchNorm
from mldiv.method.networks import MODELS
from mldiv.method.pair import MutualPair
from mldiv.settings.setting import fields
from mldiv.storage.cache import Store
from mldiv.training import final_scores, step_cost, worker_cache
from mldiv.training.fit import fit
from mldiv.training.loop import make_pair
from mldiv.training.steps import choice, graph

pytestmark = pytest.mark.filterwarnings("error")

SMALL = {
    "epochs": 1, "switch_epoch": 0, "batch_size": 8, "pretrain_epochs": 1, "validation_samples": 2, "test_samples": 2,
    "fusion_dim": 8, "fusion_heads": 2, "scale_batches": 1, "ood": "none", "compile": "off",
}  # fmt: skip
#: Of settings without a list of choices; every other one that has such a list, or is a switch, is taken with all of it.
NUMBERS = {
    "peers": (1, 2, 3), "samples_at_once": (1, 2, 3), "train_samples": (1, 2), "clip_norm": (0.0, 5.0), "alpha": (0.0, 1.0),
    "beta": (0.0, 2.0), "fusion_blocks": ("all", "2"), "stage_two_warmup_epochs": (0, 1),
}  # fmt: skip
#: Of the data, which are made here and not read; compiled steps have tests of their own.
ELSEWHERE = {"data", "ood", "test_split", "compile"}
#: Networks that are others with more of the same blocks.
LONGER = ("resnet32", "resnet56", "resnet20_frn")
CHOICES = {
    name: (False, True) if item.type is bool else tuple(item.metadata["choices"])
    for name, item in fields(TrialConfig).items()
    if (item.type is bool or item.metadata["choices"] is not None) and name not in ELSEWHERE
} | NUMBERS
CHOICES["arch"] = tuple(name for name in CHOICES["arch"] if name not in LONGER)
#: Settings that meet in one operation: these are tried in all pairs, the others each value once. Of networks, one of a kind.
MEET = {name: CHOICES[name] for name in ("samples_at_once", "channels_last", "precision", "fusion")} | {
    "arch": ("resnet8", "vit"), "peers": (1, 2)
}  # fmt: skip


def images(count):
    draw = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, 3, 8, 8), generator=draw, dtype=torch.uint8)
    return Split(pixels, torch.arange(count) % 5)


#: Colours: an image of one channel is channels-last as it lies.
DATA = ImageData("made up", 5, images(8), images(6), images(7), (0.5,) * 3, (0.2,) * 3, padding=1, flip=True)


#: Networks of which a single one is enough: its kind is there already, with three blocks.
DEEP = ("resnet18",)
#: Peers at most, of all values of all settings: each takes its time.
MOST_PEERS = dict.fromkeys(DEEP, 1) | {"resnet20": 2, "vit": 2}


def configuration(chosen):
    width = 1.0 if chosen["arch"] == "resnet18" else 0.25 if chosen["arch"] == "vit" else 0.1
    return TrialConfig().replace(**SMALL | chosen | {"width": width})


def singles(chosen):
    return set(chosen.items())


def pairs(chosen):
    kept = [(name, chosen[name]) for name in MEET if chosen[name] in MEET[name]]
    return set(itertools.combinations(kept, 2))


def cover(held, choices, wanted):
    """Configurations that can be and that hold all that is wanted; held: what one of them holds."""
    draw, found, missing = random.Random(0), [], set(wanted)
    while missing:
        first = min(missing, key=repr)
        fixed = dict([first]) if held is singles else dict(first)
        tries = []
        while len(tries) < 20:
            chosen = {name: draw.choice(values) for name, values in choices.items()} | fixed
            with contextlib.suppress(ConfigError):
                configuration(chosen)
                if held is pairs or chosen["peers"] <= MOST_PEERS.get(chosen["arch"], chosen["peers"]):
                    tries.append(chosen)
        found.append(max(tries, key=lambda chosen: len(held(chosen) & missing)))
        missing -= held(found[-1])
    return found


def once_each():
    return cover(singles, CHOICES, {(name, value) for name, values in CHOICES.items() for value in values})


def all_pairs():
    wanted = {
        ((first, value), (second, other))
        for first, second in itertools.combinations(MEET, 2)
        for value, other in itertools.product(MEET[first], MEET[second])
    }
    return cover(pairs, CHOICES | MEET, wanted)


class OneBlock(nn.Module):
    """The smallest network with batch norm: how a step is computed asks no more of one."""

    def __init__(self, classes, channels, width, image_size):
        super().__init__()
        self.feature_channels = (4,)
        self.conv, self.bn, self.linear = nn.Conv2d(channels, 4, 3), BatchNorm(4), nn.Linear(4, classes)

    def forward(self, x):
        features = self.bn(self.conv(x)).relu()
        return self.linear(features.mean((2, 3))), (features,)


#: One that trains both terms.
USUAL = {"arch": "resnet8", "samples_at_once": 2, "channels_last": True, "optimizer": "adamw"}


def train(config, folder):
    """A trial from pretraining to its final scores, on the GPU that is not there."""
    with pytest.MonkeyPatch.context() as patch, fake_gpu() as device:
        patch.setattr(worker_cache, "dataset", lambda config: DATA)
        return fit(config, folder / "trial", store=Store(folder / "store"), workspace=worker_cache.Workspace(device))


def assert_trained(record, config):
    assert (record.status, record.epochs) == ("finished", config.epochs)
    assert set(record.test) == {*(f"peer_{number}" for number in range(1, config.peers + 1)), "pair"}
    assert record.environment["device"] == "a GPU that is not there"


@pytest.mark.parametrize(
    "chosen",
    [pytest.param(chosen, marks=pytest.mark.slow if chosen["arch"] in DEEP else ()) for chosen in once_each()],
    ids=lambda chosen: chosen["arch"],
)
def test_every_value_of_every_setting(chosen, tmp_path):
    config = configuration(chosen)
    assert_trained(train(config, tmp_path), config)


@pytest.mark.parametrize(
    ("how", "steps"),
    [("graph", "graph"), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("on", "compiled graph"), ("auto", None)))],
    ids=["graph", "compiled", "auto"],
)
def test_steps_that_are_captured_or_compiled(how, steps, tmp_path, monkeypatch):
    """With a stand-in for the graph, and a compiler that leaves all as it is; what is compared with what is read fits."""
    monkeypatch.setattr(choice, "CudaGraph", Replayed)
    monkeypatch.setattr(graph, "TOLERANCE", 1.0)
    monkeypatch.setattr(choice, "TIMED_STEPS", 1)
    monkeypatch.setattr(choice, "COMPILING_PAYS_SECONDS", 0.0)
    monkeypatch.setattr(MutualPair, "compile", lambda pair: None)
    monkeypatch.setitem(MODELS, "one block", OneBlock)
    size = {"epochs": 2, "switch_epoch": 1} if how == "on" else {"initialization": "scratch"}
    config = configuration(USUAL | size | {"compile": how, "arch": "one block"})
    record = train(config, tmp_path)
    assert_trained(record, config)
    assert record.environment["steps"] == (steps or record.environment["steps"])
    assert record.environment["cudnn"] == 92000 and record.environment["tf32"] == {"convolutions": True, "products": False}
    if how == "auto":
        (said,) = record.notes
        assert re.fullmatch(r"compile = auto is '(off|graph|on)' here, by the time of a step: off .* ms, graph .*, on .*", said)
    else:
        assert record.notes == []


def test_a_graph_that_fails_is_noted_and_the_trial_goes_on(tmp_path, monkeypatch):
    """As torch's does here, where there is no CUDA."""
    config = configuration(USUAL | {"compile": "graph"})
    record = train(config, tmp_path)
    assert_trained(record, config)
    assert record.environment["steps"] == "eager"
    pretraining, steps = sorted(record.notes, key=len, reverse=True)
    assert steps.startswith("steps are no CUDA graphs: ") and pretraining == f"{steps}, in pretraining"


def test_both_stages_and_images_that_are_corrupted_or_of_another_kind(tmp_path, monkeypatch):
    config = configuration(USUAL | {"epochs": 2, "switch_epoch": 1, "ood": "photographs", "alpha": 1.0})
    monkeypatch.setattr(f"{__name__}.DATA", dataclasses.replace(DATA, test=images(15)))
    monkeypatch.setattr(final_scores, "shifted_images", lambda config, data: 1)
    record = train(config, tmp_path)
    assert_trained(record, config)
    assert record.shift["pair"]["images"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("chosen", all_pairs(), ids=lambda chosen: "-".join(str(chosen[name]) for name in MEET))
def test_every_pair_of_settings_that_meet(chosen, tmp_path):
    config = configuration(chosen)
    assert_trained(train(config, tmp_path), config)


@pytest.mark.parametrize("arch", ["resnet8", "resnet18", "vit"])
@pytest.mark.parametrize("precision", CHOICES["precision"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_samples_computed_one_by_one_and_together(arch, precision, channels_last):
    """Mapped over samples, batch norm asks a GPU's tensors for their layout, and not a processor's."""
    chosen = {"arch": arch, "precision": precision, "channels_last": channels_last}
    config = configuration(USUAL | chosen | {"peers": 1})
    with fake_gpu() as device:
        data = DATA.to(device)
        pair = make_pair(config, data.shapes, device)
        for at_once in (1, 2, 5):
            trial = config.replace(samples_at_once=at_once)
            found, labels = predictives(trial, pair, data, "test", samples=3, epoch=0, device=device)
            assert {*map(type, scores(found["pair"], labels).values())} == {float}
            assert found["pair"].probabilities.device == labels.device == device
            assert found["pair"].probabilities.shape == (7, 5)


@pytest.mark.slow
def test_the_benchmark_of_the_papers_size(tmp_path):
    """Its own settings, at another number of images and epochs."""
    flags = paper_size.parse(
        ["--data", "cifar10", "--arch", "resnet8", "--epochs", "2", "--width", "0.1", "--test-samples", "2"]
    )
    settings = dataclasses.asdict(paper_size.configure(flags)) | {"batch_size": 8, "pretrain_epochs": 1, "ood": "none"}
    config = TrialConfig().replace(**settings)
    assert config.channels_last and config.precision == "bf16"
    assert_trained(train(config, tmp_path), config)


def test_times_and_memory_of_a_step(monkeypatch):
    """What scaling.jsonl holds."""
    monkeypatch.setattr(step_cost, "dataset", lambda config: DATA)
    monkeypatch.setattr(step_cost, "ROUNDS", 1)
    with fake_gpu() as device:
        line = step_cost.measure_step(configuration(USUAL), device)
    assert line["device"] == "a GPU that is not there" and set(line["bytes"]) == {"state", "stage_1", "stage_2"}


def test_what_mixes_devices_is_seen():
    with fake_gpu() as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        assert (there + 1.0).device == device
        with pytest.raises(RuntimeError, match="device"):
            there + here
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, device=device, generator=torch.Generator("cpu"))


def test_the_gradient_goes_where_torchs_own_goes():
    """The stand-in for the engine, on a processor."""
    config = configuration(USUAL | {"fusion": "per_peer"})
    pair = make_pair(config, DATA.shapes)
    given = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    noise = [torch.zeros_like(peer.mean) for peer in pair.peers]
    pair.set_scales(torch.tensor(0.1))
    trained = {name: value for name, value in pair.named_parameters() if value.requires_grad}
    expected = torch.autograd.grad(pair(*given, noise, True)[0], list(trained.values()), allow_unused=True)
    backward(pair(*given, noise, True)[0])
    for (name, value), grad in zip(trained.items(), expected, strict=True):
        torch.testing.assert_close(value.grad, grad, msg=name)
