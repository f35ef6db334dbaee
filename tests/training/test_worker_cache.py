"""What a worker keeps between trials: data, compiled steps, memory and open files."""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers.processes import processes
from torch import nn

from mldiv.config import TrialConfig
from mldiv.method.pair import MutualPair
from mldiv.storage.cache import Store
from mldiv.training.fit import fit
from mldiv.training.worker_cache import Workspace

TINY = TrialConfig(
    data="digits", train_size=64, test_size=32, validation_size=32, arch="resnet8", width=0.25, epochs=4, switch_epoch=2,
    pretrain_epochs=1, batch_size=32, lr=0.05, validation_samples=2, test_samples=2, fusion_dim=16, scale_batches=2,
)  # fmt: skip


def run(config, folder, workspace):
    return fit(config, folder / config.id, store=Store(folder / "store"), workspace=workspace)


def test_data_is_kept_until_a_trial_wants_other_data(tiny):
    workspace = Workspace()
    first = workspace.data(tiny)
    assert workspace.data(tiny.replace(seed=3, alpha=0.5, kernel="rbf")) is first
    assert workspace.data(tiny.replace(train_size=96)) is not first


# Compiled steps


def broken(graph, inputs):
    raise RuntimeError("no compiler here")


def train_in_turn(folder, tiny):
    """In a process of its own: without the shape checks of the test run, which stop compiled code. The backend generates no
    code: seconds, not minutes. For each trial test NLL, notes, and graphs compiled until then."""
    from torch._dynamo.utils import counters

    torch.set_num_threads(1)
    found = {}

    def train(backend, **configs):
        MutualPair.compile = lambda pair, mode=None: nn.Module.compile(pair, backend=backend)
        workspace = Workspace()
        for name, config in configs.items():
            record = fit(config, folder / name, store=Store(folder / f"store of {name}"), workspace=workspace)
            found[name] = record.test["pair"]["nll"], record.notes, counters["stats"]["unique_graphs"]

    compiled, rbf = tiny.replace(compile=True), tiny.replace(compile=True, kernel="rbf")
    train(broken, without_compiler=compiled)
    train(
        "eager",
        first=compiled,
        other_weights=compiled.replace(alpha=0.3, temperature=2.0, seed=1, lr=0.01, epochs=3),
        rbf=rbf,
        rbf_again=rbf.replace(beta=0.5, seed=2),
        fifth=compiled,
        plain=tiny,
    )
    (folder / "found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory):
    """Scores, notes and graphs by the trial's name."""
    folder = tmp_path_factory.mktemp("in turn")
    with processes(train_in_turn, (folder, TINY)) as (process,):
        process.join(500)
        assert process.exitcode == 0
    scores, notes, graphs = zip(*(found := json.loads((folder / "found.json").read_text())).values(), strict=True)
    return dict(zip(found, scores, strict=True)), dict(zip(found, notes, strict=True)), dict(zip(found, graphs, strict=True))


@pytest.mark.slow
def test_compiled_steps_serve_the_next_trial(in_turn):
    _, notes, graphs = in_turn
    assert graphs["first"] > graphs["without_compiler"]
    assert graphs["other_weights"] == graphs["first"], "weights, seeds and schedules are no reason to compile again"
    assert graphs["rbf"] > graphs["other_weights"]
    assert graphs["fifth"] == graphs["rbf_again"] == graphs["rbf"]
    assert not any(said for name, said in notes.items() if name != "without_compiler"), notes


@pytest.mark.slow
def test_a_pair_that_has_served_others_trains_as_a_new_one_would(in_turn):
    scores, *_ = in_turn
    assert scores["fifth"] == scores["first"]
    assert scores["plain"] == pytest.approx(scores["first"], rel=0.02)


@pytest.mark.slow
def test_where_compiling_fails_the_trial_goes_on_and_says_why(in_turn):
    scores, notes, _ = in_turn
    assert scores["without_compiler"] == scores["plain"]
    (note,) = notes["without_compiler"]
    assert note.startswith("steps are not compiled")
    assert "no compiler here" in note


def test_a_trial_that_is_not_to_be_compiled_hears_nothing_of_another_ones_failure(tiny, tmp_path):
    workspace = Workspace()
    workspace.fallback = "steps are not compiled: no compiler here"
    assert run(tiny.replace(initialization="scratch"), tmp_path, workspace).notes == []


# Memory and open files


def used():
    """Megabytes and open files of this process."""
    files = len(list(Path("/proc/self/fd").iterdir()))
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, files


@pytest.mark.slow
def test_memory_and_open_files_stay_flat(tiny, tmp_path):
    """Over many trials in one process, once everything that is kept is there."""
    workspace = Workspace()
    config = tiny.replace(epochs=2, switch_epoch=1, initialization="scratch", width=0.5, ood="none")
    for seed in range(8):
        run(config.replace(seed=seed), tmp_path, workspace)
    memory, files = used()
    for seed in range(8, 24):
        run(config.replace(seed=seed), tmp_path, workspace)
    later, more = used()
    assert more == files
    assert later - memory < 6  # a pair's state is 1.2 MB with its momentum, a leak of ten of them 12 MB


def test_a_cuda_graph_of_the_step(tiny, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    workspace = Workspace(torch.device("cuda"))
    record = run(tiny.replace(compile=True), tmp_path, workspace)
    assert record.status == "finished" and workspace.fallback is None
