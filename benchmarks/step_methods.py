"""The steps that `on_gpu.py` times, each made when its turn comes: the pair's, the deterministic pair's, rivals', lanes."""

import importlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rivals import RIVALS, missing
from step import work
from timing import Operations, seconds
from torch import Tensor, nn

from mldiv.config import TrialConfig
from mldiv.datasets.splits import Shapes
from mldiv.evaluation.predictive import layout, precision
from mldiv.method.pair import MutualPair
from mldiv.seeding import generator
from mldiv.training.loop import let_fusion_learn, make_optimizer, make_pair, network, train_step
from mldiv.training.steps import choice
from mldiv.training.steps.graph import TRIED_RATES, captured

EAGER, GRAPH, COMPILED = "eager", "graph", "compiled graph"
STAGES = {"stage one": False, "stage two": True}
SHAPES = Shapes(classes=100, channels=3, train_images=45_000)
#: Steps after which one is timed; at most so many between two looks at the clock.
WARM_UP, MOST_STEPS = 3, 500


class Absent(Exception):
    """A method that this version has not."""


@dataclass
class Built:
    """A step; the pairs that it steps at once; what counts its work, of one that is neither graph nor compiled."""

    step: Callable[[], Any]
    pairs: int = 1
    counted: bool = False

    def count(self) -> dict[str, float]:
        """Operations of a step, arithmetic, and the bytes that it moves at least (`step.work`)."""
        if not self.counted:
            return {}
        with Operations() as operations:
            self.step()
        flops, moved = work(self.step)
        return {"operations": operations.total(), "flops": flops, "bytes": moved}


