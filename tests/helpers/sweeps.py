"""Sweeps that the tests of the cluster train, and what they are compared with."""

import ray
import torch

from mldiv.records.study_files import find_trial, trial_folder
from mldiv.storage.cache import Store
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan
from mldiv.training.fit import fit


def make_plan(folder, config, seeds=(1,), samples=0, more=()):
    """Mutual learning alone and with both terms, whose weights are searched where there are samples."""
    arms = [make_arm("plain", config, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", config, {}, ("alpha", "beta"))]
    return Plan([*arms, *more], folder, samples=samples, seeds=seeds)


def state(folder, trial):
    """A trial's weights."""
    return torch.load(trial_folder(folder, trial) / "checkpoint.pt", weights_only=True)["pair"]


def assert_as_trained_alone(folder, config, tmp_path):
    """Bit for bit what this process makes of the same configuration."""
    alone = fit(config, trial_folder(tmp_path / "alone", config.id), store=Store(tmp_path / "alone store"))
    got, expected = state(folder, config.id), state(tmp_path / "alone", config.id)
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []
    assert find_trial(folder, config.id).test == alone.test


def broker():
    """The broker of the sweep that runs."""
    (actor,) = [actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["name"].startswith("broker-")]
    return ray.get_actor(actor["name"], namespace=actor["namespace"])


def placed():
    """Living actors by class, with the node that each is on."""
    return [(actor["ActorClassName"], actor["Address"]["NodeID"]) for actor in ray._private.state.actors().values()
            if actor["State"] == "ALIVE"]  # fmt: skip
