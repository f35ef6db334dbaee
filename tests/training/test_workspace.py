"""What a worker keeps between trials: data, compiled steps, memory and open files."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from mldiv.fit import fit
from mldiv.store import Store
from mldiv.workspace import SHARED, STAGE_TWO, Workspace


def run(config, folder, workspace):
    return fit(config, folder / config.id, store=Store(folder / "store"), workspace=workspace)


def test_data_is_kept_until_a_trial_wants_other_data(tiny):
    workspace = Workspace()
    first = workspace.data(tiny)
    assert workspace.data(tiny.replace(seed=3, alpha=0.5, kernel="rbf")) is first
    assert workspace.data(tiny.replace(train_size=96)) is not first


def test_every_setting_of_the_lists_exists(tiny):
    assert set(vars(tiny)) >= SHARED | STAGE_TWO and not SHARED & STAGE_TWO


#: Run without the shape checks of the test run, which stop compiled code. The backend generates no code: seconds, not minutes.
SCRIPT = """
import json, sys
from pathlib import Path
from torch import nn
from torch._dynamo.utils import counters
from mldiv.config import from_dict
from mldiv.fit import fit
from mldiv.pair import MutualPair
from mldiv.store import Store
from mldiv.workspace import Workspace

def broken(graph, inputs):
    raise RuntimeError("no compiler here")

backend, trials = json.loads(sys.argv[1])
MutualPair.compile = lambda pair, mode=None: nn.Module.compile(pair, backend=broken if backend == "broken" else backend)
workspace = Workspace()
for place, settings in enumerate(trials):
    record = fit(from_dict(settings), Path(f"trial-{place}"), store=Store(Path(f"store-{place}")), workspace=workspace)
    print(json.dumps([record.test["pair"]["nll"], record.notes, counters["stats"]["unique_graphs"]]))
"""


def compiled(backend, folder, *configs):
    """For each trial, one after the other in one process: test NLL, notes, graphs compiled until then."""
    trials = [asdict(config) for config in configs]
    command = [sys.executable, "-c", SCRIPT, json.dumps([backend, trials])]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=300).stdout
    return [json.loads(line) for line in said.splitlines()]


def test_compiled_steps_serve_the_next_trial(tiny, tmp_path):
    tiny = tiny.replace(compile=True)
    other = tiny.replace(alpha=0.3, temperature=2.0, seed=1, lr=0.01, epochs=3)
    rbf = tiny.replace(kernel="rbf")
    plain = tiny.replace(compile=False)
    found = compiled("eager", tmp_path, tiny, other, rbf, rbf.replace(beta=0.5, seed=2), tiny, plain)
    scores, notes, graphs = zip(*found, strict=True)
    assert graphs[1] == graphs[0], "weights, seeds and schedules are no reason to compile again"
    assert graphs[2] > graphs[1] and graphs[4] == graphs[3] == graphs[2]
    assert scores[4] == scores[0], "a pair that has served four trials trains a fifth as a new one would"
    assert scores[5] == pytest.approx(scores[0], rel=0.02)
    assert not any(notes)


def test_where_compiling_fails_the_trial_goes_on_and_says_why(tiny, tmp_path):
    (score, (note,), _), (plain, _, _) = compiled("broken", tmp_path, tiny.replace(compile=True), tiny)
    assert score == plain
    assert note.startswith("steps are not compiled") and "no compiler here" in note


def test_memory_and_open_files_stay_flat(tiny, tmp_path):
    """Over dozens of trials in one process, once everything that is kept is there."""
    workspace, config = Workspace(), tiny.replace(epochs=2, switch_epoch=1, initialization="scratch", train_size=64)

    def used():
        files = len(list(Path("/proc/self/fd").iterdir()))
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, files

    for seed in range(10):
        run(config.replace(seed=seed), tmp_path, workspace)
    memory, files = used()
    for seed in range(10, 40):
        run(config.replace(seed=seed), tmp_path, workspace)
    later, more = used()
    assert more == files and later - memory < 6  # a pair's state is 0.3 MB with its momentum, a leak of all of it 9 MB and more


def test_a_cuda_graph_of_the_step(tiny, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    workspace = Workspace(torch.device("cuda"))
    record = run(tiny.replace(compile=True), tmp_path, workspace)
    assert record.status == "finished" and workspace.fallback is None
