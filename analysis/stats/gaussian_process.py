"""Fit the Gaussian process behind a response surface: noise of repeated trials, hyperparameters from their posterior."""

import warnings
from typing import Any

import numpy as np
from scipy import linalg
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

#: Bounds of the length scales in spans of their axis, of the signal's and the noise's variance in variances of the values.
LENGTHS, SIGNAL, NOISE = (0.1, 10.0), (1e-3, 1e4), (1e-4, 2.0)
#: Steps of the chain over the hyperparameters, how many of them are kept, and the steps' size in log units.
CHAIN_STEPS, KEPT_STEPS, STEP_SIZE = 800, 16, np.array([0.5, 0.25, 0.25, 0.5])


def remove_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float | None, int]:
    """Average each trial as if it had every seed: least squares of value = trial + seed, over the finite entries.

    Without gaps this subtracts each seed's mean over trials; the seeds' average is kept, so the unit's level stays.
    values: [n, seeds], every row with a finite entry. Returns means [n], counts of seeds [n], the residual variance of one
    value (None without degrees of freedom) and its degrees of freedom.

    Raises: ValueError when seeds and trials fall into groups that share nothing, whose levels cannot be told apart.
    """
    rows, seeds = np.nonzero(np.isfinite(values))
    n, width = values.shape
    design = np.zeros((len(rows), n + width))
    design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), n + seeds] = 1
    used = np.unique(seeds)
    design = design[:, np.concatenate([np.arange(n), n + used])]
    observed = values[rows, seeds]
    level = observed.mean()
    effects, _, rank, _ = np.linalg.lstsq(design, observed - level, rcond=None)
    if rank < n + len(used) - 1:
        raise ValueError("some trials share no seed with the others, not even through a third: give each point the same seeds")
    freedom = len(rows) - n - len(used) + 1
    variance = float(np.sum((observed - level - design @ effects) ** 2) / freedom) if freedom > 0 else None
    return level + effects[:n] + effects[n:].mean(), np.bincount(rows, minlength=n), variance, freedom


class _Repeated(WhiteKernel):
    """White noise of the means of unequally many seeds: ``noise_level`` times ``weights`` [n] on the trials' diagonal."""

    def __init__(self, noise_level: float, noise_level_bounds: tuple[float, float], weights: np.ndarray) -> None:
        super().__init__(noise_level, noise_level_bounds)
        self.weights = weights

    def __call__(self, X: np.ndarray, Y: np.ndarray | None = None, eval_gradient: bool = False) -> Any:
        noise = np.diag(self.noise_level * self.weights) if Y is None else np.zeros((len(X), len(Y)))
        return (noise, noise[..., None]) if eval_gradient else noise


def fit_process(x: np.ndarray, y: np.ndarray, counts: np.ndarray, lowest: float) -> GaussianProcessRegressor:
    """Fit the process by its likeliest hyperparameters: variance of the signal, two length scales, variance of the noise.

    x: positions, [n, 2]. y: values, [n], of mean 0 and variance 1. counts: seeds behind each y, [n]. lowest: bound on the
    noise's variance of a trial with the most seeds.
    """
    spans = np.ptp(x, axis=0)
    noise = max(NOISE[0], lowest), max(NOISE[1], 4 * lowest)
    kernel = ConstantKernel(1.0, SIGNAL) * Matern(0.4 * spans, np.outer(spans, LENGTHS), nu=2.5)
    kernel += _Repeated(max(0.1, 2 * lowest), noise, counts.max() / counts)
    model = GaussianProcessRegressor(kernel, n_restarts_optimizer=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of values at a bound: the chain starts there and leaves it
        return model.fit(x, y)


def chain(model: GaussianProcessRegressor, generator: np.random.Generator) -> np.ndarray:
    """Draw log hyperparameters, [16, 4], from their posterior: a Metropolis walk from the likeliest."""
    low, high = model.kernel_.bounds.T
    theta, level, kept = model.kernel_.theta.copy(), model.log_marginal_likelihood_value_, []
    for step in range(CHAIN_STEPS):
        proposal = theta + STEP_SIZE * generator.standard_normal(len(theta))
        if ((low <= proposal) & (proposal <= high)).all():
            proposed = model.log_marginal_likelihood(proposal, clone_kernel=False)
            if np.log(generator.random()) < proposed - level:
                theta, level = proposal, proposed
        if (step + 1) % (CHAIN_STEPS // KEPT_STEPS) == 0:
            kept.append(theta)
    return np.array(kept)


def posterior(
    model: GaussianProcessRegressor, theta: np.ndarray, where: np.ndarray, draws: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [m] of f at ``where`` [m, 2], and joint draws [draws, m], in standardised units.

    theta: log hyperparameters, a row of what `chain` draws.

    Raises: numpy.linalg.LinAlgError when the covariance is not positive, even with jitter.
    """
    kernel = model.kernel_.clone_with_theta(theta)
    latent = kernel.k1
    factor = linalg.cho_factor(kernel(model.X_train_) + model.alpha * np.eye(len(model.X_train_)), lower=True)
    cross = latent(where, model.X_train_)
    mean = cross @ linalg.cho_solve(factor, model.y_train_)
    half = linalg.solve_triangular(factor[0], cross.T, lower=True)
    covariance = latent(where) - half.T @ half
    root = _cholesky(covariance)
    return mean, mean + generator.standard_normal((draws, len(where))) @ root.T


def _cholesky(covariance: np.ndarray) -> np.ndarray:
    """Return the lower Cholesky factor, with the least of a few jitters (shares of the largest variance) that allows it."""
    size = np.diag(covariance).max()
    for jitter in (1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5):
        try:
            return np.linalg.cholesky(covariance + jitter * size * np.eye(len(covariance)))
        except np.linalg.LinAlgError:
            continue
    raise np.linalg.LinAlgError("the posterior's covariance is not positive, even with jitter")
