"""Recalibration against scikit-learn, and predictives bent by known weights and biases."""

import pytest
import torch
from scipy.special import log_softmax
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression

from mldiv.evaluation import temperature_scaling
from mldiv.evaluation.metrics import Predictive, ece, nll
from mldiv.evaluation.recalibration import RECALIBRATORS, isotonic, vector
from mldiv.records.contents import at_bound


def drawn(images=4000, classes=4, seed=0):
    """Calibrated probabilities, and labels drawn from them."""
    stream = torch.Generator().manual_seed(seed)
    probabilities = (1.5 * torch.randn(images, classes, generator=stream, dtype=torch.double)).softmax(-1)
    return probabilities, torch.multinomial(probabilities, 1, generator=stream).squeeze(1)


def loss(probabilities, labels):
    return nll(Predictive(probabilities, torch.zeros(len(labels))), labels).item()


@pytest.mark.parametrize("name", RECALIBRATORS)
def test_every_one_gives_rows_of_probabilities_better_on_the_data_it_was_fitted_to(name):
    probabilities, labels = drawn()
    sharpened = temperature_scaling.scale(probabilities, 0.4).float()
    found = RECALIBRATORS[name](sharpened, labels)(sharpened)
    assert found.dtype == torch.double and found.min() > 0
    torch.testing.assert_close(found.sum(-1), torch.ones(len(labels), dtype=torch.double))
    assert loss(found, labels) < loss(sharpened, labels) - 0.1
    scores = [ece(Predictive(each, torch.zeros(len(labels))), labels).item() for each in (found, sharpened)]
    assert scores[0] < 0.25 * scores[1]
    with pytest.raises(ValueError, match="no validation images"):
        RECALIBRATORS[name](torch.empty(0, 3), torch.empty(0, dtype=torch.long))


def test_the_vector_is_found_again_and_the_temperature_is_a_case_of_it():
    probabilities, labels = drawn(20_000)
    bent = (probabilities.log() * 2 + torch.tensor([0, 1, 0, -1])).softmax(-1)
    found = vector(bent, labels)(bent)
    assert loss(found, labels) == pytest.approx(loss(probabilities, labels), abs=2e-3)
    scaled = temperature_scaling.scale(bent, temperature_scaling.fit_temperature(bent, labels))
    assert loss(found, labels) < loss(scaled, labels)
    binary, truth = drawn(3000, classes=2)
    difference = (binary[:, 1].log() - binary[:, 0].log())[:, None].numpy()
    model = LogisticRegression(C=1e8).fit(difference, truth)  # of two classes, weights (1, 1) apart only by their mean
    theirs = -log_softmax(model.predict_log_proba(difference), -1)[range(3000), truth].mean()
    assert loss(vector(binary, truth)(binary), truth) <= theirs + 1e-6


@pytest.mark.parametrize("name", RECALIBRATORS)
def test_soft_labels_are_what_many_hard_ones_come_to(name):
    """Shares in quarters are four images of one prediction, each with a label of its own."""
    stream = torch.Generator().manual_seed(0)
    probabilities, _ = drawn(60)
    labels = torch.randint(4, (60, 4), generator=stream)
    shares = torch.nn.functional.one_hot(labels, 4).double().mean(1)
    soft, hard = RECALIBRATORS[name](probabilities, shares), RECALIBRATORS[name](probabilities.repeat(4, 1), labels.T.flatten())
    found, expected = soft(probabilities), hard(probabilities)
    if name == "isotonic":  # of four times as many images a quarter of the even one is mixed in
        found, expected = ((found * 61 - 0.25) / 60, (expected * 241 - 0.25) / 240)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_vector_is_never_worse_on_validation_data_and_stays_finite(seed):
    probabilities, labels = drawn(6, seed=seed)
    for given in (probabilities, torch.eye(4, dtype=torch.double)[labels]):
        found = vector(given, labels)(given)
        assert found.isfinite().all() and loss(found, labels) <= loss(given, labels) + 1e-12
    right = torch.eye(4)
    torch.testing.assert_close(vector(right, torch.arange(4))(right).float(), right)


def test_the_steps_are_scikit_learns_mixed_with_one_even_image():
    probabilities, labels = drawn(50)
    expected = torch.empty_like(probabilities)
    for index in range(4):
        order = probabilities[:, index].argsort()
        rising = isotonic_regression((labels == index)[order].double().numpy(), y_min=0, y_max=1)
        expected[order, index] = torch.from_numpy(rising)
    assert (expected.sum(-1) > 0).all() and (expected == 0).any()
    expected = (50 * expected / expected.sum(-1, keepdim=True) + 0.25) / 51
    torch.testing.assert_close(isotonic(probabilities, labels)(probabilities), expected)


def test_a_row_without_a_step_stays_what_it_was():
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.1, 0.3, 0.6]], dtype=torch.double)
    fitted = isotonic(probabilities, torch.arange(3))
    given = torch.tensor([[0.3, 0.3, 0.3]], dtype=torch.double) / 0.9
    row = torch.tensor([[0.29, 0.29, 0.05]], dtype=torch.double)
    assert fitted(given).min() > 0
    torch.testing.assert_close(fitted(row), (3 * row / row.sum() + 1 / 3) / 4)


@pytest.mark.parametrize(
    ("temperature", "bound"), [(0.05, True), (0.0504, True), (0.051, False), (1.0, False), (19.7, False), (19.9, True)]
)
def test_a_temperature_at_its_bound(temperature, bound):
    assert at_bound(temperature) == bound
    certain = torch.eye(4)
    assert at_bound(temperature_scaling.fit_temperature(certain, torch.tensor([1, 2, 3, 0])))
