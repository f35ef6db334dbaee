"""The method alone, on networks that are in no registry: no configuration, no data set, no Ray."""

import inspect
import re
from pathlib import Path
from textwrap import dedent

import torch
from torch import nn

from mldiv.method.fusion import shared
from mldiv.method.pair import MutualPair, Objective

README = Path(__file__).parents[2] / "README.md"


def test_two_small_networks_learn():
    """Images of two classes at random; who knows nothing has an NLL of log 2 = 0.69."""
    torch.manual_seed(0)

    class Network(nn.Sequential):
        def forward(self, images):
            features = self[0](images).relu()
            return self[1](features.mean((2, 3))), (features,)

    networks = [Network(nn.Conv2d(1, 16, 3), nn.Linear(16, 2)) for _ in range(2)]
    images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 2
    pair = MutualPair(networks, Objective(train_images=len(images)), fusion=shared((16,)))
    optimizer = torch.optim.Adam(pair.parameters(), lr=0.01)
    for step in range(200):
        if step == 100:
            pair.set_scales(pair.feature_kl(images))
        loss, terms = pair(images, labels, diverse=step >= 100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert terms[-1] == loss and terms[:2].max() < 0.6


def test_readmes_example_are_these_lines():
    example = next(
        text for text in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL) if "MutualPair" in text
    )
    imports, lines = example.split("\n\n", 1)
    exec(imports, {})
    source = inspect.getsource(test_two_small_networks_learn)
    body = dedent(source.split("torch.manual_seed(0)\n")[1]).split("\nassert ")[0]
    assert [line for line in lines.splitlines() if line] == [line for line in body.splitlines() if line]
