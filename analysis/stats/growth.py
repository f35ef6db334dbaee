"""Fit how a cost grows with a size, and count what a step's terms would cost, on paper, in a large vision transformer."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from analysis.stats.statistics import LEVEL

#: Weights, tokens per image at 224 pixels (256 patches and a class token), width and layers: ViT-Huge/14 (Dosovitskiy et al.,
#: ICLR 2021, table 1).
WEIGHTS, TOKENS, WIDTH, LAYERS = 632e6, 257, 1280, 32
#: Width of the fused features.
FUSED = 64
#: Bytes of a number in float32; in bf16, of weights in use.
FLOAT32_BYTES, BF16_BYTES = 4, 2
#: Bytes that a transformer layer keeps for the backward pass, per token and unit of width, in 16 bits and without the attention
#: matrices (Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, MLSys 2023).
ACTIVATION_BYTES = 34
#: Fewest points in the larger half of the sizes.
LEAST_SIZES = 3


@dataclass(frozen=True)
class Growth:
    """A fitted power law with its exponent's 95 % interval and the number of sizes: overhead + factor * size^exponent.

    The interval is None for as many parameters as sizes, or an overhead that the data do not tell apart.
    """

    exponent: float
    interval: tuple[float, float] | None
    factor: float
    n: int
    overhead: float = 0.0

    def at(self, size: float) -> float:
        """Return the fitted value at a size."""
        return self.overhead + self.factor * size**self.exponent


def fit_power(size: np.ndarray, value: np.ndarray) -> Growth:
    """Fit value = factor * size^exponent by least squares of the logs; size, value: [n], positive.

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
    return Growth(float(line.slope), interval, float(np.exp(line.intercept)), len(size))


def fit_power_with_overhead(size: np.ndarray, value: np.ndarray) -> Growth:
    r"""Fit the same with a constant cost that dominates small sizes; size, value: [n], positive.

    .. math:: \log v_i = \log(o + c\, s_i^e) + \epsilon_i, \quad o \ge 0

    Least squares over o, log c and e (in 0 to 4). The interval is the t interval of the linearised problem; it holds 0.95 only
    where the sizes reach from mostly overhead to mostly growth.

    Raises: ValueError for fewer than four different sizes, or values that are not positive.
    """
    size, value = _checked(size, value, 4)
    relative, logs = np.log(size / size.max()), np.log(value)

    def residuals(parameters: np.ndarray) -> np.ndarray:
        overhead, log_factor, exponent = parameters
        return np.log(overhead * value.min() + np.exp(log_factor + exponent * relative)) - logs

    bounds = (0, -np.inf, 0), (np.inf, np.inf, 4)
    fits = [
        optimize.least_squares(residuals, (overhead, logs.max(), 1.0), bounds=bounds, x_scale="jac", xtol=1e-12)
        for overhead in (0.01, 0.5, 0.9)
    ]
    best = min(fits, key=lambda fit: fit.cost)
    overhead, log_factor, exponent = map(float, best.x)
    freedom, interval = len(size) - 3, None
    normal = best.jac.T @ best.jac
    if freedom > 0 and np.linalg.cond(normal) < 1e12 and overhead > 1e-6:
        half = float(stats.t.ppf(1 - LEVEL / 2, freedom) * np.sqrt(np.linalg.inv(normal)[2, 2] * 2 * best.cost / freedom))
        interval = exponent - half, exponent + half
    factor = float(np.exp(log_factor - exponent * np.log(size.max())))
    return Growth(exponent, interval, factor, len(size), float(overhead * value.min()))


def _checked(size: np.ndarray, value: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    size, value = np.asarray(size, float), np.asarray(value, float)
    if len(np.unique(size)) < least or not ((size > 0).all() and (value > 0).all()):
        words = {2: "two", 4: "four"}[least]
        raise ValueError(f"a power law needs {words} different positive sizes and positive values, got {len(size)}")
    return size, value


def upper(size: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the larger half of the sizes (at least three), where a constant cost counts least; both sorted by size."""
    order = np.argsort(size, kind="stable")
    kept = order[min(len(order) // 2, max(0, len(order) - LEAST_SIZES)) :]
    return np.asarray(size, float)[kept], np.asarray(value, float)[kept]


def on_paper(batch: int) -> pd.DataFrame:
    """Count the operations and bytes moved of each term of a step of two ViT-Huge, forward and backward, before the optimiser.

    Networks: 6 operations per weight and token (2 forward, 4 backward; Kaplan et al., Scaling Laws for Neural Language Models,
    2020), 12 for both peers; weights are read twice and their gradients written in bf16, a layer's activations written once
    and read once. Passes over a peer's vectors, in float32 and as few as can be (one kernel forward, one backward, gradients
    added to what is there); in numbers per weight:
    draw mu + sigma eps with softplus: writes eps, reads mu, rho, eps, writes w; reads eps, rho, w's gradient, adds to 2: 12.
    KL to the prior: reads mu, sigma; reads both, adds to 2: 8.
    distance ||mu_1 - mu_2||² + ||sigma_1 - sigma_2||² of both peers together: reads 4; reads 4, adds to 4: 16.
    Feature KL: similarities 2 B² d forward and twice that backward per peer with the fused width d, about 20 elementwise
    operations on B² numbers, and the projection of one pooled token per image. batch: images.
    """
    tokens = batch * TOKENS
    networks = 12 * WEIGHTS * tokens
    similarities = 2 * 3 * 2 * batch**2 * FUSED + 2 * 20 * batch**2
    projection = 2 * 6 * batch * WIDTH * FUSED
    float32, bf16 = FLOAT32_BYTES, BF16_BYTES
    costs = {
        "networks": (networks, 2 * 3 * bf16 * WEIGHTS + 2 * 2 * ACTIVATION_BYTES * LAYERS * tokens * WIDTH),
        "weight draws": (2 * 12 * WEIGHTS, 2 * 12 * float32 * WEIGHTS),
        "KL to the prior": (2 * 12 * WEIGHTS, 2 * 8 * float32 * WEIGHTS),
        "posterior distance": (16 * WEIGHTS, 16 * float32 * WEIGHTS),
        "feature KL": (similarities + projection, 2 * 20 * float32 * batch**2 + 2 * 2 * float32 * batch * WIDTH),
    }
    return pd.DataFrame.from_dict(costs, orient="index", columns=["operations", "bytes"], dtype=float)