def batch(base: TrialConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels of noise."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(base.batch_size, SHAPES.channels, 32, 32, generator=stream).to(device)
    labels = torch.randint(SHAPES.classes, (base.batch_size,), generator=stream).to(device)
    return images.contiguous(memory_format=layout(base)), labels


def methods(base: TrialConfig, device: torch.device) -> dict[str, Callable[[], Built]]:
    """Every method by its name, in the order of the table."""
    found: dict[str, Callable[[], Built]] = {}
    for how in (EAGER, GRAPH):
        found[f"deterministic pair, {how}"] = partial(deterministic, base, device, how)
    for stage, diverse in STAGES.items():
        for how in (EAGER, GRAPH, COMPILED):
            found[f"mldiv {stage}, {how}"] = partial(pair, base, device, diverse, how)
    absent = missing()
    for name in RIVALS:
        if name.split()[0] not in absent:
            for how in (EAGER, GRAPH):
                found[f"{name}, {how}"] = partial(rival, base, device, name, how)
    return found


def deterministic(base: TrialConfig, device: torch.device, how: str) -> Built:
    """Two networks without noise, with cross-entropy, stepped by one optimiser."""
    images, labels = batch(base, device)
    modules = nn.ModuleList(network(base, SHAPES, f"peer {number}") for number in (1, 2)).to(device)
    modules.to(memory_format=layout(base))
    optimizer = torch.optim.SGD(modules.parameters(), lr=1e-3, momentum=base.momentum, fused=True)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        with precision(base, device):
            loss = torch.stack([nn.functional.cross_entropy(module(images)[0].float(), labels) for module in modules]).sum()
        loss.backward()
        for module in modules:
            nn.utils.clip_grad_norm_(module.parameters(), base.clip_norm)
        optimizer.step()
        return loss.detach()

    if how == EAGER:
        return Built(partial(step, images, labels), counted=True)
    return Built(
        partial(captured(step, modules, optimizer, [(images, labels)] * len(TRIED_RATES), choice.CudaGraph), images, labels)
    )


def made(base: TrialConfig, device: torch.device, diverse: bool) -> tuple[MutualPair, torch.optim.Optimizer]:
    """A pair as a stage of a trial has it, with a small rate."""
    found = make_pair(base, SHAPES, device)
    let_fusion_learn(base, found, diverse)
    found.set_scales(torch.tensor(0.01, device=device))
    optimizer = make_optimizer(base, found)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    return found.train(), optimizer


def pair(base: TrialConfig, device: torch.device, diverse: bool, how: str) -> Built:
    """The pair, with noise drawn and inputs copied as `train_epoch` has it."""
    images, labels = batch(base, device)
    found, optimizer = made(base, device, diverse)
    if how == COMPILED:
        found.compile()
    streams = [generator(base.seed, f"weights {number}", 0, device) for number in range(len(found.peers))]

    def step(images: Tensor, labels: Tensor, *noise: Tensor) -> Tensor:
        return train_step(base, found, found, optimizer, images, labels, noise, diverse)

    if how == EAGER:
        return Built(lambda: step(images, labels, *found.draw_noise(streams)), counted=True)
    tried = [(images, labels, *found.draw_noise(streams)) for _ in TRIED_RATES]
    graph = captured(step, found, optimizer, tried, choice.CudaGraph)
    return Built(lambda: graph(images, labels, *found.draw_noise(streams)))


def rival(base: TrialConfig, device: torch.device, name: str, how: str) -> Built:
    """Another library's pair."""
    step = RIVALS[name](base, *batch(base, device))
    return Built(step, counted=True) if how == EAGER else Built(replayed(step, device))


def replayed(step: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    """A step without inputs as a graph."""
    graph = choice.CudaGraph()
    graph.warm_up(lambda: [step() for _ in range(WARM_UP)] and None)

    def once() -> Tensor:
        step()
        return torch.zeros((), device=device)

    graph.capture(once)
    return graph.replay


def lanes(base: TrialConfig, device: torch.device, counts: Sequence[int]) -> dict[str, Callable[[], Built]]:
    """Pairs that are stepped together, by how many; each says so where this version has none."""
    return {
        f"{count} lanes, {stage}, {how}": partial(in_lanes, base, device, count, diverse, how)
        for count in counts
        for stage, diverse in STAGES.items()
        for how in (EAGER, GRAPH)
    }


def in_lanes(base: TrialConfig, device: torch.device, count: int, diverse: bool, how: str) -> Built:
    """So many seeds, each with its own noise, on the same images."""
    try:
        stepped: Any = importlib.import_module("mldiv.training.lanes.step").LaneStep
    except ImportError:
        raise Absent("not in this version") from None
    images, labels = batch(base, device)
    configs = [base.replace(seed=seed, compile="off") for seed in range(count)]
    pairs, optimizers = zip(*(made(config, device, diverse) for config in configs), strict=True)
    together = stepped(configs, pairs, optimizers)
    shape = count, pairs[0].peers[0].mean.numel()
    noise = [torch.empty(shape, device=device) for _ in pairs[0].peers]

    def step() -> Tensor:
        return together.step(images, labels, noise, diverse)

    once = step if how == EAGER else replayed(step, device)

    def drawn() -> None:
        for own in noise:
            own.normal_()
        once()

    return Built(drawn, pairs=count, counted=how == EAGER)


def seconds_of(step: Callable[[], Any], device: torch.device, *, rounds: int, least: float) -> float:
    """The median over rounds of a step's mean seconds; a round takes the ``least`` seconds or more."""
    for _ in range(WARM_UP):
        step()
    usual = max(seconds(step), 1e-6)
    steps = min(MOST_STEPS, max(1, math.ceil(least / usual)))

    def round_of_steps() -> None:
        for _ in range(steps):
            step()

    return statistics.median(seconds(round_of_steps) / steps for _ in range(rounds))


def machine_peaks(device: torch.device, tiny: bool) -> dict[str, float]:
    """What arithmetic and memory give here at best: bf16 products of large matrices, copies of a large vector."""
    size, count = (256, 2**20) if tiny else (8192, 2**28)
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    first = torch.empty(count, device=device)
    second = torch.zeros_like(first)
    product, copy = (
        seconds_of(step, device, rounds=5, least=0.05) for step in (lambda: left @ right, lambda: second.copy_(first))
    )
    found = {"tflops": 2 * size**3 / product / 1e12, "gbs": 2 * first.nbytes / copy / 1e9}
    return {name: float(f"{value:.4g}") for name, value in found.items()}  # never 0, by which a busy machine's was divided
