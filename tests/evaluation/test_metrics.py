import itertools
import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference
from scipy import special, stats

from mldiv.evaluation import metrics
from mldiv.evaluation.detection import aurc, auroc
from mldiv.evaluation.metrics import (
    METRICS,
    Predictive,
    detection_scores,
    disagreement,
    mutual_information_parts,
    scores,
    together,
    uncertainty_scores,
)


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


def test_soft_labels_against_loops(case):
    """The expected score of a label that is drawn by its shares (Brier less what no prediction can change); numpy alone."""
    predictive, _, _ = case
    rows = predictive.probabilities.double().numpy()
    shares = np.random.default_rng(0).dirichlet(np.full(7, 0.3), len(rows))
    got = scores(predictive, torch.from_numpy(shares).float())
    nll = np.mean([sum(q * -math.log(p) for q, p in zip(*pair, strict=True)) for pair in zip(shares, rows, strict=True)])
    drawn = [sum(q * np.square(p - np.eye(7)[c]).sum() for c, q in enumerate(own)) for own, p in zip(shares, rows, strict=True)]
    assert got["nll"] == pytest.approx(nll, rel=1e-5) and nll > stats.entropy(shares, axis=1).mean()
    assert got["brier"] == pytest.approx(np.mean(drawn) - (1 - np.square(shares).sum(1)).mean(), rel=1e-5)
    hard = scores(predictive, torch.from_numpy(shares.argmax(1)))
    assert {name for name in METRICS if got[name] != hard[name]} == {"nll", "brier"}
    assert uncertainty_scores(predictive, torch.from_numpy(shares).float()) == uncertainty_scores(
        predictive, torch.from_numpy(shares.argmax(1))
    )


def test_certain_soft_labels_are_hard_ones(case):
    predictive, labels, _ = case
    assert scores(predictive, torch.eye(7)[labels]) == pytest.approx(scores(predictive, labels), rel=1e-6)


def test_the_parts_of_the_mutual_information():
    """Against scipy, from samples of three networks: within and between them, which add up to that of all samples together."""
    samples = (2 * torch.randn(3, 5, 40, 7, generator=torch.Generator().manual_seed(1), dtype=torch.double)).softmax(-1)
    entropies = torch.tensor(stats.entropy(samples.numpy(), axis=-1))
    peers = [Predictive(own.mean(0), entropy.mean(0)) for own, entropy in zip(samples, entropies, strict=True)]
    found = mutual_information_parts(*peers)
    own = stats.entropy(samples.mean(1).numpy(), axis=-1)
    assert found["within"] == pytest.approx((own - entropies.mean(1).numpy()).mean())
    total = stats.entropy(samples.mean((0, 1)).numpy(), axis=-1)
    assert found["between"] == pytest.approx((total - own.mean(0)).mean())
    assert found["mutual_information"] == pytest.approx((total - entropies.mean((0, 1)).numpy()).mean())
    assert found["mutual_information"] == pytest.approx(scores(together(*peers), torch.zeros(40).long())["mutual_information"])
    assert found["within"] > 0.1 and found["between"] > 0.01


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
    names = ("nll", "brier", "ece", "adaptive_ece", "classwise_ece", "entropy", "mutual_information")
    assert list(scores(perfect, labels, names).values()) == pytest.approx([0] * 7, abs=1e-7)
    assert scores(perfect, labels, ("accuracy",)) == {"accuracy": 1}
    assert scores(perfect, labels.flip(0))["accuracy"] == 0
    assert math.isfinite(scores(perfect, labels.flip(0))["nll"])


def test_pair_and_disagreement():
    first = Predictive(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.zeros(2))
    second = Predictive(torch.tensor([[0.3, 0.7], [0.4, 0.6]]), torch.ones(2))
    both = together(first, second)
    torch.testing.assert_close(both.probabilities, torch.tensor([[0.6, 0.4], [0.3, 0.7]]))
    torch.testing.assert_close(both.expected_entropy, torch.tensor([0.5, 0.5]))
    assert disagreement(first, second) == 0.5
    assert metrics.mutual_information(Predictive(both.probabilities, torch.ones(2))).min() == 0


