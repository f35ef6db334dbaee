"""Trials that share a store: how they are trained and killed, and what is compared of them."""

import dataclasses

import pandas as pd
import pytest
import torch

from mldiv.records import checked_files, study_files
from mldiv.storage.cache import Store
from mldiv.training.fit import fit

CPU = torch.device("cpu")
COUNTS = ("epochs_trained", "epochs_shared", "pretraining_epochs_trained")


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


def differing(first, second, where=""):
    """Names of what is not equal bit for bit, in nested dicts and lists of tensors and plain values."""
    if isinstance(first, torch.Tensor):
        alike = isinstance(second, torch.Tensor) and first.dtype == second.dtype and first.shape == second.shape
        return [] if alike and torch.equal(first, second) else [where]
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted(set(first) | set(second), key=str)
        return [item for key in keys for item in differing(first.get(key), second.get(key), f"{where}/{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            item for index, pair in enumerate(zip(first, second, strict=True)) for item in differing(*pair, f"{where}/{index}")
        ]
    return [] if type(first) is type(second) and first == second else [where]


def without_origin(lines):
    return [{name: value for name, value in line.items() if name not in ("seconds", "shared")} for line in lines]


def results(folder):
    """Everything of a trial that is a number."""
    record = dataclasses.asdict(study_files.read_trial(folder))
    found = {
        name: record[name]
        for name in ("config", "status", "reason", "epochs", "validation", "test", "switch", "posterior", "data")
    }
    found["lines"] = without_origin(checked_files.read_lines(folder / "metrics.jsonl"))
    found["checkpoint"] = torch.load(folder / "checkpoint.pt", weights_only=True)
    if (folder / "predictions.parquet").exists():
        frame = pd.read_parquet(folder / "predictions.parquet")
        found["predictions"] = {name: frame[name].tolist() for name in frame}
    return found


def check_as_alone(config, folder, alone):
    expected = results(alone(config))
    assert expected["status"] == "finished" and len(expected["predictions"]["label"]) == (config.peers + 1) * 32
    found = differing(results(folder), expected)
    assert not found, f"differs from the trial trained alone in {found}"


def cost(record):
    """Epochs trained, shared, and trained of pretraining."""
    assert record.cost["epochs_trained"] + record.cost["epochs_shared"] == record.epochs
    return tuple(record.cost[name] for name in COUNTS)


def epochs_stored(folder):
    return sorted(int(path.stem) for path in (folder / "store" / "entries" / "trunks").rglob("*.pt"))


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
