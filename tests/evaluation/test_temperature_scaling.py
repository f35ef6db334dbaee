"""Temperature scaling, against a fine grid and predictives sharpened by a known factor."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from mldiv.evaluation.metrics import Predictive, accuracy, nll
from mldiv.evaluation.temperature_scaling import fit_temperature, scale


def drawn(images=20_000, classes=6, seed=0, samples=1):
    """Probabilities, a mean of softmaxes, and labels drawn from them: calibrated, and so best at temperature 1."""
    stream = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=stream) + torch.randn(samples, images, classes, generator=stream)
    probabilities = logits.softmax(-1).mean(0)
    return probabilities, torch.multinomial(probabilities, 1, generator=stream).squeeze(1)


def loss(probabilities, labels):
    return nll(Predictive(probabilities, torch.zeros(len(labels))), labels).item()


def test_scale_is_the_softmax_of_the_divided_logarithms():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    for temperature in (0.3, 1.0, 2.5):
        expected = softmax(logits.double().numpy() / temperature, -1)
        torch.testing.assert_close(scale(logits.softmax(-1), temperature), torch.from_numpy(expected), rtol=1e-5, atol=1e-7)
    probabilities, _ = drawn(50, samples=5)
    torch.testing.assert_close(scale(probabilities, 1.0), probabilities.double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("factor", [0.2, 0.7, 3.0])
def test_against_a_fine_grid(factor):
    probabilities, labels = drawn(300, samples=4)
    sharpened = scale(probabilities, factor).float()
    grid = torch.logspace(math.log10(0.05), math.log10(20), 4001, dtype=torch.double)
    logs = sharpened.double().log().numpy()
    rows = range(len(labels))
    values = [-log_softmax(logs / temperature, -1)[rows, labels.numpy()].mean() for temperature in grid.tolist()]
    found = fit_temperature(sharpened, labels)
    assert found == pytest.approx(grid[int(torch.tensor(values).argmin())].item(), rel=2e-3)
    assert loss(scale(sharpened, found), labels) <= min(values) + 1e-9


def test_soft_labels_against_a_fine_grid():
    """Where labels are the very probabilities that were sharpened, the factor comes back without any noise."""
    probabilities, _ = drawn(300, samples=4)
    shares, sharpened = scale(probabilities, 2.0), scale(probabilities, 0.5)
    assert fit_temperature(sharpened, shares) == pytest.approx(4, rel=1e-4)
    mixed = torch.distributions.Dirichlet(torch.full((6,), 0.5)).sample((300,))
    grid, logs = np.geomspace(0.05, 20, 4001), sharpened.log().numpy()
    values = [-(mixed.numpy() * log_softmax(logs / temperature, -1)).sum(-1).mean() for temperature in grid]
    assert fit_temperature(sharpened, mixed) == pytest.approx(grid[np.argmin(values)], rel=2e-3)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 2.0, 5.0])
def test_a_known_factor_is_recovered(factor):
    probabilities, labels = drawn()
    sharpened = scale(probabilities, factor).float()
    assert fit_temperature(sharpened, labels) == pytest.approx(1 / factor, rel=0.03)
    torch.testing.assert_close(scale(sharpened, 1 / factor).float(), probabilities, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_never_worse_on_validation_data_and_the_classes_keep_their_order(seed):
    probabilities, labels = drawn(40, seed=seed, samples=3)
    if seed % 2:
        labels = torch.randint(6, labels.shape, generator=torch.Generator().manual_seed(seed))
    temperature = fit_temperature(probabilities, labels)
    scaled = scale(probabilities, temperature)
    assert 0.05 <= temperature <= 20 and temperature != 1
    assert loss(scaled, labels) < loss(probabilities, labels)
    assert torch.equal(scaled.argsort(stable=True), probabilities.argsort(stable=True))
    before, after = (accuracy(Predictive(each, torch.zeros(40)), labels) for each in (probabilities, scaled))
    assert before == after
    assert temperature == fit_temperature(probabilities, labels)


def test_close_classes_stay_apart_at_the_highest_temperature():
    probabilities = torch.tensor([[0.4, 0.4 + 3e-8, 0.2], [0.5 + 6e-8, 0.5, 1e-9]])
    assert torch.equal(probabilities.argmax(-1), torch.tensor([1, 0]))
    assert torch.equal(scale(probabilities, 20.0).argmax(-1), torch.tensor([1, 0]))


def test_all_right():
    labels = torch.arange(4)
    certain = torch.eye(4)
    assert fit_temperature(certain, labels) == 1  # the loss is 0 at 1 already
    for probabilities in (certain, 0.8 * certain + 0.05):
        temperature = fit_temperature(probabilities, labels)
        scaled = scale(probabilities, temperature)
        assert scaled.isfinite().all() and loss(scaled, labels) == pytest.approx(0, abs=1e-6)
    assert 0.05 <= fit_temperature(0.8 * certain + 0.05, labels) < 0.2


def test_certain_and_wrong():
    """Zeros count as the smallest normal number: the loss is finite and more doubt is better."""
    probabilities = torch.eye(3)
    assert fit_temperature(probabilities, torch.tensor([1, 2, 0])) == pytest.approx(20, rel=1e-3)
    assert scale(probabilities, 20.0).isfinite().all()


def test_without_images():
    with pytest.raises(ValueError, match="no validation images"):
        fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.long))