def test_every_metric_is_scored(case):
    predictive, labels, _ = case
    assert set(scores(predictive, labels)) == set(METRICS)


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_auroc_against_pairs_and_torchmetrics(levels):
    """The share of pairs in which the positive's score is the larger one, ties half; from many ties to almost none."""
    stream = torch.Generator().manual_seed(levels)
    positive, negative = (
        torch.randint(levels, (count,), generator=stream) / levels + shift for count, shift in ((30, 0.2), (50, 0))
    )
    if levels < 1000:
        positive = positive - 0.2
    pairs = [(p > n) + (p == n) / 2 for p in positive.tolist() for n in negative.tolist()]
    assert auroc(positive, negative) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    truth = torch.cat([torch.ones(30), torch.zeros(50)]).long()
    expected = reference.binary_auroc(torch.cat([positive, negative]).double(), truth).item()
    assert auroc(positive, negative) == pytest.approx(expected, abs=1e-6)


def test_auroc_of_perfect_chance_and_nothing():
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4, 0.5])
    assert auroc(high, low) == 1 and auroc(low, high) == 0 and auroc(low, low) == 0.5
    assert math.isnan(auroc(low, torch.empty(0))) and math.isnan(auroc(torch.empty(0), low))
    assert math.isnan(auroc(low, torch.tensor([math.nan])))
    assert auroc(torch.tensor([0.9, 0.6]), torch.tensor([0.1, 0.7, 0.2])) == pytest.approx(5 / 6)


def slow_aurc(order, wrong):
    return sum(sum(wrong[i] for i in order[:k]) / k for k in range(1, len(order) + 1)) / len(order)


def test_aurc_against_a_loop():
    stream = np.random.default_rng(0)
    uncertainty, wrong = stream.random(200), stream.random(200) < 0.3
    expected = slow_aurc(np.argsort(uncertainty), wrong)
    assert aurc(torch.from_numpy(uncertainty), torch.from_numpy(wrong)) == pytest.approx(expected, rel=1e-9)
    assert aurc(torch.from_numpy(-uncertainty), torch.from_numpy(wrong)) == pytest.approx(
        slow_aurc(np.argsort(-uncertainty), wrong), rel=1e-9
    )


def test_aurc_counts_ties_in_the_mean_over_all_orders():
    uncertainty = [0.3, 0.1, 0.3, 0.2, 0.3, 0.1]
    wrong = [True, False, False, True, False, True]
    orders = [order for order in itertools.permutations(range(6)) if sorted(uncertainty) == [uncertainty[i] for i in order]]
    expected = np.mean([slow_aurc(order, wrong) for order in orders])
    assert len(orders) == 12 and len({slow_aurc(order, wrong) for order in orders}) > 1
    for shuffled in (range(6), (5, 3, 1, 0, 2, 4)):
        got = aurc(torch.tensor([uncertainty[i] for i in shuffled]), torch.tensor([wrong[i] for i in shuffled]))
        assert got == pytest.approx(expected, rel=1e-12)


def test_aurc_of_perfect_useless_and_nothing():
    wrong = torch.tensor([False] * 6 + [True] * 2)
    assert aurc(torch.arange(8.0), wrong) == pytest.approx((1 / 7 + 2 / 8) / 8)
    assert aurc(torch.zeros(8), wrong) == pytest.approx(2 / 8)
    assert aurc(torch.arange(8.0), torch.zeros(8, dtype=torch.bool)) == 0
    assert math.isnan(aurc(torch.empty(0), torch.empty(0, dtype=torch.bool)))
    assert math.isnan(aurc(torch.full((8,), math.nan), wrong))


