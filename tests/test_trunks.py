"""Trunks: which settings stage one depends on, and that a trial from a stored prefix is the trial trained alone."""

import contextlib
import dataclasses
import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mldiv import records, trunks
from mldiv import store as store_module
from mldiv.config import PATHS, TrialConfig
from mldiv.data import load
from mldiv.epochs import dataset
from mldiv.fit import fit
from mldiv.pretrain import SETTINGS, pretraining_id
from mldiv.store import Store
from mldiv.trunks import BRANCH, Trunk, environment_id, pattern, trunk_id

CPU = torch.device("cpu")
COUNTS = ("epochs_trained", "epochs_shared", "pretraining_epochs_trained")

PROCESSES = multiprocessing.get_context("forkserver")  # one process imports torch, all others are its forks
PROCESSES.set_forkserver_preload(["mldiv.fit", "pytest", "hypothesis.strategies"])

#: Another valid value of every setting.
CHANGED = {
    "data": "fashion_mnist",
    "data_root": "elsewhere",
    "image_size": 8,
    "train_size": 128,
    "validation_size": 50,
    "test_size": 50,
    "validation_fraction": 0.2,
    "split_seed": 1,
    "arch": "resnet20",
    "width": 0.5,
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
    "param_transform": "negative_log",
    "param_normalization": "mean",
    "kernel": "rbf",
    "kernel_width": 2.0,
    "kernel_degree": 4,
    "include_diagonal": True,
    "feature_direction": "forward",
    "feature_reduction": "sum",
    "feature_transform": "negative_log",
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
    "seed": 1,
}


@pytest.fixture
def tiny(tiny):
    """Half of it: what is bit for bit the same needs no accuracy."""
    return tiny.replace(train_size=64, validation_size=32, test_size=32, test_samples=2)


class Killed(Exception):
    pass


def kill_after(epoch):
    def report(line):
        if line["epoch"] == epoch:
            raise Killed

    return report


