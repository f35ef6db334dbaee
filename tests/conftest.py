"""Shape annotations are executed in the everyday run: jaxtyping's hook must come before mldiv is imported."""

import contextlib
import itertools
import os
import re
import shutil
import sys
import time

import pytest
import torch
from jaxtyping import install_import_hook

CHECKED = ("method", "datasets", "evaluation")

if os.environ.get("MLDIV_SHAPES") != "unchecked":
    install_import_hook([f"mldiv.{name}" for name in CHECKED], "beartype.beartype")

pytest.register_assert_rewrite("helpers")

from helpers import object_store

from mldiv.config import TrialConfig
from mldiv.storage.remote_cache import open_store
from mldiv.training.worker_cache import dataset

with contextlib.suppress(ModuleNotFoundError):  # where a GPU is rented it may be missing; nothing there needs it
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)  # machines are noisy
    settings.load_profile("untimed")

#: Warnings of Ray's own code, which are none of ours.
RAY_WARNINGS = (
    "DeprecationWarning", "FutureWarning", "ResourceWarning", "UserWarning", "pytest.PytestUnraisableExceptionWarning",
)  # fmt: skip


#: The marks that an expression as the Makefile gives asks for.
WANTED = re.compile(r"(?<!not )\b(ray|slow|gpu)\b")


#: How the run ended.
STATUS = pytest.StashKey[int]()


def pytest_ignore_collect(collection_path, config):
    """Spare a run of marked tests the import of every file that holds none: half a minute in a run of several processes."""
    if collection_path.suffix == ".py" and (wanted := WANTED.findall(config.option.markexpr)):
        text = collection_path.read_text()
        return True if any(f"mark.{name}" not in text for name in wanted) else None
    return None


def pytest_collection_modifyitems(items):
    """Warnings are errors, but not those of Ray in tests that start it."""
    for item in items:
        if item.get_closest_marker("ray"):
            for name in RAY_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{name}"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """CI has twenty minutes, which on a slow machine do not reach to every long test: how many not, it says."""
    if item.get_closest_marker("slow") and time.time() > float(os.environ.get("MLDIV_LONG_TESTS_UNTIL", "inf")):
        pytest.skip("CI's time was up: `make test-all` runs it")


def pytest_sessionfinish(session, exitstatus):
    session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """A process that had Ray ends here, all being said: Ray's threads have crashed while the interpreter went down (exit 139
    of a run whose tests had all passed, once)."""
    if "ray" in sys.modules and STATUS in config.stash and not hasattr(config, "workerinput"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[STATUS])


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> TrialConfig:
    """A trial of a third of a second: 96 digits, a thin ResNet-8, two epochs of each stage."""
    return TrialConfig(
        data="digits", train_size=96, test_size=32, validation_size=32, arch="resnet8", width=0.25, epochs=4, switch_epoch=2,
        pretrain_epochs=1, batch_size=32, lr=0.05, validation_samples=2, test_samples=3, fusion_dim=16, scale_batches=2,
    )  # fmt: skip


@pytest.fixture
def tiny_data(tiny):
    return dataset(tiny)


@pytest.fixture(scope="session")
def shared_cluster():
    """The run's one Ray cluster; see `helpers.clusters`."""
    from helpers import clusters

    with clusters.start() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster(shared_cluster):
    """The same, with this process as its driver."""
    from helpers import clusters

    clusters.set_nodes(shared_cluster, 1)
    with clusters.joined(shared_cluster):
        yield shared_cluster


@pytest.fixture(scope="module")
def threads():
    """Worker groups of `tune.run` are threads of this process: the plan, search, broker, clients and Tune are the real ones."""
    from mldiv.cluster import worker_groups

    def run_here(groups, settings):
        worker_groups.worker_loop(settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_groups.Groups, "_run_trainer", run_here)
        patch.setattr(worker_groups, "get_device", lambda: torch.device("cpu"))  # Ray's knows its own workers alone
        yield


@pytest.fixture(scope="module")
def bucket():
    """A bucket's URL on a server of the module's own."""
    with object_store.serve() as url:
        yield url


@pytest.fixture
def place(bucket, tmp_path):
    """A URL of its own for every test."""
    return f"{bucket}/{tmp_path.name}"


@pytest.fixture
def stores(place, tmp_path, monkeypatch):
    """A function that makes the same store as another machine sees it: with a disk of its own."""
    count = itertools.count()

    def make(limit=10**9):
        disk = tmp_path / f"machine {next(count)}"
        disk.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        return open_store(place, limit)

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished study of two arms and one seed, to be looked at only."""
    from helpers.small_study import run

    from analysis.build import build

    folder = tmp_path_factory.mktemp("trained") / "study"
    assert run(folder, seeds=1, report=build)[0] == 0
    return folder


@pytest.fixture
def study(trained, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(trained, tmp_path / "study")
