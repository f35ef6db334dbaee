import dataclasses

import pytest
import torch
from helpers import references
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mldiv.method import kernels
from mldiv.method.kernels import KERNELS, kernel_parameters

ROWS = npst.arrays("float64", st.tuples(st.integers(3, 7), st.integers(1, 4)), elements=st.floats(-3, 3, width=32))


@pytest.mark.parametrize("name", KERNELS)
def test_against_python_floats(name):
    rows = torch.randn(9, 5, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    values = KERNELS[name](rows, rows)
    listed = rows.tolist()
    for i, a in enumerate(listed):
        for j, b in enumerate(listed):
            try:
                expected = references.kernel(name, a, b, listed)
            except KeyError:
                pytest.skip("no formula of it in tests/helpers/references.py")
            assert values[i, j].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=60)
@given(array=ROWS)
def test_properties(name, array):
    rows = torch.from_numpy(array).requires_grad_()
    values = KERNELS[name](rows, rows)
    (gradient,) = torch.autograd.grad(values.sum(), rows)
    order = torch.arange(len(rows)).flip(0)
    assert values.isfinite().all() and gradient.isfinite().all()
    assert (values >= 0).all() and (values <= 1 + 1e-9).all()
    torch.testing.assert_close(values, values.T)
    torch.testing.assert_close(KERNELS[name](rows[order], rows[order]), values[order][:, order])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opposite_rows_are_not_below_zero(name, dtype):
    """Not even by rounding: the logarithm of their probability would be no number. Centered, two images are always opposite."""
    for seed in range(40):
        row = torch.randn(1, 2, dtype=dtype, generator=torch.Generator().manual_seed(seed))
        rows = torch.cat([row, -row / 2, row])
        assert KERNELS[name](rows, rows).min() >= 0, seed


@pytest.mark.parametrize("name", KERNELS)
def test_scale_free(name):
    """Every kernel takes its scale from the batch."""
    rows = torch.randn(8, 3, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(KERNELS[name](5 * rows, 5 * rows), KERNELS[name](rows, rows), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "polynomial"])
def test_gradient_against_finite_differences(name, monkeypatch):
    """The width, which is detached, is held at a constant. Polynomial: its detached scale cannot be held from outside."""
    monkeypatch.setattr(kernels, "_width", lambda distances, width: torch.tensor(1.3, dtype=torch.double))
    rows = torch.randn(5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(3), requires_grad=True)
    other = torch.randn(6, 3, dtype=torch.double, generator=torch.Generator().manual_seed(4), requires_grad=True)
    assert torch.autograd.gradcheck(KERNELS[name], (rows, other))


@pytest.mark.parametrize(("name", "changed"), [("rbf", {"width": 2.0}), ("polynomial", {"degree": 4})])
def test_own_parameters_act(name, changed):
    rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(6))
    assert not torch.allclose(KERNELS[name](rows, rows), KERNELS[name](rows, rows, **changed))
    assert set(changed) == set(kernel_parameters(name))


def test_odd_degree_is_refused():
    with pytest.raises(ValueError, match="even"):
        KERNELS["polynomial"](torch.ones(2, 2), torch.ones(2, 2), degree=3)


@dataclasses.dataclass
class Scaled:
    """A kernel that is an object which compares by its values, and so has no hash."""

    by: float

    def __call__(self, a, b, *, tail=2.0):
        return self.by * kernels.linear(a, b)


def test_a_kernel_may_be_any_object_that_can_be_called(monkeypatch):
    monkeypatch.setitem(kernels.KERNELS, "scaled", Scaled(0.5))
    assert kernel_parameters("scaled") == {"tail": 2.0}
