"""What of a GPU is set and recorded, and the checks that only one can fail: here with a stand-in for its graphs."""

import pytest
import torch

from benchmarks.device_checks import CHECKS, same_as_eager, without_graphs
from mldiv.environment import numerics
from mldiv.training import first_stage
from mldiv.training.steps import graph
from mldiv.training.steps.graph import GraphedStep

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
#: Those that need no training: the others are in the long run, and test_step_graph.py sees much of what they see.
SHORT = {"evaluation in large batches", "nothing is read within an epoch", "two ranks on one GPU", "lanes"}


@pytest.fixture
def switches(monkeypatch):
    """Torch's own, brought back afterwards."""
    for owner, name in ((torch.backends.cudnn, "benchmark"), (torch.backends.cudnn, "allow_tf32")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92000)
    monkeypatch.setattr(numerics, "driver", lambda: "580.1")


def test_switches_are_set_and_recorded_on_a_gpu_alone(switches):
    numerics.prepare(CPU)
    assert not torch.backends.cudnn.benchmark and numerics.described(CPU) == {"processor": numerics.processor()}
    numerics.prepare(CUDA)
    known = numerics.described(CUDA)
    assert torch.backends.cudnn.benchmark and known["cudnn_benchmark"] and (known["cudnn"], known["driver"]) == (92000, "580.1")
    assert torch.backends.cudnn.conv.fp32_precision == "tf32" and torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_another_driver_or_cudnn_is_another_first_stage(switches, tiny_data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    found = [first_stage.environment_id(tiny_data, CUDA)]
    monkeypatch.setattr(numerics, "driver", lambda: "580.2")
    found.append(first_stage.environment_id(tiny_data, CUDA))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92001)
    found.append(first_stage.environment_id(tiny_data, CUDA))
    assert len(set(found)) == 3


@pytest.mark.parametrize(("says", "version"), [("echo 580.159.04", "580.159.04"), ("exit 9", "unknown"), ("echo", "unknown")])
def test_the_driver_says_its_version(says, version, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    numerics.driver.cache_clear()
    assert numerics.driver() == version
    numerics.driver.cache_clear()


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.slow) for name in CHECKS])
def test_checks_of_a_gpu_pass_on_a_processor(name, tmp_path, monkeypatch):
    if name.startswith("compiled"):
        monkeypatch.setattr("mldiv.method.pair.MutualPair.compile", lambda pair: None)
    with without_graphs():
        assert CHECKS[name](CPU, tmp_path)


@pytest.mark.slow
def test_steps_that_round_otherwise_are_the_same_and_those_that_keep_their_noise_are_not(tmp_path, monkeypatch):
    """As on a GPU, whose fused optimiser computes with the rates in double precision, but in a graph with float32's."""
    call, kept = GraphedStep.__call__, []

    def rounded(made, images, labels, *noise):
        for value in (value for group in made.groups for value in group["params"]):
            value.data.mul_(1 + torch.finfo(torch.float32).eps * torch.randint(-1, 2, value.shape))
        return call(made, images, labels, *noise)

    def same_noise(made, images, labels, *noise):
        kept.append(noise)
        return call(made, images, labels, *kept[0])

    with without_graphs():
        monkeypatch.setattr(GraphedStep, "__call__", rounded)
        assert "of the way apart" in same_as_eager(CPU, tmp_path)
        monkeypatch.setattr(GraphedStep, "__call__", same_noise)
        monkeypatch.setattr(graph, "TOLERANCE", 1.0)
        with pytest.raises(AssertionError, match="of the way apart"):
            same_as_eager(CPU, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_checks_of_a_gpu(name, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    assert CHECKS[name](CUDA, tmp_path)
