"""How a cost grows with a size, and what the terms of a step would cost, on paper, in a large vision transformer."""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from analysis.stats.statistics import LEVEL

#: Weights, tokens per image at 224 pixels (256 patches and a class token), width and layers: ViT-Huge/14 (Dosovitskiy et al.,
#: ICLR 2021, table 1).
VIT_HUGE = {"weights": 632e6, "tokens": 257, "width": 1280, "layers": 32}
#: Bytes of a number in float32; in bf16, of weights in use.
FLOAT, HALF = 4, 2
#: Bytes that a transformer layer keeps for the backward pass, per token and unit of width, in 16 bits and without the attention
#: matrices (Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, MLSys 2023).
ACTIVATIONS = 34


@dataclass(frozen=True)
class Growth:
    """value = overhead + factor * size^exponent: the exponent with its 95 % interval, R² of the logs, number of sizes.

    The interval is None for as many parameters as sizes, a fixed exponent, or an overhead that the data do not tell apart.
    """

    exponent: float
    interval: tuple[float, float] | None
    factor: float
    r_squared: float
    n: int
    overhead: float = 0.0

    def at(self, size: float) -> float:
        return self.overhead + self.factor * size**self.exponent


def fit_power(size: np.ndarray, value: np.ndarray) -> Growth:
    """Least squares of log value on log size, both [n] and positive.

    The interval takes the logs' residuals as independent and normal. Where a constant cost dominates the small sizes, the
    exponent over all sizes is too small: fit the larger ones (see `upper`).

    Raises: ValueError for fewer than two different sizes, or values that are not positive.
    """
    size, value = _checked(size, value, 2)
    line = stats.linregress(np.log(size), np.log(value))
    interval = None
    if len(size) > 2:
        half = float(stats.t.ppf(1 - LEVEL / 2, len(size) - 2) * line.stderr)
        interval = float(line.slope) - half, float(line.slope) + half
    return Growth(float(line.slope), interval, float(np.exp(line.intercept)), float(line.rvalue**2), len(size))


def fit_power_with_overhead(size: np.ndarray, value: np.ndarray, exponent: float | None = None) -> Growth:
    r"""The same with a constant cost that dominates small sizes; ``exponent`` fixes it where the formula is known.

    .. math:: \log v_i = \log(o + c\, s_i^e) + \epsilon_i, \quad o \ge 0

    Least squares over log c, e (in 0 to 4) and o. The interval is the t interval of the linearised problem; it holds 0.95 only
    where the sizes reach from mostly overhead to mostly growth. size, value: [n], positive.

    Raises: ValueError for fewer than four different sizes (three with a fixed exponent), or values that are not positive.
    """
    size, value = _checked(size, value, 4 if exponent is None else 3)
    relative, logs = np.log(size / size.max()), np.log(value)

    def logarithm(parameters: np.ndarray) -> np.ndarray:
        power = exponent if exponent is not None else parameters[2]
        return np.log(parameters[0] * value.min() + np.exp(parameters[1] + power * relative))

    free = 2 if exponent is not None else 3
    low, start, high = (0, -np.inf, 0), (0.5, logs.max(), 1.0), (np.inf, np.inf, 4)
    bounds, starts = (low[:free], high[:free]), [(one, *start[1:free]) for one in (0.01, 0.5, 0.9)]
    fits = [
        optimize.least_squares(lambda p: logarithm(p) - logs, one, bounds=bounds, x_scale="jac", xtol=1e-12) for one in starts
    ]
    best = min(fits, key=lambda one: one.cost)
    rest, freedom, interval = 2 * best.cost, len(size) - free, None
    power = float(best.x[2]) if exponent is None else exponent
    normal = best.jac.T @ best.jac
    if exponent is None and freedom > 0 and np.linalg.cond(normal) < 1e12 and best.x[0] > 1e-6:
        half = float(stats.t.ppf(1 - LEVEL / 2, freedom) * np.sqrt(np.linalg.inv(normal)[2, 2] * rest / freedom))
        interval = power - half, power + half
    spread = np.sum((logs - logs.mean()) ** 2)
    factor, explained = float(np.exp(best.x[1] - power * np.log(size.max()))), float(1 - rest / spread) if spread else 0.0
    return Growth(power, interval, factor, explained, len(size), float(best.x[0] * value.min()))


def _checked(size: np.ndarray, value: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    size, value = np.asarray(size, float), np.asarray(value, float)
    if len(np.unique(size)) < least or not ((size > 0).all() and (value > 0).all()):
        words = {2: "two", 3: "three", 4: "four"}[least]
        raise ValueError(f"a power law needs {words} different positive sizes and positive values, got {len(size)}")
    return size, value


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
    layers: float = VIT_HUGE["layers"], fused: int = 64,
) -> list[Cost]:  # fmt: skip
    """What each term of a step of two peers takes, forward and backward, before the optimiser.

    Networks: 6 operations per weight and token (2 forward, 4 backward; Kaplan et al., Scaling Laws for Neural Language Models,
    2020), 12 for both peers; weights are read twice and their gradients written in bf16, a layer's ACTIVATIONS written once
    and read once. Passes over a peer's vectors, in float32 and as few as can be (one kernel forward, one backward, gradients
    added to what is there); in numbers per weight:
    draw mu + sigma eps with softplus: writes eps, reads mu, rho, eps, writes w; reads eps, rho, w's gradient, adds to 2: 12.
    KL to the prior: reads mu, sigma; reads both, adds to 2: 8.
    distance ||mu_1 - mu_2||² + ||sigma_1 - sigma_2||² of both peers together: reads 4; reads 4, adds to 4: 16.
    Feature KL: similarities 2 B² d forward and twice that backward per peer with the fused width d, about 20 elementwise
    operations on B² numbers, and the projection of one pooled token per image. batch: images; fused: d.
    """
    tokens_seen = batch * tokens
    networks = 12 * weights * tokens_seen
    similarities = 2 * 3 * 2 * batch**2 * fused + 2 * 20 * batch**2
    projection = 2 * 6 * batch * width * fused
    return [
        Cost("networks", networks, 2 * 3 * HALF * weights + 2 * 2 * ACTIVATIONS * layers * tokens_seen * width),
        Cost("weight draws", 2 * 12 * weights, 2 * 12 * FLOAT * weights),
        Cost("KL to the prior", 2 * 12 * weights, 2 * 8 * FLOAT * weights),
        Cost("posterior distance", 16 * weights, 16 * FLOAT * weights),
        Cost("feature KL", similarities + projection, 2 * 20 * FLOAT * batch**2 + 2 * 2 * FLOAT * batch * width),
    ]


def shares(costs: list[Cost]) -> dict[str, tuple[float, float]]:
    """Each term's share of all operations and of all bytes."""
    operations, moved = sum(one.operations for one in costs), sum(one.bytes for one in costs)
    return {one.term: (one.operations / operations, one.bytes / moved) for one in costs}
