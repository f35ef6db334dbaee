"""Detection scores against torchmetrics and loops, ties included."""

import itertools
import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference

from mldiv.evaluation.detection import augrc, aupr, auroc, fpr95


def drawn(levels):
    """Scores of 30 positives and 50 negatives, from many ties to almost none."""
    stream = torch.Generator().manual_seed(levels)
    return tuple(
        (levels * torch.rand(count, generator=stream)).floor() / levels + shift for count, shift in ((30, 0.25), (50, 0))
    )


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_average_precision_both_ways_round(levels):
    positive, negative = drawn(levels)
    for first, second in ((positive, negative), (-negative, -positive)):
        truth = torch.cat([torch.ones(len(first)), torch.zeros(len(second))]).long()
        scores = torch.cat([first, second]).double()
        expected = reference.binary_average_precision((scores + 1) / 3, truth).item()  # within [0, 1]: not taken for logits
        assert aupr(first, second) == pytest.approx(expected, abs=1e-6)
    ranks = sorted(positive.tolist() + negative.tolist(), reverse=True)
    steps = [sum(p >= at for p in positive.tolist()) / sum(value >= at for value in ranks) for at in positive.tolist()]
    assert aupr(positive, negative) == pytest.approx(np.mean(steps))


@pytest.mark.parametrize("levels", [1, 4, 1000])
@pytest.mark.parametrize("count", [30, 20, 1])
def test_fpr95_against_every_threshold(levels, count):
    """The fewest negatives found by a threshold that finds 95 % of the positives."""
    positive, negative = (values.tolist() for values in drawn(levels))
    positive = positive[:count]
    rates = [
        sum(n >= at for n in negative) / 50
        for at in positive + negative
        if 100 * sum(p >= at for p in positive) >= 95 * len(positive)
    ]
    assert fpr95(torch.tensor(positive), torch.tensor(negative)) == pytest.approx(min(rates))


def test_perfect_chance_and_nothing():
    low, high, none = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4, 0.5]), torch.empty(0)
    assert aupr(high, low) == 1 and fpr95(high, low) == 0 and fpr95(low, high) == 1 and fpr95(low[:1], low[:1]) == 1
    assert aupr(torch.ones(2), torch.ones(6)) == 0.25
    for score in (auroc, aupr, fpr95):
        assert all(math.isnan(score(*pair)) for pair in ((low, none), (none, low), (low, low * math.nan)))


def slow_augrc(order, wrong):
    return sum(sum(wrong[i] for i in order[:k]) for k in range(1, len(order) + 1)) / len(order) ** 2


def test_augrc_against_a_loop_and_the_auroc():
    """Also by its definition: chance that of two images, one drawn with the other, one is kept first and wrong."""
    stream = np.random.default_rng(0)
    uncertainty, wrong = stream.random(200), stream.random(200) < 0.3
    values, errors = torch.from_numpy(uncertainty), torch.from_numpy(wrong)
    assert augrc(values, errors) == pytest.approx(slow_augrc(np.argsort(uncertainty), wrong))
    rate = wrong.mean()
    continuous = rate * (1 - rate) * (1 - auroc(values[errors], values[~errors])) + rate**2 / 2
    assert augrc(values, errors) == pytest.approx(continuous + rate / 2 / 200)


def test_augrc_counts_ties_in_the_mean_over_all_orders():
    uncertainty, wrong = [0.3, 0.1, 0.3, 0.2, 0.3, 0.1], [True, False, False, True, False, True]
    orders = [order for order in itertools.permutations(range(6)) if sorted(uncertainty) == [uncertainty[i] for i in order]]
    expected = np.mean([slow_augrc(order, wrong) for order in orders])
    assert augrc(torch.tensor(uncertainty), torch.tensor(wrong)) == pytest.approx(expected)
    assert augrc(torch.arange(4.0), torch.zeros(4).bool()) == 0
    assert math.isnan(augrc(torch.empty(0), torch.empty(0).bool())) and math.isnan(
        augrc(torch.tensor([math.nan]), torch.ones(1).bool())
    )
