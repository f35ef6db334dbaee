"""Trials that share first stages, trained once for all modules of this folder."""

import shutil

import pytest
from helpers.trunk_trials import train

from mldiv import records
from mldiv.fit import fit
from mldiv.store import Store


@pytest.fixture
def tiny(tiny):
    """Half of it: what is bit for bit the same needs no accuracy."""
    return tiny.replace(train_size=64, validation_size=32, test_size=32, test_samples=2)


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """The folder of a trial trained with a store of its own; each is trained once, for all modules that import this."""
    root = tmp_path_factory.getbasetemp() / "alone"

    def folder(config):
        fit(config, root / config.id, store=Store(root / f"store of {config.id}"))
        return root / config.id

    return folder


@pytest.fixture(scope="session")
def led(tmp_path_factory):
    """Puts a trained trial and its store, a copy, into a folder; each is trained once, as above. Its record there."""

    def put(config, folder, publish=()):
        trained = tmp_path_factory.getbasetemp() / "led" / "-".join(map(str, (config.id, *publish)))
        train(config, trained, publish=publish)
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        return records.read_trial(folder / config.id)

    return put
