"""Times and memory of a step: every size has its line; the counts of bytes are right."""

import torch

from mldiv.training import step_cost
from mldiv.training.step_cost import measure_all, measure_step

CPU = torch.device("cpu")


def test_a_line_says_everything_of_a_size(tiny):
    first, second = measure_all([tiny, tiny.replace(width=0.5, batch_size=64)])
    assert (first["arch"], first["width"], first["batch_size"]) == ("resnet8", 0.25, 32) and second["batch_size"] == 64
    assert set(first["seconds"]) == {"stage_1", "stage_2", "kl_to_prior", "logit_mutual", "param_distance", "feature_kl"}
    assert all(value > 0 for value in first["seconds"].values())
    assert 3 < second["weights"] / first["weights"] < 4.1
    assert first["bytes"]["stage_2"] > first["bytes"]["stage_1"] > 0


def test_state_is_counted_by_hand(tiny):
    line = measure_step(tiny, CPU)
    pair, *_ = step_cost._pair(tiny, CPU)
    numbers = sum(value.numel() for value in pair.parameters())
    buffers = sum(value.numel() * value.element_size() for value in pair.buffers())
    assert line["bytes"]["state"] == 3 * 4 * numbers + buffers
    assert numbers > 4 * line["weights"]  # means and rhos of two peers, and what is no Bayesian weight


def test_what_is_kept_for_backward_is_counted_by_storage():
    a, b = torch.ones(1000, requires_grad=True), torch.ones(1000, requires_grad=True)
    with step_cost._kept() as kept:
        product = a * b
        (product * a[:10].sum()).sum().backward()
    # a (kept twice, counted once), b, the product, and the sum
    assert sum(kept.values()) == 3 * 4000 + 4


def test_bytes_grow_with_the_batch_and_the_similarities_with_its_square(tiny):
    lines = [measure_step(tiny.replace(batch_size=size), CPU)["bytes"] for size in (32, 64, 128)]
    added = [line["stage_2"] - line["stage_1"] for line in lines]
    more = [line["stage_1"] for line in lines]
    assert 1.95 < (more[2] - more[1]) / (more[1] - more[0]) < 2.05  # linear, beside what the weights take
    assert added[2] - added[1] > 2.5 * (added[1] - added[0])
