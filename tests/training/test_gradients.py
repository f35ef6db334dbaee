"""Gradients measured in training: at the stated points, of what acts, and without a trace in any number."""

import pytest
import torch
from helpers.first_stages import CPU, differing, results, train

from mldiv.evaluation.gradients import Trace, measure
from mldiv.records import checked_files
from mldiv.training.loop import epoch_batches, make_pair
from mldiv.training.worker_cache import dataset

STRONG = {"weighting": "gradient", "alpha": 0.5, "beta": 0.25, "fusion_training": "task"}


def lines(folder, config):
    return list(checked_files.read_lines(folder / config.id / "metrics.jsonl"))


@pytest.mark.parametrize("changes", [{}, STRONG])
def test_measuring_changes_no_number(tiny, tmp_path, changes):
    """`gradient_points` is no part of a trial's identity."""
    config = tiny.replace(**changes)
    for points in (0.0, 2.0):
        train(config.replace(gradient_points=points), tmp_path / str(points))
    plain, measured = (results(tmp_path / str(points) / config.id) for points in (0.0, 2.0))
    for found in (plain, measured):
        del found["config"]["gradient_points"]
        for line in found["lines"]:
            del line["gradients"]
    assert differing(plain, measured) == []


def test_points_lie_where_they_are_said_to(tiny, tmp_path):
    """Two steps an epoch: one point is after the second, two after each; a half lies in every other epoch."""
    for points, expected in ((1.0, [[1.0]] * 4), (2.0, [[0.5, 1.0]] * 4), (0.5, [[], [1.0], [], [1.0]])):
        config = tiny.replace(gradient_points=points)
        train(config, tmp_path / str(points))
        assert [[point["at"] for point in line["gradients"]] for line in lines(tmp_path / str(points), config)] == expected


def test_strengths_are_measured_at_the_switch_and_held(tiny, tmp_path):
    """Right at the switch alpha and beta are shares of the cross-entropy's gradient, on the batches they were measured on."""
    config = tiny.replace(**STRONG)
    record = train(config, tmp_path)
    assert record.switch["param_strength"] > 0 and record.switch["feature_strength"] > 0
    saved = torch.load(tmp_path / config.id / "checkpoint.pt", weights_only=True)["pair"]
    assert float(saved["param_strength"]) == pytest.approx(record.switch["param_strength"])
    assert float(saved["feature_strength"]) == pytest.approx(record.switch["feature_strength"])


def test_terms_of_stage_two_are_measured_as_they_act(tiny):
    """Against the terms' own gradients by backward: weights, strengths and batch norm statistics as in training."""
    config = tiny.replace(alpha=0.7, fusion_training="diversity")
    data = dataset(config)
    pair = make_pair(config, data.shapes)
    pair.set_strengths(torch.tensor(3.0), torch.tensor(1.0))
    batches = list(epoch_batches(config, data, 0, "gradients", CPU))[:2]
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    found = measure(config, pair, batches, epoch=0, diverse=True)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    distance = pair.distance("w2")
    distance.log().backward()
    assert found["param_diversity"]["mean_1"] == pytest.approx(0.7 * 3.0 * float(pair.peers[0].mean.grad.norm()), rel=1e-5)
    assert found["nll"]["mean_2"] > 0 and found["nll"]["fusion"] == 0 and found["feature_diversity"]["fusion"] > 0


def test_a_trace_takes_a_batch_for_every_point(tiny):
    config = tiny.replace(gradient_points=4.0)
    data, asked = dataset(config), []
    pair = make_pair(config, data.shapes)

    def batches():
        asked.append(True)
        return epoch_batches(config, data, 0, "gradients", CPU)

    trace = Trace(config, pair, 0, False, batches)
    assert not asked
    for done in (0.25, 0.3, 0.5, 0.75, 1.0):
        trace(done)
    assert [point["at"] for point in trace.lines()] == [0.25, 0.5, 0.75, 1.0]
    assert len(asked) == 2  # two batches in an epoch of this size
    assert set(trace.lines()[0]["nll"]) == {"mean_1", "mean_2", "rho_1", "rho_2", "fusion"}
