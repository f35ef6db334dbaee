"""A plug-in's network that cannot be trained is refused in a line, before any work; one that can is taken."""

import pytest
from helpers.plugins import forget_all

from mldiv.cli.main import main
from mldiv.method.networks import MODELS
from mldiv.study import Study

STUDY = Study(
    name="own", question="Own networks?", scientific="terms", searched=(), baseline="none",
    arms={"none": {"alpha": 0.0, "beta": 0.0}, "both": {}},
)  # fmt: skip

#: A network that keeps its contract; tests change a line of it.
NETWORK = """
import torch
from torch import nn
from mldiv.method.networks import MODELS


class Own(nn.Module):
    def __init__(self, classes, channels, width, image_size):
        super().__init__()
        self.feature_channels = (4,)
        self.convolution = nn.Conv2d(channels, 4, 3)
        self.classifier = nn.Linear(4, classes)

    def forward(self, images):
        features = self.convolution(images).relu()
        logits = self.classifier(features.mean((2, 3)))
        return logits, (features,)


MODELS["own"] = Own
"""
LAST, START = "return logits, (features,)", "self.feature_channels = (4,)"


@pytest.fixture
def run(tmp_path):
    """A function that plans the study with this network; nothing is known of it afterwards."""

    def run(text):
        (tmp_path / "own.py").write_text(text)
        given = ["--plugin", str(tmp_path / "own.py"), "--arch", "own", "--out", str(tmp_path / "out")]
        return main(STUDY, lambda *_: [], argv=[*given, "--preset", "demo", "--in-process", "--dry-run"])

    yield run
    forget_all()


@pytest.mark.parametrize(
    ("line", "other", "said"),
    [
        (LAST, "return logits", "forward must return (logits, (features of a block, ...))"),
        (LAST, "return logits, features", "forward must return (logits, (features of a block, ...))"),
        (LAST, "return logits[:, :3], (features,)", "logits of 3 images and 10 classes have the shape (3, 3)"),
        (LAST, "return logits, (features.flatten(1),)", "feature_channels is (4,), its features have [144] channels"),
        (LAST, "return logits / 0 * 0, (features,)", "its logits are not finite"),
        (LAST, "return logits, (features.detach(),)", "no gradient of its features reaches a weight"),
        (LAST, "return images.flatten(1)[:, :10], (features,)", "no gradient of its logits reaches a weight"),
        (LAST, "assert self.training, 'not now'\n        return logits, (features,)", "AssertionError: not now (line 17)"),
        (START, "", "Own names no feature_channels"),
        (START, "self.feature_channels = 4", "feature_channels is 4, where the channels of each"),
        ("nn.Conv2d(channels, 4, 3)", "nn.LazyConv2d(4, 3)", "Own has lazy layers"),
        (START, "raise KeyError('depth')", "KeyError: 'depth' (line 10)"),
        ('MODELS["own"] = Own', 'MODELS["own"] = torch.sin', "TypeError: sin()"),
        ("nn.Conv2d(channels, 4, 3)", "nn.ConvTranspose2d(channels, 4, 3)", ""),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_in_a_line(run, capsys, line, other, said):
    code = run(NETWORK.replace(line, other))
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert not said or (code == 2 and shown.startswith("own: network 'own': ") and said in shown), shown


def test_a_network_without_weights_to_be_bayesian_is_refused(run, capsys):
    scaled = NETWORK.replace("nn.Conv2d(channels, 4, 3)", "nn.BatchNorm2d(channels)").replace("(4,)", "(channels,)")
    scaled = scaled.replace("nn.Linear(4, classes)", "nn.Identity()").replace(
        "features.mean((2, 3))", "features.flatten(1)[:, :10]"
    )
    assert run(scaled) == 2
    assert "network 'own': ValueError: Own has no convolution or linear layer" in capsys.readouterr().err


def test_a_network_that_asks_for_values_while_it_is_made_is_taken(run, capsys):
    assert (
        run(NETWORK.replace(START, START + "\n        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]")) == 0
    )
    assert "own" in MODELS, capsys.readouterr().err
