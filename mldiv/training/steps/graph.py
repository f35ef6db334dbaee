"""A whole step as one CUDA graph: forward, backward, clipping and optimiser in one launch, once it does what they do."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

#: A step of its inputs, which returns what is kept of it, and steps module and optimiser.
Step = Callable[..., Tensor]

#: The factors of the rates in the steps that are tried: a graph that kept the first one's would be found out.
TRIED_RATES = (1.0, 0.5, 0.25)

#: How far the captured steps may lead from where the others led, as a share of the way. Rounding led a bf16 ResNet-20 astray by
#: 0.09 in three steps [tried once, on a processor, batches of 4 to 64]; the first rate kept would by about 0.7 [reckoned].
TOLERANCE = 0.25


class CudaGraph:
    """Torch's CUDA graph: records a run on the device and repeats it, on whatever its tensors hold by then.

    References: https://docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs".
    """

    def __init__(self) -> None:
        self.graph, self.stream = torch.cuda.CUDAGraph(), _stream(torch.cuda.current_device())

    def warm_up(self, run: Callable[[], None]) -> None:
        """Run it on another stream: what the backward pass remembers of the usual one could not be recorded."""
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream):
                run()
        finally:  # what has failed may not be over on the device, and its weights are brought back on the usual stream
            torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, run: Callable[[], Tensor]) -> Tensor:
        """Record a run, without executing it; return the tensor that holds its result after every replay.

        Other threads, such as one that pins memory, may go on meanwhile.
        Where a run fails torch raises what the end of the capture says of it, and stays on the other stream; neither happens.
        """
        with torch.cuda.stream(torch.cuda.current_stream()):
            try:
                with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                    return run()
            except RuntimeError as error:
                raise error.__context__ or error from None

    def replay(self) -> None:
        """Launch it."""
        self.graph.replay()


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """Return the stream of all graphs of a device: cuBLAS keeps up to 32 MiB for every stream it has seen."""
    return torch.cuda.Stream(device)


class NotCaptured(Exception):
    """A step cannot be a graph, or its graph does something else; the message says why."""


class GraphedStep:
    """A captured step, called as the step itself is. Its result holds until the next call."""

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, given: Sequence[Tensor], graph: CudaGraph) -> None:
        self.groups, self.graph = optimizer.param_groups, graph
        self.inputs = [value.clone() for value in given]
        #: The groups' rates as the graph reads them, and as they were last written there.
        self.rates, self.written = torch.zeros(len(self.groups), device=given[0].device), list[float]()
        asked = {"capturable": True} if "capturable" in self.groups[0] else {}  # of Adam, which would refuse to be captured
        own = [{"lr": rate} | asked for rate in self.rates.unbind()]

        def run() -> Tensor:
            with _changed(self.groups, own):
                return step(*self.inputs)

        self.result = graph.capture(run)

    def __call__(self, *given: Tensor) -> Tensor:
        """Make a step with the optimiser's rates as they are now."""
        rates = [group["lr"] for group in self.groups]
        if rates != self.written:
            for own, rate in zip(self.rates.unbind(), rates, strict=True):
                own.fill_(rate)  # a copy from here would wait for the device
            self.written = rates
        for own, value in zip(self.inputs, given, strict=True):
            own.copy_(value)
        self.graph.replay()
        return self.result


def captured(
    step: Step, module: nn.Module, optimizer: torch.optim.Optimizer, tried: Sequence[Sequence[Tensor]],
    make_graph: Callable[[], CudaGraph] = CudaGraph,
) -> GraphedStep:  # fmt: skip
    """Capture a step, after it has been made with each of the inputs ``tried``, and see that the graph does the same.

    Module and optimiser are then as they were, but that the optimiser has a state, of zeros where it had none, with which its
    first step is the same. Both must keep their tensors from now on: values may be copied into them. Who had a graph before
    lets it go first: with it goes what cuBLAS holds for the stream that they share.

    tried: as many as TRIED_RATES; make_graph: of a CudaGraph, or of a stand-in that needs no GPU.

    Raises: NotCaptured, whatever went wrong.
    """
    before, expected = _State(module, optimizer), []
    try:
        graph = make_graph()
        graph.warm_up(lambda: expected.extend(_made(step, module, optimizer, tried)))
        before.restore()
        found = GraphedStep(step, optimizer, tried[0], graph)
        before.restore()
        _check_same(_made(found, module, optimizer, tried), expected, before.weights)
    except NotCaptured:
        raise
    except Exception as error:
        raise NotCaptured(f"{type(error).__name__}: {' '.join(str(error).split()[:40])}") from error
    finally:
        before.restore()
    return found


def _made(step: Step, module: nn.Module, optimizer: torch.optim.Optimizer, tried: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Make the steps; return their results and the weights after them, each as a vector."""
    groups, results = optimizer.param_groups, []
    for factor, given in zip(TRIED_RATES, tried, strict=True):
        with _changed(groups, [{"lr": factor * group["lr"]} for group in groups]):
            results.append(step(*given).flatten().clone())
    return [torch.cat(results), _weights(module)]


def _check_same(found: Sequence[Tensor], expected: Sequence[Tensor], start: Tensor) -> None:
    """Raise NotCaptured where results differ, or weights by more than a little of the way from the ``start``."""
    way, smallest = expected[1] - start, torch.finfo(start.dtype).tiny
    of_results, of_weights = (
        float((own - other).norm() / length.norm().clamp_min(smallest))
        for own, other, length in zip(found, expected, (expected[0], way), strict=True)
    )
    if not (of_results <= TOLERANCE and of_weights <= TOLERANCE):
        raise NotCaptured(
            f"after {len(TRIED_RATES)} steps the graph's results differ by {of_results:.2g} of theirs, and its weights by "
            f"{of_weights:.2g} of the way, from those of the steps themselves"
        )


def _weights(module: nn.Module) -> Tensor:
    return torch.cat([value.detach().float().flatten() for value in module.parameters() if value.requires_grad])


@contextmanager
def _changed(groups: Sequence[dict[str, Any]], values: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Give the optimiser's groups other values meanwhile."""
    before = [{name: group[name] for name in own} for group, own in zip(groups, values, strict=True)]
    for group, own in zip(groups, values, strict=True):
        group.update(own)
    try:
        yield
    finally:
        for group, own in zip(groups, before, strict=True):
            group.update(own)


class _State:
    """What a step changes, to be brought back without moving a tensor."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.weights = optimizer, _weights(module)
        self.values = [(value, value.detach().clone()) for value in (*module.parameters(), *module.buffers())]
        self.moments = {place: value.clone() for place, value in self._moments()}

    def _moments(self) -> list[tuple[tuple[Tensor, str], Tensor]]:
        found = self.optimizer.state.items()
        return [((of, name), value) for of, state in found for name, value in state.items() if isinstance(value, Tensor)]

    @torch.no_grad()
    def restore(self) -> None:
        """Bring it back; the optimiser's state that is new since then is zero."""
        for value, before in self.values:
            value.copy_(before)
        for place, value in self._moments():
            value.copy_(self.moments[place]) if place in self.moments else value.zero_()
        self.optimizer.zero_grad()
