"""Times and memory of a step: every size has its line, bytes are counted; what a dry run estimates from such times."""

import pytest
import torch

from mldiv.method.pair import MutualPair
from mldiv.training import step_cost
from mldiv.training.step_cost import Cost, Work, measure_all, measure_step

CPU = torch.device("cpu")


def test_a_line_says_everything_of_a_size(tiny):
    first, second = measure_all([tiny, tiny.replace(width=0.5, batch_size=64)])
    assert (first["arch"], first["width"], first["batch_size"]) == ("resnet8", 0.25, 32) and second["batch_size"] == 64
    assert set(first["seconds"]) == {"stage_1", "stage_2", "kl_to_prior", "logit_mutual", "param_distance", "feature_kl"}
    assert all(value > 0 for value in first["seconds"].values())
    assert 3 < second["weights"] / first["weights"] < 4.1
    assert first["bytes"]["stage_2"] > first["bytes"]["stage_1"] > 0


@pytest.mark.parametrize("peers", [1, 2])
@pytest.mark.parametrize("posterior", ["gaussian", "deterministic"])
def test_what_networks_lack_is_not_timed(tiny, peers, posterior):
    """A network alone has no terms of pairs, one without noise no KL to a prior."""
    config = tiny.replace(peers=peers, posterior=posterior)
    terms = {"logit_mutual", "param_distance", "feature_kl"} if peers > 1 else set()
    terms |= {"kl_to_prior"} if config.bayesian else set()
    assert set(measure_step(config, CPU)["seconds"]) == {"stage_1", "stage_2"} | terms
    assert min(vars(step_cost.measure(config)).values()) > 0


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


def test_an_epochs_seconds_from_its_steps(tiny, monkeypatch):
    """64 images in batches of 32 are 2 steps; timed are 48 validation images with 2 samples.

    At the end 32 test images, as many of another kind and of training, and the validation images, with 3 samples, those once
    more by their means; before that the switch has the gradients of 2 batches.
    """
    # a step of either stage; the lengths of gradients; predictions, a checkpoint, the features' distance
    timed = iter([0.1, 0.3, 5.0, 8.0, 0.7, 0.02])
    monkeypatch.setattr(step_cost, "_seconds", lambda runs, device, rounds, clock: {"run": next(timed)})
    config = tiny.replace(validation_size=48, test_samples=3, gradient_points=0.5, ood="noise", shift_share=0.0)
    cost = step_cost.measure(config)
    epoch_end = 8 + 0.7 + 0.02 + 0.5 * 5
    assert cost.stage_1 == pytest.approx(2 * 0.1 + epoch_end)
    assert cost.stage_2 == pytest.approx(2 * 0.3 + epoch_end)
    assert cost.pretraining == pytest.approx(2 * 0.1 / 2)
    assert cost.test == pytest.approx(8 / (48 * 2) * ((3 * 32 + 48) * 3 + 48) + 2 * 5)


def test_a_plans_seconds_from_its_epochs():
    work = Work(trials=2, first_stage=30, second_stage=400, shared=7, pretraining=5000)
    assert Cost(stage_1=1.0, stage_2=0.1, pretraining=0.01, test=100.0).seconds(work) == 30 + 40 + 50 + 200


def test_the_second_stage_is_timed_with_its_terms(tiny, monkeypatch):
    """What is timed first leaves the fusion alone, what is timed second does not."""
    ran = []
    forward = MutualPair.forward

    def watched(pair, images, labels, noise, diverse):
        ran.append((len(images), diverse))
        return forward(pair, images, labels, noise, diverse)

    monkeypatch.setattr(MutualPair, "forward", watched)
    assert min(vars(step_cost.measure(tiny)).values()) > 0
    assert ran == [(32, False)] * 4 + [(32, True)] * 4
