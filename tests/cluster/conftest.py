"""Sweeps on the run's Ray cluster: groups of processes, or the same loop in threads of this one, which start at once."""

import pytest
from helpers.clusters import assert_nothing_left

from mldiv.config import TrialConfig


@pytest.fixture
def nothing_left(cluster):
    """The sweep gives everything back."""
    yield
    assert_nothing_left(cluster)


@pytest.fixture(scope="session")
def small():
    """A trial of half a second: its numbers need be the same, not good."""
    return TrialConfig(
        data="digits", train_size=64, test_size=32, validation_size=32, arch="resnet8", width=0.25, epochs=4, switch_epoch=2,
        pretrain_epochs=1, batch_size=32, lr=0.05, validation_samples=2, test_samples=2, fusion_dim=16, scale_batches=2,
    )  # fmt: skip
