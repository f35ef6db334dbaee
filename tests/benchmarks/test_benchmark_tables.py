"""What benchmarks count and write, each by its smallest piece."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from mldiv.records.contents import TrialRecord

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import a benchmark by its name; those that it imports lie beside it."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    return importlib.import_module


def test_the_plans_seconds_hold_what_it_takes_to_ask(module, tmp_path):
    plan = module("trials").plan(tmp_path, Namespace(trials=100, epochs=2, groups=1))
    assert plan.ask() is not None
    assert plan.seconds > 0


def test_one_seed_has_no_standard_error(module):
    precision = module("precision")
    run = TrialRecord("x", {}, test={"pair": {"nll": 1.0, "accuracy": 0.5}}), []
    rows = precision.rows({(kind, arm): [run] for kind in precision.PRECISIONS for arm in precision.ARMS})
    assert [row[3] for row in rows] == ["+0.0000"] * 2


def test_corruptions_are_compared_with_something(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["corruptions.py", "--data-root", "nowhere"])
    with pytest.raises(SystemExit, match="2"):
        module("corruptions").main()
    assert "--original DIR is what ours are compared with" in capsys.readouterr().err