def test_uncertainty_scores(case):
    """Each from its own measure; wrong predictions and the other data's images are the positives."""
    test, labels, samples = case
    wrong = test.probabilities.argmax(-1) != labels
    other_samples = (0.5 * torch.randn(5, 30, 7, generator=torch.Generator().manual_seed(1))).softmax(-1)
    other = Predictive(other_samples.mean(0), torch.from_numpy(stats.entropy(other_samples.numpy(), axis=-1).mean(0)))
    got = uncertainty_scores(test, labels, other)
    total = torch.from_numpy(stats.entropy(test.probabilities.double().numpy(), axis=-1))
    within = torch.from_numpy(stats.entropy(samples.double().numpy(), axis=-1).mean(0))
    for name, uncertainty, others in (
        ("entropy", total, metrics.entropy(other.probabilities)),
        ("mutual_information", total - within, metrics.entropy(other.probabilities) - other.expected_entropy),
    ):
        everything, truth = torch.cat([others, uncertainty]), torch.cat([torch.ones(30), torch.zeros(400)]).long()
        assert got[f"error_auroc_{name}"] == pytest.approx(reference.binary_auroc(uncertainty, wrong.long()).item(), abs=1e-4)
        assert got[f"ood_auroc_{name}"] == pytest.approx(reference.binary_auroc(everything, truth).item(), abs=1e-4)
        assert got[f"aurc_{name}"] == pytest.approx(slow_aurc(uncertainty.argsort().tolist(), wrong.tolist()), abs=1e-4)
    assert got["error_auroc_entropy"] != got["error_auroc_mutual_information"]


def test_uncertainty_scores_without_errors_or_other_data():
    labels = torch.arange(4)
    got = uncertainty_scores(Predictive(torch.eye(4), torch.zeros(4)), labels)
    undefined = {f"{what}_auroc_{name}" for what in ("error", "ood") for name in ("entropy", "mutual_information")}
    assert {name for name, value in got.items() if value is None} == undefined
    assert got["aurc_entropy"] == got["aurc_mutual_information"] == got["augrc_entropy"] == 0 and len(got) == 8


def test_detection_scores_of_every_measure():
    """The measures from the logits of every sample, by scipy; and without logits there is no score of them."""
    stream = torch.Generator().manual_seed(3)
    logits = [2 * torch.randn(5, 60, 7, generator=stream), torch.randn(5, 40, 7, generator=stream)]
    given, expected = [], []
    for own in logits:
        p, z = special.softmax(own.numpy(), -1), own.numpy()
        inside = stats.entropy(p, axis=-1).mean(0)
        parts = p.mean(0), inside, special.logsumexp(z, -1).mean(0), z.max(-1).mean(0)
        given.append(Predictive(*map(torch.from_numpy, parts)))
        total = stats.entropy(p.mean(0), axis=-1)
        expected.append((total, total - inside, -parts[2], -parts[3], -p.mean(0).max(-1)))
    test, other = given
    got = detection_scores(test, other)
    truth = torch.cat([torch.ones(40), torch.zeros(60)]).long()
    for name, known, others in zip(metrics.UNCERTAINTIES, *expected, strict=True):
        scores = torch.from_numpy(np.concatenate([others, known])).double()
        assert got[f"auroc_{name}"] == pytest.approx(reference.binary_auroc(scores.sigmoid(), truth).item(), abs=1e-5)
        assert got[f"aupr_{name}"] == pytest.approx(
            reference.binary_average_precision(scores.sigmoid(), truth).item(), abs=1e-5
        )
        assert got[f"fpr95_{name}"] == pytest.approx(np.mean(known >= np.sort(others)[2]))
    assert len(got) == 15 and len({got[f"auroc_{name}"] for name in metrics.UNCERTAINTIES}) == 5
    assert together(test, test)[2].equal(test.log_partition)
    without = together(test, Predictive(*test[:2]))
    assert without.log_partition is without.largest_logit is None
    lacking = {name for name, value in detection_scores(without, other).items() if value is None}
    assert lacking == {f"{score}_{name}" for score in ("auroc", "aupr", "fpr95") for name in ("energy", "largest_logit")}