def train(config, folder, **options):
    """A trial in ``folder``, whose trials share the store beside them."""
    return fit(config, folder / config.id, store=Store(folder / "store"), **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a trial trained with a store of its own; each is trained once."""
    root = tmp_path_factory.mktemp("alone")

    def folder(config):
        fit(config, root / config.id, store=Store(root / f"store of {config.id}"))
        return root / config.id

    return folder


@pytest.fixture(scope="module")
def led(tmp_path_factory):
    """Puts a trained trial and its store, a copy, into a folder; each is trained once. Its record there."""

    def put(config, folder, **options):
        key = f"{config.id} {options}"
        if key not in trained:
            trained[key] = tmp_path_factory.mktemp("led")
            train(config, trained[key], **options)
        shutil.copytree(trained[key], folder, dirs_exist_ok=True)
        return records.read_trial(folder / config.id)

    trained = {}
    return put


def differing(one, two, where=""):
    """Names of what is not equal bit for bit, in nested dicts and lists of tensors and plain values."""
    if isinstance(one, torch.Tensor):
        alike = isinstance(two, torch.Tensor) and one.dtype == two.dtype and one.shape == two.shape
        return [] if alike and torch.equal(one, two) else [where]
    if isinstance(one, dict) and isinstance(two, dict):
        keys = sorted(set(one) | set(two), key=str)
        return [item for key in keys for item in differing(one.get(key), two.get(key), f"{where}/{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return [item for index, pair in enumerate(zip(one, two, strict=True)) for item in differing(*pair, f"{where}/{index}")]
    return [] if type(one) is type(two) and one == two else [where]


def without_origin(lines):
    return [{name: value for name, value in line.items() if name not in ("seconds", "shared")} for line in lines]


def results(folder):
    """Everything of a trial that is a number."""
    record = dataclasses.asdict(records.read_trial(folder))
    found = {name: record[name] for name in ("config", "status", "reason", "epochs", "validation", "test", "switch", "data")}
    found["lines"] = without_origin(records.read_lines(folder / "metrics.jsonl"))
    found["checkpoint"] = torch.load(folder / "checkpoint.pt", weights_only=True)
    if (folder / "predictions.parquet").exists():
        frame = pd.read_parquet(folder / "predictions.parquet")
        found["predictions"] = {name: frame[name].tolist() for name in frame}
    return found


def check_as_alone(config, folder, alone):
    expected = results(alone(config))
    assert expected["status"] == "finished" and len(expected["predictions"]["label"]) == 3 * 32
    assert differing(results(folder), expected) == []


def cost(record):
    """Epochs trained, shared, and trained of pretraining."""
    assert record.cost["epochs_trained"] + record.cost["epochs_shared"] == record.epochs
    return tuple(record.cost[name] for name in COUNTS)


def epochs_stored(folder):
    return sorted(int(path.stem) for path in (folder / "store" / "entries" / "trunks").rglob("*.pt"))


# Identities


def test_every_setting_has_another_value():
    assert set(CHANGED) == {item.name for item in dataclasses.fields(TrialConfig)}
    assert set(CHANGED) >= BRANCH and not BRANCH & PATHS


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_is_part_of_the_trunk_or_of_the_branch(tiny, name):
    other = tiny.replace(**{name: CHANGED[name]})
    assert getattr(other, name) != getattr(tiny, name)
    assert (trunk_id(other) == trunk_id(tiny)) == (name in BRANCH | PATHS)


def stage_one(config, folder):
    """The prefix that a trial publishes after two epochs; it is killed then."""
    store = Store(folder / config.id / "store")
    with pytest.raises(Killed):
        fit(config, folder / config.id, store=store, publish=(2,), report=kill_after(1))
    (name,) = (name for name in store.entries() if name.startswith("trunks/") and name.endswith("/00002"))
    state = store.read(name, CPU)
    assert state["epoch"] == 2 and {name.split(".")[0] for name in state["pair"]} == {"peer_1", "peer_2"}
    assert len(state["optimizer"]) > 2
    return {"pair": state["pair"], "momentum": state["optimizer"], "lines": without_origin(state["lines"])}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Stage one of the unchanged trial, once."""
    found = {}

    def state(config):
        if config not in found:
            found[config] = stage_one(config, tmp_path_factory.mktemp("plain"))
        return found[config]

    return state


#: What else a setting needs in order to have an effect.
WITH = {"kernel_width": {"kernel": "rbf"}, "kernel_degree": {"kernel": "polynomial"}}


@pytest.mark.parametrize("name", sorted(BRANCH))
def test_a_branch_setting_does_not_touch_stage_one(tiny, tmp_path, plain, name):
    other = tiny.replace(**{name: CHANGED[name]}, **WITH.get(name, {}))
    assert differing(stage_one(other, tmp_path), plain(tiny)) == []


@pytest.mark.parametrize("changes", [{"alpha": 0.0, "beta": 0.0}, {"switch_epoch": 4}])
def test_a_trial_without_stage_two_has_the_same_stage_one(tiny, tmp_path, plain, changes):
    assert differing(stage_one(tiny.replace(**changes), tmp_path), plain(tiny)) == []


@pytest.mark.parametrize("name", ["temperature", "momentum", "initialization", "validation_samples", "seed"])
def test_a_trunk_setting_is_seen_in_stage_one(tiny, tmp_path, plain, name):
    """So the comparison can tell."""
    assert differing(stage_one(tiny.replace(**{name: CHANGED[name]}), tmp_path), plain(tiny)) != []


DATA = {"data", "data_root", "image_size", "train_size", "validation_size", "test_size", "validation_fraction", "split_seed"}


@pytest.mark.parametrize("name", sorted(set(CHANGED) - DATA))
def test_what_is_no_pretraining_setting_does_not_touch_pretraining(tiny, tmp_path, name):
    """The data are part of the environment's identity. For settings that are: another identity."""
    other = tiny.replace(**{name: CHANGED[name]})
    assert (pretraining_id(other, "pretrain") == pretraining_id(tiny, "pretrain")) == (name not in SETTINGS)
    if name not in SETTINGS:
        from mldiv.pretrain import pretrained

        states = [pretrained(one, dataset(one), Store(tmp_path / str(one is tiny)), CPU)[0] for one in (tiny, other)]
        assert differing(dict(states[0]), dict(states[1])) == []


def test_equal_configurations_have_one_identity(tiny):
    whole, real = tiny.replace(width=1, lr=1), tiny.replace(width=1.0, lr=1.0)
    assert whole == real
    found = []
    for one in (whole, real):
        trunk_id.cache_clear()
        found.append((one.id, trunk_id(one)))
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
    for target, value in (("torch.__version__", "0.0"), ("mldiv.trunks.NUMBERS", -1), ("mldiv.world.size", lambda: 2),
                          ("torch.backends.cpu.get_cpu_capability", lambda: "none")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(target, value)
            others.append(identity())
    assert len({before, *others}) == 9 and identity() == before


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
        monkeypatch.setattr("mldiv.data.IN_MEMORY", 0)
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


def test_names_hold_trunk_environment_and_epoch(tiny, tiny_data, tmp_path):
    import re

    trunk = Trunk(tiny, tiny_data, Store(tmp_path), CPU)
    moved = Trunk(tiny.replace(data_root="elsewhere", kernel="rbf"), tiny_data, Store(tmp_path), CPU)
    assert trunk.name(2) == moved.name(2) == f"trunks/{trunk_id(tiny)}-{environment_id(tiny_data, CPU)}/00002"
    assert re.fullmatch(pattern(tiny, 2), trunk.name(2))
    for other in (pattern(tiny, 3), pattern(tiny.replace(seed=1), 2), pattern(tiny, 20)):
        assert not re.fullmatch(other, trunk.name(2))


@pytest.mark.parametrize(
    ("changes", "publish", "wanted"),
    [
        ({}, (), [2]),
        ({}, (1, 0, 2, 3, 9), [1, 2]),
        ({"switch_epoch": 3}, (2, 1), [1, 2, 3]),
        ({"switch_epoch": 0}, (0, 1), []),
        ({"switch_epoch": 4}, (), []),
        ({"switch_epoch": 4}, (1, 3, 4), [1, 3]),
        ({"alpha": 0.0, "beta": 0.0}, (), []),
        ({"alpha": 0.0, "beta": 0.0}, (3,), [3]),
        ({"beta": 0.0}, (), [2]),
    ],
)
def test_which_prefixes_a_trial_stores(tiny, tmp_path, changes, publish, wanted):
    config = tiny.replace(**changes)
    trunk = Trunk(config, dataset(tiny), Store(tmp_path), CPU, publish)
    assert trunk.wanted == wanted and trunk.last == max([0, *wanted])
    assert trunk.missing(0) == [trunk.name(epoch) for epoch in wanted]
    assert trunk.missing(1) == [trunk.name(epoch) for epoch in wanted if epoch > 1]
    train(config, tmp_path, publish=publish)
    assert epochs_stored(tmp_path) == wanted
    there = Trunk(config, dataset(tiny), Store(tmp_path / "store"), CPU, publish)
    assert not any(there.wants(epoch) for epoch in range(5)) and there.missing(0) == []
    assert [epoch for epoch in range(5) if trunk.wants(epoch)] == wanted


# A branch is the trial trained alone

BRANCHES = [
    {},
    {"kernel": "rbf", "fusion": "per_peer"},
    {"kernel": "polynomial", "fusion": "frozen", "alpha": 3.0},
    {"kernel": "linear", "param_normalization": "mean", "feature_normalization": "sum"},
    {"param_distance": "kl", "param_transform": "negative_log", "feature_transform": "softplus", "scale_batches": 1},
    {"alpha": 0.0, "feature_direction": "reverse"},
    {"beta": 0.0},
    {"fusion_dim": 32, "fusion_heads": 2, "fusion_lr_scale": 0.5, "test_samples": 5},
]
TRUNKS = [
    {"initialization": "scratch"},
    {"initialization": "pretrained"},
    {"momentum": 0.0, "clip_norm": 0.0},
    {"precision": "bf16", "channels_last": True},
    {"schedule": "step", "rho_lr_scale": 0.5},
]


@pytest.mark.parametrize(
    ("trunk", "branch"), [*(({}, one) for one in BRANCHES), *((one, {"kernel": "rbf", "fusion": "per_peer"}) for one in TRUNKS)]
)
def test_a_branch_from_a_stored_trunk_is_the_trial_trained_alone(tiny, tmp_path, alone, led, trunk, branch):
    lead, config = tiny.replace(kernel="laplacian", alpha=0.3, **trunk), tiny.replace(**trunk, **branch)
    networks = {"scratch": 0, "pretrained": 2}.get(config.initialization, 1)
    assert cost(led(lead, tmp_path)) == (4, 0, networks)
    record = train(config, tmp_path)
    assert cost(record) == (2, 2, 0) and not record.notes
    assert [line["shared"] for line in records.read_lines(tmp_path / config.id / "metrics.jsonl")] == [True, True, False, False]
    check_as_alone(config, tmp_path / config.id, alone)
    check_as_alone(lead, tmp_path / lead.id, alone)


@pytest.mark.parametrize("lead", [{}, {"switch_epoch": 3}, {"alpha": 0.0, "beta": 0.0, "kernel": "rbf"}, {"switch_epoch": 4}])
def test_a_baseline_goes_on_from_a_prefix_in_its_middle(tiny, tmp_path, alone, led, lead):
    baseline = tiny.replace(alpha=0.0, beta=0.0)
    led(tiny.replace(**lead), tmp_path, publish=(1, 2))
    begins = epochs_stored(tmp_path)[-1]
    assert begins == (3 if lead == {"switch_epoch": 3} else 2)
    assert cost(train(baseline, tmp_path)) == (4 - begins, begins, 0)
    check_as_alone(baseline, tmp_path / baseline.id, alone)


@pytest.mark.parametrize(
    ("order", "shared"),
    [
        ([2, 3, 1], [0, 2, 0]),
        ([1, 2, 4], [0, 1, 2]),
        ([0, 3, 0, 4], [0, 0, 0, 3]),
    ],
)
def test_a_trial_starts_from_the_longest_prefix_of_its_own_first_stage(tiny, tmp_path, alone, order, shared):
    for switch, epochs in zip(order, shared, strict=True):
        config = tiny.replace(switch_epoch=switch, kernel="rbf")
        assert cost(train(config, tmp_path))[1] == epochs, switch
        check_as_alone(config, tmp_path / config.id, alone)


def test_one_lead_publishes_for_all(tiny, tmp_path, alone, led):
    lead = tiny.replace(switch_epoch=3)
    led(lead, tmp_path, publish=(0, 1, 2, 3))
    check_as_alone(lead, tmp_path / lead.id, alone)
    for switch in (1, 2, 3):
        config = tiny.replace(switch_epoch=switch, fusion="per_peer")
        assert cost(train(config, tmp_path)) == (4 - switch, switch, 0)
        check_as_alone(config, tmp_path / config.id, alone)
    assert epochs_stored(tmp_path) == [1, 2, 3]


def test_a_prefix_made_of_prefixes_is_that_trained_at_once(tiny, tmp_path, plain):
    for switch in (1, 2):
        train(tiny.replace(switch_epoch=switch), tmp_path)
    store = Store(tmp_path / "store")
    (name,) = (name for name in store.entries() if name.endswith("/00002"))
    state = store.read(name, CPU)
    found = {"pair": state["pair"], "momentum": state["optimizer"], "lines": without_origin(state["lines"])}
    assert differing(found, plain(tiny)) == []


def test_other_trunks_and_environments_share_nothing(tiny, tmp_path, monkeypatch):
    train(tiny, tmp_path)
    for changes in ({"temperature": 2.0}, {"epochs": 5}, {"seed": 1}):
        assert cost(train(tiny.replace(**changes), tmp_path))[1] == 0
    monkeypatch.setattr(trunks, "NUMBERS", -1)
    assert cost(train(tiny.replace(kernel="rbf"), tmp_path)) == (4, 0, 1)


# Interrupted


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
@pytest.mark.parametrize("gone", [False, True])
def test_killed_after_starting_from_a_prefix(tiny, tmp_path, alone, led, epoch, gone):
    """At its start, in stage one, in stage two, before the test; with the prefix still there afterwards and without."""
    led(tiny.replace(switch_epoch=1), tmp_path)
    config = tiny.replace(switch_epoch=3, fusion="per_peer")
    with pytest.raises(Killed):
        train(config, tmp_path, report=kill_after(epoch))
    if gone:
        shutil.rmtree(tmp_path / "store" / "entries" / "trunks")
    record = train(config, tmp_path)
    anew = gone and epoch == 0  # no epoch of its own was saved yet
    assert record.attempts == 2 and cost(record)[:2] == ((4, 0) if anew else (3, 1))
    check_as_alone(config, tmp_path / config.id, alone)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_killed_in_stage_one_it_goes_on_from_what_another_stored_meanwhile(tiny, tmp_path, alone, led, cut):
    config = tiny.replace(switch_epoch=3, kernel="rbf")
    with pytest.raises(Killed):
        train(config, tmp_path, report=kill_after(cut))
    with (tmp_path / config.id / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 7, "st')
    led(tiny.replace(switch_epoch=3), tmp_path)
    record = train(config, tmp_path)
    assert cost(record)[:2] == (4 - (2 - cut), 2 - cut)
    shared = [line["shared"] for line in records.read_lines(tmp_path / config.id / "metrics.jsonl")]
    assert shared == [epoch > cut and epoch < 3 for epoch in range(4)]
    check_as_alone(config, tmp_path / config.id, alone)


def test_killed_between_its_lines_and_its_checkpoint_of_a_start(tiny, tmp_path, alone, monkeypatch):
    """The shared lines are written, the record says so, and no checkpoint exists: nothing is counted twice."""
    train(tiny, tmp_path)
    config = tiny.replace(kernel="rbf")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("mldiv.fit.train_epoch", lambda *_: (_ for _ in ()).throw(Killed))
        train(config, tmp_path)
    assert len(list(records.read_lines(tmp_path / config.id / "metrics.jsonl"))) == 2
    assert cost(train(config, tmp_path)) == (2, 2, 0)
    check_as_alone(config, tmp_path / config.id, alone)


def test_killed_between_its_checkpoint_and_its_prefix(tiny, tmp_path, alone, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trunk, "publish", lambda *_: (_ for _ in ()).throw(Killed))
        train(tiny, tmp_path)
    train(tiny, tmp_path)
    check_as_alone(tiny, tmp_path / tiny.id, alone)
    assert epochs_stored(tmp_path) == [2]


def test_a_branch_is_stopped_where_the_trial_alone_is(tiny, tmp_path):
    def stop(line):
        return line["epoch"] == 1

    train(tiny.replace(kernel="rbf"), tmp_path)
    record = train(tiny, tmp_path, report=stop)
    assert train(tiny, tmp_path / "alone", report=stop).status == "stopped"
    assert (record.status, record.epochs) == ("stopped", 2)


# Damaged and full stores


def damage(folder, epoch):
    (path,) = (folder / "store" / "entries" / "trunks").rglob(f"{epoch:05d}.pt")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_a_damaged_prefix_is_trained_anew(tiny, tmp_path, alone, led):
    led(tiny, tmp_path)
    path = damage(tmp_path, 2)
    for kernel, counts in (("rbf", (4, 0, 0)), ("linear", (2, 2, 0))):
        config = tiny.replace(kernel=kernel)
        record = train(config, tmp_path)
        assert cost(record) == counts
        name = path.relative_to(tmp_path / "store")
        note = f"{name} was damaged (its checksum does not fit its content) and is computed anew"
        assert record.notes == ([note] if kernel == "rbf" else [])
        assert records.read_trial(tmp_path / config.id).notes == record.notes
        check_as_alone(config, tmp_path / config.id, alone)


def test_beside_a_damaged_prefix_the_next_shorter_one_serves(tiny, tmp_path, alone, led):
    led(tiny.replace(switch_epoch=3), tmp_path, publish=(0, 1, 2, 3))
    damage(tmp_path, 3), damage(tmp_path, 2)
    config = tiny.replace(switch_epoch=3, kernel="rbf")
    record = train(config, tmp_path)
    assert cost(record) == (3, 1, 0) and len(record.notes) == 2
    check_as_alone(config, tmp_path / config.id, alone)
    assert epochs_stored(tmp_path) == [1, 3]


def test_a_damaged_pretrained_network_is_trained_anew(tiny, tmp_path, alone, led):
    led(tiny, tmp_path)
    for path in (tmp_path / "store" / "entries").rglob("*.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    config = tiny.replace(kernel="rbf")
    record = train(config, tmp_path)
    assert cost(record) == (4, 0, 1) and len(record.notes) == 2
    check_as_alone(config, tmp_path / config.id, alone)


def test_a_full_store_costs_no_number(tiny, tmp_path, alone, monkeypatch):
    write = store_module._write_atomically

    def full(path, data):
        if "entries" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(store_module, "_write_atomically", full)
    for kernel in ("cosine", "rbf"):
        config = tiny.replace(kernel=kernel)
        record = train(config, tmp_path)
        assert cost(record) == (4, 0, 1) and len(record.notes) == 2  # the pretrained network and the prefix
        assert all("No space left on device" in note for note in record.notes)
        assert any(f"/{2:05d} could not be stored" in note for note in record.notes)
        check_as_alone(config, tmp_path / config.id, alone)


def test_a_store_that_holds_no_more_than_one_entry(tiny, tmp_path, alone):
    """Everything is evicted as soon as something else is stored."""
    for kernel in ("cosine", "rbf"):
        config = tiny.replace(kernel=kernel, switch_epoch=3)
        fit(config, tmp_path / config.id, store=Store(tmp_path / "store", limit=1), publish=(1, 2))
        check_as_alone(config, tmp_path / config.id, alone)
    assert epochs_stored(tmp_path) == [3]


# Several processes


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def processes(target, *arguments):
    """One process for each tuple of arguments; whatever happens, none is left."""
    started = [PROCESSES.Process(target=target, args=one) for one in arguments]
    try:
        for one in started:
            one.start()
        yield started
    finally:
        for one in started:
            one.kill()
            one.join()


def train_in_process(config, folder, hang_after):
    torch.set_num_threads(1)
    (folder / f"ready-{config.id}").touch()
    until((folder / "go").exists)

    def report(line):
        if line["epoch"] == hang_after:
            (folder / "hangs").touch()
            time.sleep(60)
        return False

    train(config, folder, report=report)


def test_two_processes_train_a_trunk_once(tiny, tmp_path, alone):
    configs = [tiny.replace(kernel=kernel) for kernel in ("rbf", "linear")]
    with processes(train_in_process, *((config, tmp_path, None) for config in configs)) as started:
        until(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
        (tmp_path / "go").touch()
        for one in started:
            one.join(60)
        assert [one.exitcode for one in started] == [0, 0]
    costs = [cost(records.read_trial(tmp_path / config.id)) for config in configs]
    assert sorted(costs) == [(2, 2, 0), (4, 0, 1)]
    for config in configs:
        check_as_alone(config, tmp_path / config.id, alone)


def test_the_second_trains_the_trunk_when_the_first_is_killed(tiny, tmp_path, alone):
    first, second = (tiny.replace(kernel=kernel) for kernel in ("rbf", "linear"))
    (tmp_path / "go").touch()
    with processes(train_in_process, (first, tmp_path, 0)) as (killed,):
        until((tmp_path / "hangs").exists)
        with processes(train_in_process, (second, tmp_path, None)) as (waiting,):
            until((tmp_path / f"ready-{second.id}").exists)
            waiting.join(0.7)
            assert waiting.is_alive() and not (tmp_path / second.id / "metrics.jsonl").exists()
            killed.kill()
            waiting.join(60)
            assert waiting.exitcode == 0
    assert cost(records.read_trial(tmp_path / second.id)) == (4, 0, 0)
    check_as_alone(second, tmp_path / second.id, alone)
    assert cost(train(first, tmp_path)) == (3, 1, 1)  # its own epoch 0, the second's epoch 1, its own stage two
    check_as_alone(first, tmp_path / first.id, alone)


def test_killed_in_stage_two_it_holds_up_nobody(tiny, tmp_path, alone):
    first, second = (tiny.replace(kernel=kernel) for kernel in ("rbf", "linear"))
    (tmp_path / "go").touch()
    with processes(train_in_process, (first, tmp_path, 2)) as (killed,):
        until((tmp_path / "hangs").exists)
        assert cost(train(second, tmp_path)) == (2, 2, 0)  # while the first one hangs
        killed.kill()
        killed.join()
    assert cost(train(first, tmp_path)) == (4, 0, 1)
    for config in (first, second):
        check_as_alone(config, tmp_path / config.id, alone)


def test_a_prefix_under_another_trunks_name_is_passed_over(tiny, tmp_path, alone):
    """Its seal is whole, but its settings are not those that its name stands for."""
    other = tiny.replace(temperature=2.0)
    train(other, tmp_path)
    (path,) = (tmp_path / "store" / "entries" / "trunks").rglob("00002.pt")
    folder = path.parent.with_name(path.parent.name.replace(trunk_id(other), trunk_id(tiny)))
    folder.mkdir()
    (folder / path.name).write_bytes(path.read_bytes())
    (folder / "00002 copy.pt").write_bytes(path.read_bytes())
    record = train(tiny, tmp_path)
    assert cost(record)[:2] == (4, 0) and "another trunk's prefix" in record.notes[0]
    check_as_alone(tiny, tmp_path / tiny.id, alone)
