"""Plug-ins that act after the switch alone leave stored first stages of use; all others keep their own."""

from pathlib import Path

import pytest
import torch
from helpers.plugins import forget_all

from mldiv.method.kernels import KERNELS
from mldiv.method.networks import MODELS
from mldiv.plugins.loading import find, hashes, load
from mldiv.plugins.reach import before_switch, enters_alone
from mldiv.storage.cache import Store
from mldiv.training.first_stage import environment_id
from mldiv.training.fit import fit

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
KERNEL = "from mldiv.method.kernels import KERNELS, cosine\n\ndef own(a, b):\n    return cosine(a, b)\n\nKERNELS['own'] = own\n"


@pytest.fixture
def own(tmp_path):
    """A function that loads a plug-in of a text."""

    def own(text):
        path = tmp_path / "own.py"
        path.write_text(text)
        load([find(str(path))])

    return own


def test_a_kernel_in_a_file_shares_the_first_stages_that_are_stored(tiny, tmp_path, own):
    """Trained on with it is trained with it from the start, to the last bit."""
    config = tiny.replace(alpha=0.0, beta=0.2)
    fit(config, tmp_path / "stock", store=Store(tmp_path / "store"))
    own(KERNEL)
    config = config.replace(kernel="own")
    shared, alone = (fit(config, tmp_path / name, store=Store(tmp_path / name)) for name in ("store", "other store"))
    assert KERNELS.keys() >= {"own"} and shared.environment["plugins"] == hashes()
    assert shared.cost["epochs_shared"] == tiny.switch_epoch and alone.cost["epochs_shared"] == 0
    assert shared.test == alone.test and shared.validation == alone.validation


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.set_default_dtype(torch.float32)\n",
        "import torch.nn as nn\nnn.own = 1\n",
        "import some_package\n",
        "from . import beside\n",
        "for name in 'ab':\n    pass\n",
        "from mldiv.method.kernels import KERNELS\nKERNELS.update({})\n",
        "x = 1\ndel x\n",
        "import torch\nseed = torch.manual_seed(0)\n",
        "import torch\n\ndef own(a, b, seed=torch.manual_seed(0)):\n    return a\n",
        "import torch\n\nclass Own:\n    seed = torch.manual_seed(0)\n",
        "import torch\nseeds = [seed for torch.nn.own in (1,) for seed in ()]\n",
        "import torch\nseed = (lambda: torch.manual_seed(0))()\n",
        "import torch\n\ndef prepare():\n    torch.set_num_threads(2)\n\ndone = prepare()\n",
        "def register(function):\n    return function\n\n@register\ndef own(a, b):\n    return a\n",
        "from functools import partial\n\n@partial(print, 'own')\ndef own(a, b):\n    return a\n",
        "class Own:\n    pass\n\nclass Other(Own):\n    pass\n",
        "class Own(metaclass=print):\n    pass\n",
        "from os import environ\nenviron['OWN'] = 'yes'\n",
        "from mldiv.presets import RECIPES\nRECIPES['resnet8'] = {}\n",
        "from mldiv.method import kernels\nown = kernels.KERNELS\nown['own'] = kernels.cosine\n",
    ],
)
def test_a_file_that_does_more_might_do_anything(text):
    assert not enters_alone(text) and enters_alone(KERNEL)


@pytest.mark.parametrize(
    "line",
    [
        "import some_package",
        "from . import beside",
        "torch.backends.mkldnn.enabled = False",
        "torch.set_default_dtype(torch.float64)",
        "environ['OWN'] = 'yes'",
        "del environ['OWN']",
        "setattr(torch, 'own', 1)",
    ],
)
def test_a_function_may_not_change_what_the_next_trial_uses(line):
    """It runs after its own trial's switch, and before that of the one which the same process trains next."""
    text = "import torch\nfrom os import environ\n\ndef own(a, b):\n    {}\n    return a\n"
    assert not enters_alone(text.format(line)) and enters_alone(text.format("a[0] = own.calls = 1"))


def test_what_plug_ins_are_made_of_is_no_more():
    """Parameters with ranges, classes of data, kept results, functions with arguments filled in, arms made of lists."""
    text = """from __future__ import annotations
import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated
import torch
import mldiv.method.kernels as kernels
from mldiv.method.kernels import KERNELS, Range, cosine

@dataclass(frozen=True)
class Own(torch.nn.Module):
    scale: float = math.log(2)

@lru_cache(maxsize=None)
def weights(size):
    return torch.ones(size)

def own(a, b, *, tail: Annotated[float, Range(0.1, 10, "tail")] = 1.0):
    return cosine(a, b) * weights(len(a))

KERNELS["own"] = kernels.KERNELS["own too"] = partial(own, tail=2.0)
ARMS = {f"own {name}": {"kernel": name} for name in ["own", *"a b".split()]}
"""
    assert enters_alone(text)


def test_a_network_that_no_plug_in_entered_is_another_one_in_every_process(tiny_data, monkeypatch):
    """As in a notebook, where it is edited and entered again by the same name; a kernel there acts after the switch."""
    cpu = torch.device("cpu")
    stock = environment_id(tiny_data, cpu)
    monkeypatch.setitem(KERNELS, "own", KERNELS["rbf"])
    assert environment_id(tiny_data, cpu) == stock
    for name in ("own", "resnet8"):
        with monkeypatch.context() as patched:
            patched.setitem(MODELS, name, MODELS["vit"])
            here = environment_id(tiny_data, cpu)
            assert stock != here == environment_id(tiny_data, cpu)
            patched.setattr("mldiv.plugins.reach.PROCESS", "another")
            assert environment_id(tiny_data, cpu) not in (stock, here)
    assert environment_id(tiny_data, cpu) == stock


def test_what_acts_before_the_switch_keeps_first_stages_of_its_own(tiny_data, own):
    """Networks, data sets and metrics, of which the examples' file has each, and modules."""
    cpu = torch.device("cpu")
    stock = environment_id(tiny_data, cpu)
    load([find(str(EXAMPLES / "placebo" / "placebo.py")), find(str(EXAMPLES / "plugin" / "column.py"))])
    assert hashes().keys() == {"placebo", "column"} and before_switch() == {} and environment_id(tiny_data, cpu) == stock
    load([find(str(EXAMPLES / "plugin" / "cauchy.py"))])
    assert before_switch() == {"cauchy": hashes()["cauchy"]} and environment_id(tiny_data, cpu) != stock
    forget_all()
    own("import mldiv.method.networks\n\nfrom mldiv.method.networks import MODELS\n\nMODELS['own'] = MODELS['resnet8']\n")
    assert before_switch() == hashes() and hashes()
