"""Which settings and data stage one and pretraining depend on, and the names that say so."""

import dataclasses
import functools
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.first_stages import CPU, differing, stage_one
from PIL import Image

from mldiv.config import TrialConfig
from mldiv.datasets.splits import load
from mldiv.settings.setting import FIRST_STAGE, PRETRAINING, TRIAL, sparing
from mldiv.storage.cache import Store
from mldiv.training.first_stage import SharedFirstStage, environment_id, first_stage_id, pattern
from mldiv.training.fit import environment
from mldiv.training.pretraining import pretrained, pretraining_id
from mldiv.training.worker_cache import dataset

PATHS = sparing(TrialConfig, TRIAL)
BRANCH = sparing(TrialConfig, FIRST_STAGE) - PATHS - {"kernel_own"}  # it has values where a plug-in brings a parameter

#: Another valid value of every setting.
CHANGED = {
    "data": "fashion_mnist",
    "data_root": "elsewhere",
    "image_size": 8,
    "train_size": 128,
    "validation_size": 50,
    "test_size": 50,
    "test_split": "development",
    "validation_fraction": 0.2,
    "split_seed": 1,
    "arch": "resnet20",
    "width": 0.5,
    "peers": 3,
    "initial_sigma": 0.2,
    "sigma_mode": "absolute",
    "prior_std": 2.0,
    "initialization": "scratch",
    "pretrain_epochs": 2,
    "kl_weight": 0.2,
    "temperature": 2.0,
    "mutual_weight": 0.5,
    "alpha": 0.0,
    "beta": 0.0,
    "param_distance": "symmetric_kl",
    "param_transform": "exp",
    "param_normalization": "mean",
    "kernel": "rbf",
    "kernel_width": 2.0,
    "kernel_degree": 4,
    "include_diagonal": True,
    "feature_direction": "forward",
    "feature_reduction": "sum",
    "feature_transform": "exp",
    "feature_normalization": "sum",
    "scale_batches": 1,
    "center_features": False,
    "fusion": "per_peer",
    "fusion_dim": 32,
    "fusion_heads": 2,
    "epochs": 5,
    "switch_epoch": 3,
    "batch_size": 16,
    "lr": 0.02,
    "optimizer": "adamw",
    "momentum": 0.5,
    "schedule": "step",
    "weight_decay": 0.0,
    "rho_lr_scale": 0.5,
    "fusion_lr_scale": 0.5,
    "clip_norm": 1.0,
    "precision": "bf16",
    "channels_last": True,
    "compile": True,
    "validation_samples": 3,
    "test_samples": 4,
    "samples_at_once": 2,
    "ood": "none",
    "shift_share": 0.1,
    "shift_images": "files",
    "seed": 1,
    "stage_schedule": "restart",
    "stage_two_lr_scale": 0.5,
    "stage_two_kl_scale": 0.5,
    "stage_two_warmup_epochs": 1.0,
    "warmup_epochs": 1.0,
    "pretrained_warmup_epochs": 1.0,
    "weighting": "raw",
    "fusion_training": "diversity",
    "fusion_epochs": 2,
    "fusion_blocks": "1,3",
    "fusion_grid": 2,
    "gradient_points": 1.0,
    "keep_predictions": "none",
    "param_weights": "layer",
    "param_alignment": "weights",
    "posterior": "deterministic",
    "teacher": "pretrained",
    "prior_mode": "absolute",
    "prior_mean": "start",
    "mean_weight_decay": 0.01,
    "train_samples": 2,
    "batchnorm_batches": 2,
    "train_labels": "elsewhere",
    "train_labels_hash": "fedcba9876543210",
    "pretrained": "elsewhere",
    "pretrained_hash": "fedcba9876543210",
}
#: Settings that say where a file or folder is.
PLACES = {"data_root", "train_labels", "pretrained"}
LABELS, WEIGHTS = ({name: "here", f"{name}_hash": "0123456789abcdef"} for name in ("train_labels", "pretrained"))

