import math

import pytest
import torch
import torchmetrics.functional.classification as reference
from scipy import stats

from mldiv import metrics
from mldiv.metrics import METRICS, Predictive, disagreement, scores, together


@pytest.fixture(scope="module")
def case():
    stream = torch.Generator().manual_seed(0)
    samples = (2 * torch.randn(5, 400, 7, generator=stream)).softmax(-1)
    labels = torch.randint(7, (400,), generator=stream)
    entropies = -(samples * samples.log()).sum(-1)
    return Predictive(samples.mean(0), entropies.mean(0)), labels, samples


def test_against_torchmetrics(case):
    predictive, labels, _ = case
    probabilities = predictive.probabilities
    got = scores(predictive, labels)
    assert got["accuracy"] == pytest.approx(reference.multiclass_accuracy(probabilities, labels, 7, "micro").item())
    assert got["ece"] == pytest.approx(reference.multiclass_calibration_error(probabilities, labels, 7, 15).item(), abs=1e-6)
    classwise = [
        reference.binary_calibration_error(probabilities[:, c].contiguous(), (labels == c).long(), 15).item() for c in range(7)
    ]
    # torchmetrics compares a class's share with its probability in the same 15 bins
    assert got["classwise_ece"] == pytest.approx(sum(classwise) / 7, abs=1e-6)


def test_against_loops(case):
    predictive, labels, samples = case
    rows, got = predictive.probabilities.double().tolist(), scores(predictive, labels)
    picked = labels.tolist()
    nll = -sum(math.log(row[label]) for row, label in zip(rows, picked, strict=True)) / len(rows)
    brier = sum(sum((p - (c == label)) ** 2 for c, p in enumerate(row)) for row, label in zip(rows, picked, strict=True))
    assert got["nll"] == pytest.approx(nll, rel=1e-5)
    assert got["brier"] == pytest.approx(brier / len(rows), rel=1e-5)
    total = stats.entropy(predictive.probabilities.numpy(), axis=-1)
    expected = stats.entropy(samples.numpy(), axis=-1).mean(0)
    assert got["entropy"] == pytest.approx(total.mean(), rel=1e-5)
    assert got["mutual_information"] == pytest.approx((total - expected).mean(), rel=1e-4)


def test_adaptive_ece_against_a_loop(case):
    predictive, labels, _ = case
    confidence, predicted = predictive.probabilities.max(-1)
    order = sorted(range(400), key=lambda i: confidence[i].item())
    groups = [[i for place, i in enumerate(order) if place * 15 // 400 == b] for b in range(15)]
    gap = sum(abs(sum((predicted[i] == labels[i]).item() - confidence[i].item() for i in group)) for group in groups)
    assert scores(predictive, labels)["adaptive_ece"] == pytest.approx(gap / 400, rel=1e-5)


def test_certain_and_right_scores_perfectly():
    labels = torch.arange(4)
    perfect = Predictive(torch.eye(4), torch.zeros(4))
    got = scores(perfect, labels)
    assert got.pop("accuracy") == 1
    assert all(value == pytest.approx(0, abs=1e-7) for value in got.values())
    assert scores(perfect, labels.flip(0))["accuracy"] == 0
    assert math.isfinite(scores(perfect, labels.flip(0))["nll"])


def test_pair_and_disagreement():
    one = Predictive(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.zeros(2))
    two = Predictive(torch.tensor([[0.3, 0.7], [0.4, 0.6]]), torch.ones(2))
    both = together(one, two)
    torch.testing.assert_close(both.probabilities, torch.tensor([[0.6, 0.4], [0.3, 0.7]]))
    torch.testing.assert_close(both.expected_entropy, torch.tensor([0.5, 0.5]))
    assert disagreement(one, two) == 0.5
    assert metrics.mutual_information(Predictive(both.probabilities, torch.ones(2))).min() == 0


def test_every_metric_is_scored(case):
    predictive, labels, _ = case
    assert set(scores(predictive, labels)) == set(METRICS)
