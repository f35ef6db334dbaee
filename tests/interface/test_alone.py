"""The library alone: imported in a moment, and without Ray and Optuna a pair is trained, loaded and asked."""

import subprocess
import sys
from pathlib import Path

import pytest

import mldiv

ROOT = Path(__file__).parents[2]

IMPORT = """
import sys
before = set(sys.modules)
import mldiv
assert {"load", "train", "results", "Study"} <= set(dir(mldiv)) and mldiv.__version__
others = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names - {"mldiv"}
assert not others and "mldiv.config" not in sys.modules, others
"""

SCRIPT = """
import sys
import mldiv

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "optuna"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
pair = mldiv.load(sys.argv[1], arm="both", seed=1)
assert pair.predict(np.zeros((3, 8, 8), "u1")).mean.shape == (3, 10)
images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
own = mldiv.train({"arch": "resnet8", "width": 0.25, "epochs": 2, "switch_epoch": 1, "pretrain_epochs": 1, "batch_size": 16,
                   "fusion_dim": 16, "test_samples": 2, "ood": "none"}, (images, np.arange(60) % 2))
assert own.record.status == "finished" and own.predict(images).mean.shape == (60, 2)
assert not {"ray", "optuna"} & set(sys.modules)
"""


def run(script, folder, *words):
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_it_is_imported_in_a_moment(tmp_path):
    """Nothing but the standard library comes with it."""
    run(IMPORT, tmp_path)


@pytest.mark.slow
def test_without_ray_and_optuna(trained, tmp_path):
    run(SCRIPT, tmp_path, str(trained))


@pytest.mark.parametrize(
    ("missing", "said"), [("rich", r"mldiv.Study: rich is not .*'mldiv\[studies\]'"), ("mine", "No module")]
)
def test_what_needs_an_extra_says_which(monkeypatch, missing, said):
    def lacking(module):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.delitem(mldiv.__dict__, "Study", raising=False)
    monkeypatch.setattr(mldiv, "import_module", lacking)
    with pytest.raises(ImportError, match=said):
        mldiv.Study  # noqa: B018


def test_every_name_of_the_interface_is_there():
    assert {name for name in dir(mldiv) if name in mldiv.__all__} == set(mldiv.__all__)
    assert all(getattr(mldiv, name) is not None for name in mldiv.__all__)
    assert set(mldiv.__all__) == {*mldiv._HOMES, "__version__"}
    assert not hasattr(mldiv, "nothing")
