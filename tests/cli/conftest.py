"""What the command line's tests share: dry runs that time no steps, and studies as their files define them."""

import runpy
from pathlib import Path

import pytest

from mldiv.training.step_cost import Cost

STUDIES = Path(__file__).resolve().parents[2] / "studies"


@pytest.fixture(autouse=True)
def known_cost(monkeypatch) -> Cost:
    """What a dry run takes for the timed steps' seconds: all four different, so that it shows which is used for what."""
    cost = Cost(stage_1=1.0, stage_2=10.0, pretraining=100.0, test=1000.0)
    monkeypatch.setattr("mldiv.training.step_cost.measure", lambda config, *given, **more: cost)
    return cost


@pytest.fixture(scope="session")
def load_study():
    """A study by its file's name."""
    return lambda name: runpy.run_path(str(STUDIES / f"{name}.py"))["STUDY"]
