"""Plug-ins that act after the switch alone leave stored first stages of use; all others keep their own."""

from pathlib import Path

import pytest
import torch
from helpers.plugins import forget_all

from mldiv.method.kernels import KERNELS
from mldiv.plugins.loading import find, hashes, load
from mldiv.plugins.reach import before_switch, enters_alone
from mldiv.storage.cache import Store
from mldiv.training.first_stage import environment_id
from mldiv.training.fit import fit

EXAMPLES = Path(__file__).parent.parent / "examples"
KERNEL = "from mldiv.method.kernels import KERNELS, cosine\n\ndef own(a, b):\n    return cosine(a, b)\n\nKERNELS['own'] = own\n"


@pytest.fixture(autouse=True)
def forgotten():
    """No test sees another's plug-ins."""
    yield
    forget_all()


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
        "import mldiv.method.kernels as kernels\nkernels.KERNELS['own'] = kernels.cosine\n",
        "from mldiv.method.kernels import KERNELS\nKERNELS.update({})\n",
        "x = 1\ndel x\n",
    ],
)
def test_a_file_that_does_more_might_do_anything(text):
    assert not enters_alone(text) and enters_alone(KERNEL)


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