#: What else a setting needs in order to have an effect, or to be taken.
WITH = {
    "kernel_width": {"kernel": "rbf"},
    "kernel_degree": {"kernel": "polynomial"},
    "fusion_epochs": {"fusion_training": "switch"},
    "teacher": {"peers": 1},
    "stage_two_lr_scale": {"stage_schedule": "restart"},
    "stage_two_kl_scale": {"stage_schedule": "restart"},
    "stage_two_warmup_epochs": {"stage_schedule": "restart"},
    **dict.fromkeys(LABELS, LABELS),
    **dict.fromkeys(WEIGHTS, WEIGHTS),
}


def test_every_setting_has_another_value():
    assert set(CHANGED) == {item.name for item in dataclasses.fields(TrialConfig)} - {"kernel_own"}


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_is_part_of_stage_one_or_of_the_branch(tiny, name):
    tiny = tiny.replace(**WITH.get(name, {}))
    other = tiny.replace(**{name: CHANGED[name]})
    assert getattr(other, name) != getattr(tiny, name)
    assert (first_stage_id(other) == first_stage_id(tiny)) == (name in BRANCH | PATHS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Stage one of the unchanged trial, once."""
    return functools.cache(lambda config: stage_one(config, tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("name", sorted(BRANCH | PATHS - PLACES))
def test_a_branch_setting_does_not_touch_stage_one(tiny, tmp_path, plain, name):
    other = tiny.replace(**{name: CHANGED[name]}, **WITH.get(name, {}))
    same = tiny.replace(stage_schedule=other.stage_schedule)
    assert differing(without_gradients(stage_one(other, tmp_path)), without_gradients(plain(same))) == []


def without_gradients(stage):
    """How often they were measured is no number of the trial's."""
    return stage | {"lines": [line | {"gradients": None} for line in stage["lines"]]}


@pytest.mark.parametrize("changes", [{"alpha": 0.0, "beta": 0.0}, {"switch_epoch": 4}])
def test_a_trial_without_stage_two_has_the_same_stage_one(tiny, tmp_path, plain, changes):
    assert differing(stage_one(tiny.replace(**changes), tmp_path), plain(tiny)) == []


@pytest.mark.parametrize("name", ["temperature", "momentum", "initialization", "validation_samples", "seed"])
def test_a_first_stage_setting_is_seen_in_stage_one(tiny, tmp_path, plain, name):
    """So the comparison can tell."""
    assert differing(stage_one(tiny.replace(**{name: CHANGED[name]}), tmp_path), plain(tiny)) != []


DATA = {"data", "data_root", "image_size", "train_size", "validation_size", "test_size", "test_split"} | {
    "validation_fraction",
    "split_seed",
    "train_labels",
    "train_labels_hash",
}


def network(config, folder):
    return dict(pretrained(config, dataset(config), Store(folder), CPU)[0])


@pytest.fixture(scope="module")
def plain_network(tmp_path_factory):
    """The unchanged trial's pretrained network, once."""
    return functools.cache(lambda config: network(config, tmp_path_factory.mktemp("plain network")))


@pytest.mark.parametrize("name", sorted(set(CHANGED) - DATA))
def test_what_is_no_pretraining_setting_does_not_touch_pretraining(tiny, tmp_path, plain_network, name):
    """The data are part of the environment's identity. For settings that are: another identity."""
    tiny = tiny.replace(**WITH.get(name, {}))
    other = tiny.replace(**{name: CHANGED[name]})
    assert (pretraining_id(other, "pretrain") == pretraining_id(tiny, "pretrain")) == (
        name in sparing(TrialConfig, PRETRAINING)
    )
    if name in sparing(TrialConfig, PRETRAINING):
        assert differing(network(other, tmp_path), plain_network(tiny)) == []


def test_equal_configurations_have_one_identity(tiny):
    whole, real = tiny.replace(width=1, lr=1), tiny.replace(width=1.0, lr=1.0)
    assert whole == real
    found = []
    for config in (whole, real):
        first_stage_id.cache_clear()
        found.append((config.id, first_stage_id(config)))
    assert found[0] == found[1]


def test_the_environment_depends_on_threads_data_library_and_ranks(tiny, monkeypatch):
    def identity(**changes):
        return environment_id(dataset(tiny.replace(**changes)), CPU)

    before = identity()
    assert identity() == before and identity(test_size=50, seed=1, lr=1.0, data_root="elsewhere") == before
    others = [identity(train_size=128), identity(split_seed=1), identity(validation_size=50)]
    torch.set_num_threads(2)
    others.append(identity())
    torch.set_num_threads(1)
    for target, value in (("torch.__version__", "0.0"), ("mldiv.training.first_stage.NUMBERS", -1),
                          ("mldiv.distributed.size", lambda: 2),
                          ("torch.backends.cpu.get_cpu_capability", lambda: "none"),
                          ("torch.cpu.get_capabilities", lambda: {"amx_bf16": True, "sockets": 1}),
                          ("torch.cpu.get_capabilities", lambda: {"amx_bf16": True, "l2_cache_size": 2**20})):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(target, value)
            others.append(identity())
    for name, value in (("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"), ("ONEDNN_MAX_CPU_ISA", "AVX2"), ("MKL_CBWR", "COMPATIBLE"),
                        ("ATEN_CPU_CAPABILITY", "default")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            others.append(identity())
            assert environment(CPU)["variables"] == {name: value}
    assert len({before, *others}) == 15 and identity() == before and "variables" not in environment(CPU)


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def folder_data(root):
    return load("image_folder", root, seed=0, validation_fraction=0.25, image_size=8)


def write_folder(root):
    for number in range(16):
        picture(root / "train" / "ab"[number % 2] / f"{number}.png", number)
    for number in range(4):
        picture(root / "val" / "ab"[number % 2] / f"{number}.png", 100 + number)
    return root


def repaint(root):
    picture(root / "train" / "b" / "7.png", 99)


def relabel(root):
    (root / "train" / "b" / "7.png").rename(root / "train" / "a" / "7.png")


def remove(root):
    (root / "train" / "b" / "7.png").unlink()


def repaint_test(root):
    picture(root / "val" / "b" / "1.png", 99)


#: What is done to a copy of a folder of images, and whether it still holds the same data for training.
CHANGES = {"nothing": (lambda root: None, True), "test pixels": (repaint_test, True), "pixels": (repaint, False),
           "label": (relabel, False), "number": (remove, False)}  # fmt: skip


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_data_are_known_by_their_content_wherever_they_lie(tmp_path, monkeypatch, in_memory):
    """Of folders that do not fit into memory by the files' names, sizes and labels: a pixel that leaves them is not seen."""
    if not in_memory:
        monkeypatch.setattr("mldiv.datasets.splits.IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(Path, "stat", grown(Path.stat, tmp_path / "pixels" / "b" / "train" / "b" / "7.png"))
    original = folder_data(write_folder(tmp_path / "original"))
    assert isinstance(original.train.images, torch.Tensor) == in_memory
    for name, (change, same) in CHANGES.items():
        root = shutil.copytree(tmp_path / "original", tmp_path / name / "b")
        change(root)
        data = folder_data(root)
        assert (data.fingerprint == original.fingerprint) == same, name
        assert (environment_id(data, CPU) == environment_id(original, CPU)) == same, name


def grown(stat, path):
    """A repainted file that is a byte longer."""

    def grown_stat(self, **options):
        found = stat(self, **options)
        return os.stat_result((*found[:6], found.st_size + (self == path), *found[7:]))

    return grown_stat


def test_names_hold_first_stage_environment_and_epoch(tiny, tiny_data, tmp_path):
    stage = SharedFirstStage(tiny, tiny_data, Store(tmp_path), CPU)
    moved = SharedFirstStage(tiny.replace(data_root="elsewhere", kernel="rbf"), tiny_data, Store(tmp_path), CPU)
    assert stage.name(2) == moved.name(2) == f"trunks/{first_stage_id(tiny)}-{environment_id(tiny_data, CPU)}/00002"
    assert re.fullmatch(pattern(tiny, 2), stage.name(2))
    for other in (pattern(tiny, 3), pattern(tiny.replace(seed=1), 2), pattern(tiny, 20)):
        assert not re.fullmatch(other, stage.name(2))
