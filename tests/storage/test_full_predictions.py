"""Full predictions survive their file: within what float16 takes of a logarithm, however small a probability."""

import numpy as np
import pytest
from scipy.special import log_softmax

from mldiv.records.checked_files import Damaged
from mldiv.storage import full_predictions


@pytest.fixture
def logarithms():
    draws = np.random.default_rng(0)
    return {name: log_softmax(draws.normal(scale=12, size=(50, 7)), axis=1) for name in ("peer_1", "pair")}


def test_logarithms_survive(logarithms, tmp_path):
    path = tmp_path / full_predictions.FILE
    full_predictions.write(path, logarithms, "abc")
    found = full_predictions.read(path, "abc")
    assert list(found) == list(logarithms) and min(values.min() for values in logarithms.values()) < np.log(6e-8)
    for name, values in logarithms.items():
        assert np.allclose(found[name], values, rtol=2**-11, atol=1e-7)


def test_what_is_nought_is_the_smallest_there_is(tmp_path):
    path = tmp_path / full_predictions.FILE
    with np.errstate(divide="ignore"):
        full_predictions.write(path, {"pair": np.log(np.float32([[1.0, 0.0], [1.0000001, 0.0]]))}, "abc")
    found = full_predictions.read(path, "abc")["pair"]
    assert np.array_equal(found[:, 0], [0, 0]) and np.exp(found[:, 1]) == pytest.approx(np.finfo(np.float32).tiny, rel=0.05)


def test_what_is_not_the_trials_is_refused(logarithms, tmp_path):
    path = tmp_path / full_predictions.FILE
    full_predictions.write(path, logarithms, "abc")
    with pytest.raises(Damaged, match="of another trial, 'abc'"):
        full_predictions.read(path, "other")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Damaged, match="cannot be read"):
        full_predictions.read(path, "abc")
    full_predictions.write(path, {"pair": np.full((3, 2), -0.1)}, "abc")
    with pytest.raises(Damaged, match="no probabilities that add up to 1"):
        full_predictions.read(path, "abc")
    with pytest.raises(FileNotFoundError):
        full_predictions.read(tmp_path / "none", "abc")
