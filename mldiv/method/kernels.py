"""Similarity kernels K(a, b) between the fused feature vectors of a batch. Eq. (14) first; add yours to KERNELS."""

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

#: Keeps square roots and quotients finite for zero vectors.
TINY = 1e-12

Rows = Float[Tensor, "n dim"]
Columns = Float[Tensor, "m dim"]
Similarity = Float[Tensor, "n m"]


@dataclass(frozen=True)
class Range:
    """Where a kernel's own parameter may lie, both ends included: `Annotated[float, Range(...)]` in the kernel's signature.

    help: what it is, a line; searched: between which ends a search looks for it, on a log scale (default: all of the range);
    step: of a whole number, which is a multiple of it; why: what is wrong with other values.
    """

    low: float | int
    high: float | int
    help: str = "a kernel's own parameter"
    searched: tuple[float | int, float | int] | None = None
    step: int | None = None
    why: str = ""


Width = Annotated[float, Range(1e-3, 1e3, "width of a kernel that has one, in median distances", (0.25, 4.0))]
Degree = Annotated[
    int, Range(2, 16, "degree of the polynomial kernel", (2, 6), step=2, why="odd, and similarities turn negative")
]


def cosine(a: Rows, b: Columns) -> Similarity:
    r"""Compute the cosine similarity, moved into [0, 1].

    .. math:: K(a, b) = \tfrac12 \left( \frac{a \cdot b}{\|a\| \|b\|} + 1 \right)

    Eq. (14). A zero vector counts as orthogonal to everything: 1/2.
    a, b -> rows of a, b. Shapes: a [n, dim], b [m, dim]; result [n, m].
    References: arXiv 2407.02721; Passalis and Tefas, Probabilistic Knowledge Transfer (ECCV 2018).
    """
    first = _unit(a)
    second = first if b is a else _unit(b)
    return ((first @ second.T + 1) / 2).clamp_min(0)  # opposite rows: rounding may end below


def rbf(a: Rows, b: Columns, *, width: Width = 1.0) -> Similarity:
    r"""Compute the Gaussian kernel, its width set by the batch.

    .. math:: K(a, b) = \exp\left(-\frac{\|a - b\|^2}{2 s^2}\right), \quad s = \text{width} \cdot \text{median}

    chosen: the paper is silent (`kernel`, `kernel_width`). The median is that of the batch's pairwise distances between
    different rows, detached. s -> `_width`. Shapes: a [n, dim], b [m, dim]; result [n, m].
    """
    distances = _distances(a, b)
    return torch.exp(-0.5 * (distances / _width(distances, width)).square())


def laplacian(a: Rows, b: Columns, *, width: Width = 1.0) -> Similarity:
    r"""Compute the Laplacian kernel of the Euclidean distance.

    .. math:: K(a, b) = \exp(-\|a - b\| / s)

    chosen: the paper is silent (`kernel`, `kernel_width`). s as in `rbf`. Shapes: a [n, dim], b [m, dim]; result [n, m].
    """
    distances = _distances(a, b)
    return torch.exp(-distances / _width(distances, width))


def polynomial(a: Rows, b: Columns, *, degree: Degree = 2) -> Similarity:
    r"""Compute the normalized polynomial kernel of even degree p, with values in [0, 1].

    .. math:: K(a, b) = \frac{(\gamma\, a \cdot b + 1)^p}{\sqrt{(\gamma \|a\|^2 + 1)^p (\gamma \|b\|^2 + 1)^p}}

    chosen: the paper is silent (`kernel`, `kernel_degree`). gamma is one over the mean squared norm of all rows, detached.
    Shapes: a [n, dim], b [m, dim]; result [n, m].

    Raises: ValueError for an odd degree, which would give negative similarities.
    """
    if degree < 2 or degree % 2:
        raise ValueError(f"degree = {degree}: must be even and positive, or similarities turn negative")
    norms_a, norms_b = a.square().sum(1), b.square().sum(1)
    gamma = 1 / (torch.cat([norms_a, norms_b]).mean().detach() + TINY)
    ratio = (gamma * a @ b.T + 1).square() / torch.outer(gamma * norms_a + 1, gamma * norms_b + 1)
    return ratio ** (degree // 2)


def inverse_multiquadric(a: Rows, b: Columns, *, width: Width = 1.0) -> Similarity:
    r"""Compute the inverse multiquadric kernel: heavier tails than `rbf`.

    .. math:: K(a, b) = \left(1 + \|a - b\|^2 / s^2\right)^{-1/2}

    chosen: the paper is silent (`kernel`, `kernel_width`). s as in `rbf`. Shapes: a [n, dim], b [m, dim]; result [n, m].
    """
    distances = _distances(a, b)
    return torch.rsqrt(1 + (distances / _width(distances, width)).square())


def linear(a: Rows, b: Columns) -> Similarity:
    r"""Compute the linear kernel, normalized by the longest rows: unlike `cosine` it keeps how long a vector is.

    .. math:: K(a, b) = \tfrac12 \left( \frac{a \cdot b}{\max\|a\| \max\|b\|} + 1 \right)

    chosen: the paper is silent (`kernel`). Shapes: a [n, dim], b [m, dim]; result [n, m].
    """
    longest = a.square().sum(1).max() * b.square().sum(1).max()
    return ((a @ b.T / (longest + TINY**2).sqrt() + 1) / 2).clamp_min(0)


def _unit(rows: Rows) -> Rows:
    return rows / (rows.square().sum(1, keepdim=True) + TINY**2).sqrt()


def _distances(a: Rows, b: Columns) -> Similarity:
    """Euclidean distances, exact at zero in value and gradient (0)."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _width(distances: Similarity, width: float) -> Float[Tensor, ""]:
    """``width`` times the median distance between different rows; detached, without a look at its value.

    In a batch against itself the n zeros of the diagonal come first in order, so the (lower) median of the others lies n
    places after theirs. Between two different batches the n smallest distances are passed over likewise.
    """
    others = distances.numel() - len(distances)
    rank = min(len(distances) + (max(others, 1) + 1) // 2, distances.numel())
    return width * (distances.detach().flatten().kthvalue(rank).values + TINY)


def kernel_parameters(name: str) -> dict[str, float | int]:
    """Return the kernel's own parameters with their defaults: what its signature takes by keyword."""
    return {item.name: item.default for item in _keywords(name)}


def kernel_ranges(name: str) -> dict[str, Range]:
    """Return the ranges of the kernel's own parameters; of those that declare one."""
    found = {item.name: getattr(item.annotation, "__metadata__", ()) for item in _keywords(name)}
    return {name: item for name, items in found.items() for item in items if isinstance(item, Range)}


def _keywords(name: str) -> list[inspect.Parameter]:
    kernel = KERNELS[name]
    return _keywords_of(kernel) if isinstance(kernel, Hashable) else _keywords_of.__wrapped__(kernel)


@cache  # every configuration's check asks for all of them
def _keywords_of(kernel: Callable[..., Similarity]) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(kernel, eval_str=True)
    except NameError:  # an annotation that only type checkers can read
        signature = inspect.signature(kernel)
    except ValueError:  # a function of C, which has none
        return []
    return [item for item in signature.parameters.values() if item.kind is item.KEYWORD_ONLY]


#: An entry inherits the contract tests, the setting's choices and a row of the kernel sweep.
KERNELS: dict[str, Callable[..., Similarity]] = {
    "cosine": cosine,
    "rbf": rbf,
    "laplacian": laplacian,
    "polynomial": polynomial,
    "inverse_multiquadric": inverse_multiquadric,
    "linear": linear,
}
