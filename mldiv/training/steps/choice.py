"""How a trial's steps are computed: one operation after the other, compiled, or as one CUDA graph; on a GPU the fastest."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice

import torch
from torch import Tensor, nn

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData
from mldiv.evaluation import predictive
from mldiv.method.pair import MutualPair
from mldiv.seeding import generator
from mldiv.training import loop
from mldiv.training.steps.graph import TRIED_RATES, CudaGraph, NotCaptured, Step, captured

#: Steps that are timed, after as many that warm up as are tried with a graph.
TIMED_STEPS = 20

#: How long the steps of a trial must take in all, in seconds, before compiling them, which takes a minute or two, is tried.
COMPILING_PAYS_SECONDS = 600.0


def stage_step(
    config: TrialConfig, pair: MutualPair, optimizer: torch.optim.Optimizer, data: ImageData, diverse: bool,
    device: torch.device, how: str,
) -> tuple[loop.PairStep, str | None]:  # fmt: skip
    """Return the step of a stage, gradients averaged over ranks; and why it is no CUDA graph although ``how`` asks for one.

    how: off, graph, or on, where the pair is compiled already. The fusion must have its gradients as the stage wants them.
    """
    step = partial(loop.train_step, config, loop.over_ranks(pair, device), pair, optimizer)

    def whole(images: Tensor, labels: Tensor, *noise: Tensor) -> Tensor:
        return step(images, labels, noise, diverse)

    def inputs() -> Iterator[tuple[Tensor, ...]]:
        stream = generator(config.seed, "graph", 0, device)
        for batch in loop.epoch_batches(config, data, 0, "graph", device):
            yield *batch, *pair.draw_noise([stream] * len(pair.peers))

    pair.train()
    made, why = graphed(how, whole, pair, optimizer, inputs, device)
    return (step, why) if made is whole else (lambda images, labels, noise, diverse: made(images, labels, *noise), None)


def graphed(
    how: str, step: Step, module: nn.Module, optimizer: torch.optim.Optimizer,
    inputs: Callable[[], Iterator[Sequence[Tensor]]], device: torch.device,
) -> tuple[Step, str | None]:  # fmt: skip
    """Return the step as a CUDA graph, or as it is, with the reason unless none is asked for: on a processor only by graph.

    how: a choice of `compile`; inputs: makes an iterator over what the graph is tried with.
    """
    why = impossible(device)
    if how == "off" or (why and (how == "auto" or (how == "on" and device.type != "cuda"))):
        return step, None
    if why is None:
        try:
            return captured(step, module, optimizer, list(islice(cycle(inputs()), len(TRIED_RATES))), CudaGraph), None
        except NotCaptured as error:
            why = str(error)
    return step, f"steps are no CUDA graphs: {why}"


def impossible(device: torch.device) -> str | None:
    """Say why a step cannot be a CUDA graph; None where it may be."""
    if device.type != "cuda":
        return "there are none on a processor"
    return "ranks exchange gradients within a step" if distributed.size() > 1 else None


def named(how: str, why: str | None) -> str:
    """Say how steps are computed on a GPU, for a trial's record; why: they are no graph, if they are none."""
    compiled = "compiled" if how == "on" else ""
    return compiled or "eager" if why or how == "off" else f"{compiled} graph".strip()


def compile_steps(config: TrialConfig, pair: MutualPair, data: ImageData, device: torch.device) -> str | None:
    """Compile both stages of a pair that is to be compiled by a step of each; if that fails, undo it and return why."""
    torch._dynamo.config.recompile_limit = 256  # one for each combination of STAGE_TWO, in one long-lived process
    torch._dynamo.config.suppress_errors = False
    try:
        for diverse in (False, True):
            _try_step(config, pair, data, diverse, device)
    except Exception as error:
        pair._compiled_call_impl = None
        reason = " ".join(str(error).split()[:40])
        return f"steps are not compiled: {type(error).__name__}: {reason}"
    torch._dynamo.config.suppress_errors = True  # should compiling once more fail in mid-trial, that frame runs as it is
    return None


def _try_step(config: TrialConfig, pair: MutualPair, data: ImageData, diverse: bool, device: torch.device) -> None:
    images, labels = next(loop.epoch_batches(config, data, 0, "compile", device))
    noise = pair.draw_noise()
    loop.let_fusion_learn(config, pair, diverse and config.fusion_training != "switch")
    with warnings.catch_warnings(), predictive.precision(config, device):
        warnings.simplefilter("ignore")
        loss, _ = pair(images, labels, noise, diverse)
    loss.backward()


def fastest(
    config: TrialConfig, data: ImageData, device: torch.device, pairs: Mapping[str, Callable[[], MutualPair | str]]
) -> tuple[str, str]:
    """Time the steps of a trial on a GPU; return how they take least, and a sentence with the milliseconds of each.

    pairs: by how steps are computed, in the order of trying, what makes a pair for it or says why there is none.
    """
    seconds: dict[str, float] = {}
    said = []
    for how, make in pairs.items():
        took = min(seconds.values(), default=float("inf")) * config.epochs * loop.steps_per_epoch(config, data)
        if how == "on" and took < COMPILING_PAYS_SECONDS:
            said.append(f"{how} not tried in a trial of {took / 60:.0f} min")
            continue
        found = _seconds(config, pair, data, device, how) if not isinstance(pair := make(), str) else pair
        if isinstance(found, str):
            said.append(f"{how} failed ({found})")
        else:
            seconds[how] = found
            said.append(f"{how} {1000 * found:.2f} ms")
    best = min(seconds, key=lambda how: seconds[how])
    return best, f"compile = auto is {best!r} here, by the time of a step: {', '.join(said)}"


def _seconds(config: TrialConfig, pair: MutualPair, data: ImageData, device: torch.device, how: str) -> float | str:
    """Measure the mean time of a step over a trial's epochs, or say why there is none."""
    second = config.epochs - config.first_stage if config.diverse else 0
    total = 0.0
    for diverse, epochs in ((False, config.epochs - second), (True, second)):
        if not epochs:
            continue
        loop.let_fusion_learn(config, pair, diverse and config.fusion_training != "switch")
        step = None  # the old graph goes first
        step, why = stage_step(config, pair, loop.make_optimizer(config, pair), data, diverse, device, how)
        if why is not None:
            return why
        images, labels = next(loop.epoch_batches(config, data, 0, "graph", device))
        noise = pair.draw_noise()
        for number in range(len(TRIED_RATES) + TIMED_STEPS):
            if number == len(TRIED_RATES):
                torch.cuda.synchronize()
                began = time.perf_counter()
            step(images, labels, noise, diverse)
        torch.cuda.synchronize()
        total += epochs / config.epochs * (time.perf_counter() - began) / TIMED_STEPS
    return total
