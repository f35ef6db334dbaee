"""Every test of plug-ins begins and ends without any."""

import pytest
from helpers.plugins import forget_all


@pytest.fixture(autouse=True)
def forgotten():
    """No test sees another's plug-ins."""
    yield
    forget_all()


@pytest.fixture
def write(tmp_path):
    """A function that writes a plug-in and returns its path."""

    def write(text, name="own"):
        (tmp_path / f"{name}.py").write_text(text)
        return str(tmp_path / f"{name}.py")

    return write
