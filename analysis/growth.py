"""How a cost grows with a size, and what the terms of a step would cost, on paper, in a large vision transformer."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.statistics import LEVEL

#: Weights, tokens per image at 224 pixels (256 patches and a class token), width: ViT-Huge/14 (Dosovitskiy et al., ICLR 2021).
VIT_HUGE = {"weights": 632e6, "tokens": 257, "width": 1280}
#: Bytes of a number in float32; in bf16, of activations.
FLOAT, HALF = 4, 2


@dataclass(frozen=True)
class Growth:
    """value = factor * size^exponent: the exponent with its 95 % interval (None for fewer than 3 sizes), R² of the logs."""

    exponent: float
    interval: tuple[float, float] | None
    factor: float
    r_squared: float
    n: int

    def at(self, size: float) -> float:
        return self.factor * size**self.exponent


def fit_power(size: np.ndarray, value: np.ndarray) -> Growth:
    """Least squares of log value on log size, both [n] and positive.

    The interval takes the logs' residuals as independent and normal. Where a constant cost dominates the small sizes, the
    exponent over all sizes is too small: fit the larger ones (see `upper`).

    Raises: ValueError for fewer than two different sizes, or values that are not positive.
    """
    size, value = np.asarray(size, float), np.asarray(value, float)
    if len(np.unique(size)) < 2 or (size <= 0).any() or (value <= 0).any():
        raise ValueError(f"a power law needs two different positive sizes and positive values, got {len(size)}")
    line = stats.linregress(np.log(size), np.log(value))
    interval = None
    if len(size) > 2:
        half = float(stats.t.ppf(1 - LEVEL / 2, len(size) - 2) * line.stderr)
        interval = float(line.slope) - half, float(line.slope) + half
    return Growth(float(line.slope), interval, float(np.exp(line.intercept)), float(line.rvalue**2), len(size))


def upper(size: np.ndarray, value: np.ndarray, least: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The larger half of the sizes (at least ``least`` points), where a constant cost counts least; both sorted by size."""
    order = np.argsort(size, kind="stable")
    kept = order[min(len(order) // 2, max(0, len(order) - least)) :]
    return np.asarray(size, float)[kept], np.asarray(value, float)[kept]


@dataclass(frozen=True)
class Cost:
    """A term of a training step of the pair: floating-point operations and bytes moved."""

    term: str
    operations: float
    bytes: float


def on_paper(
    batch: int, *, weights: float = VIT_HUGE["weights"], tokens: float = VIT_HUGE["tokens"], width: float = VIT_HUGE["width"],
    fused: int = 64,
) -> list[Cost]:  # fmt: skip
    """What each term of a step of two peers takes, forward and backward.

    Networks: 6 operations per weight and token (2 forward, 4 backward), 12 for both peers; weights are read three times in
    bf16. Elementwise passes over a peer's vectors: the draw mu + sigma eps with softplus, the KL to the prior, the distance
    ||mu_1 - mu_2||² + ||sigma_1 - sigma_2||², counted as operations and float32 reads and writes per weight, forward and
    backward, for both peers. Feature KL: similarities 2 B² d forward and twice that backward per peer with the fused width d,
    about 20 elementwise operations on B² numbers, and the projection of one pooled token per image. batch: images; fused: d.
    """
    tokens_seen = batch * tokens
    networks = 12 * weights * tokens_seen
    similarities = 2 * 3 * 2 * batch**2 * fused + 2 * 20 * batch**2
    projection = 2 * 6 * batch * width * fused
    return [
        Cost("networks", networks, 2 * 3 * HALF * weights + 2 * 2 * HALF * tokens_seen * width),
        Cost("weight draws", 2 * 12 * weights, 2 * 8 * FLOAT * weights),
        Cost("KL to the prior", 2 * 12 * weights, 2 * 6 * FLOAT * weights),
        Cost("posterior distance", 12 * weights, 8 * FLOAT * weights),
        Cost("feature KL", similarities + projection, 2 * 20 * FLOAT * batch**2 + 2 * 2 * FLOAT * batch * width),
    ]


def shares(costs: list[Cost]) -> dict[str, tuple[float, float]]:
    """Each term's share of all operations and of all bytes."""
    operations, moved = sum(one.operations for one in costs), sum(one.bytes for one in costs)
    return {one.term: (one.operations / operations, one.bytes / moved) for one in costs}
