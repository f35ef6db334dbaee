"""Small trials, each trained undisturbed once for all modules of a process."""

import shutil

import pytest
from helpers.first_stages import train

from mldiv.records import study_files


@pytest.fixture
def tiny(tiny):
    """Half of it: what is bit for bit the same needs no accuracy."""
    return tiny.replace(train_size=64, validation_size=32, test_size=32, test_samples=2)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """The folder of a trained trial and the store that it had for itself."""
    root = tmp_path_factory.getbasetemp() / "trained once"

    def folder(config, publish=()):
        found = root / "-".join(map(str, (config.id, *publish)))
        train(config, found, publish=publish)
        return found

    return folder


@pytest.fixture(scope="session")
def alone(once):
    """The folder of a trial trained with a store of its own, to be looked at only."""
    return lambda config: once(config) / config.id


@pytest.fixture(scope="session")
def led(once):
    """Puts a trained trial and its store, a copy, into a folder. Its record there."""

    def put(config, folder, publish=()):
        shutil.copytree(once(config, publish), folder, dirs_exist_ok=True)
        return study_files.read_trial(folder / config.id)

    return put
