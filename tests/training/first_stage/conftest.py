"""Trials whose stage two goes on with the schedule of stage one: those share prefixes whatever their switch is."""

import pytest


@pytest.fixture
def tiny(tiny):
    """Another switch epoch then needs no other first stage; one that restarts is in test_stage_schedule.py."""
    return tiny.replace(stage_schedule="continue")
