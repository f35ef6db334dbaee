"""Several pairs of one shape as one: weights and buffers stacked, loss terms of all computed together by torch.func.vmap."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from mldiv.method.fusion import Features
from mldiv.method.pair import OF_PAIRS, OF_PEERS, MutualPair, Terms, Weights
from mldiv.training.lanes.operations import LaneOperations


class Part(NamedTuple):
    """Which of a pair's parameters lie one after the other in a stacked vector, with their shapes and numbers of elements."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    sizes: tuple[int, ...]


class StackedPairs:
    """Pairs that differ in numbers alone: an operation is done once for all, a convolution as one with a group for each.

    Until `release`, the pairs' own parameters and buffers are views of the stacked ones, so that each pair can be used as ever
    between two steps.

    parts: names of parameters that are stacked into one vector per lane, in place of which it has the gradient; codes: of each
    pair the code of its stage two: where they differ, stage two's terms are computed apart, those of both stages together.
    """

    def __init__(self, pairs: Sequence[MutualPair], parts: Sequence[Sequence[str]], codes: Sequence[Hashable]) -> None:
        self.pairs, self.codes = tuple(pairs), tuple(codes)
        owned = [dict(pair.named_parameters()) for pair in pairs]
        self.places = _places(pairs[0])
        self.parts = [_part(owned[0], names) for names in parts]
        #: For every part, the lanes' vectors, [lanes, elements].
        self.values = [torch.stack([_flat(own, part) for own in owned]) for part in self.parts]
        buffers = [dict(pair.named_buffers()) for pair in pairs]
        self.buffers = {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]}
        for lane, (own, kept) in enumerate(zip(owned, buffers, strict=True)):
            for part, values in zip(self.parts, self.values, strict=True):
                for name, view in _views(part, values[lane]).items():
                    own[name].data = view
            for name, buffer in kept.items():
                buffer.data = self.buffers[name][lane]
        self.partition = lru_cache(maxsize=8)(self._partition)

    @cached_property
    def weights(self) -> Weights:
        """The factors of every lane's terms, [lanes] each."""
        columns = zip(*(map(float, pair.weights) for pair in self.pairs), strict=True)
        return Weights(*(torch.tensor(column, device=self.values[0].device) for column in columns))

    def release(self) -> None:
        """Give every pair parameters and buffers of its own again, with the values that they have now."""
        for pair in self.pairs:
            for value in (*pair.parameters(), *pair.buffers()):
                value.data = value.data.clone()

    def forward(
        self,
        inputs: Shaped[Tensor, "*lanes batch channels height width"],
        labels: Int[Tensor, "*lanes batch"],
        noise: Sequence[Shaped[Tensor, "lanes *samples weights"]],
        diverse: Sequence[bool],
    ) -> tuple[Float[Tensor, " lanes"], Float[Tensor, "lanes terms"]]:
        """Return every lane's total loss and its terms, as `MutualPair.forward` does.

        inputs, labels: of each lane, or without that dimension the same for all; noise: of each peer; diverse: by lane.
        """
        own, everyone = 0 if labels.dim() == 2 else None, (tuple(range(len(self.pairs))), slice(None))
        total, terms, sigmas, features = self._map(_stage_one, *everyone, (own, own, 0), inputs, labels, list(noise))
        of_peers = [value.detach() for name in OF_PEERS for value in terms[name]]
        of_pairs = total.new_zeros(len(self.pairs), len(OF_PAIRS))
        for lanes, rows, places in self.partition(tuple(diverse)):
            chosen = _rows((sigmas, features), rows), labels if own is None else _rows(labels, rows)
            more, found = self._map(_stage_two, lanes, rows, (0, own), *chosen)
            total = total.index_add(0, places, more)
            zero = torch.zeros_like(more)
            of_pairs[rows] = torch.stack([found.get(name, [zero])[0].detach() for name in OF_PAIRS], -1)
        return total, torch.cat([torch.stack(of_peers, -1), of_pairs, total.detach()[:, None]], -1)

    def _map(
        self, function: Callable[..., Any], lanes: tuple[int, ...], rows: Any, dims: tuple[Any, ...], *arguments: Any
    ) -> Any:
        """Call a function of a pair and ``arguments`` for these lanes; its tensors have these in front."""
        module = _Call(self.pairs[lanes[0]])

        def call(values: list[Tensor], buffers: dict[str, Tensor], weights: Weights, *given: Any) -> Any:
            views = {
                name: view for part, row in zip(self.parts, values, strict=True) for name, view in _views(part, row).items()
            }
            state = {place: view for name, view in views.items() for place in self.places[name]} | buffers
            named = {f"pair.{name}": value for name, value in state.items()}
            return functional_call(module, named, (function, weights, given), tie_weights=False)  # `places` knows all of them

        stacked = _rows((self.values, self.buffers, self.weights), rows)
        with LaneOperations(), sdpa_kernel(SDPBackend.MATH):  # the fusion's: of the others vmap cannot map a CPU's
            return vmap(call, in_dims=(0, 0, 0, *dims))(*stacked, *arguments)

    def _partition(self, diverse: tuple[bool, ...]) -> list[tuple[tuple[int, ...], Any, Tensor]]:
        """The lanes whose stage two has one code, how their rows are chosen (by a slice where possible), and their places."""
        found: dict[Hashable, list[int]] = {}
        for lane, code in enumerate(self.codes):
            if diverse[lane]:
                found.setdefault(code, []).append(lane)
        places = {code: torch.tensor(lanes, device=self.values[0].device) for code, lanes in found.items()}
        return [(tuple(lanes), self._chooser(lanes, places[code]), places[code]) for code, lanes in found.items()]

    def _chooser(self, lanes: list[int], places: Tensor) -> Any:
        if len(lanes) == len(self.pairs):
            return slice(None)
        return slice(lanes[0], lanes[-1] + 1) if lanes[-1] - lanes[0] == len(lanes) - 1 else places


class _Call(nn.Module):
    """A pair whose forward is a function of it, with factors of the terms that are mapped over lanes."""

    def __init__(self, pair: MutualPair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, function: Callable[..., Any], weights: Weights, arguments: Sequence[Any]) -> Any:
        """Call the function while the pair has these factors."""
        before, self.pair.weights = self.pair.weights, Weights(*weights)
        try:
            return function(self.pair, *arguments)
        finally:
            self.pair.weights = before


def _stage_one(pair: MutualPair, *arguments: Any) -> tuple[Tensor, Terms, list[Tensor], list[list[Features]]]:
    terms, sigmas, features = pair.stage_one_terms(*arguments)
    return sum(pair.weighted(terms).values(), start=terms["nll"][0].new_zeros(())), terms, sigmas, features


def _stage_two(pair: MutualPair, made: tuple[list[Tensor], list[list[Features]]], labels: Tensor) -> tuple[Tensor, Terms]:
    terms = pair.diversity_terms(*made, labels)
    return sum(pair.weighted(terms).values(), start=labels.new_zeros((), dtype=torch.float32)), terms


def _places(pair: MutualPair) -> dict[str, list[str]]:
    """By a parameter's first name, where it is: several names where modules share it, one for a module with several names."""
    found: dict[int, list[str]] = {}
    for prefix, module in pair.named_modules():
        for name, value in module.named_parameters(prefix, recurse=False):
            found.setdefault(id(value), []).append(name)
    return {names[0]: names for names in found.values()}


def _part(owned: dict[str, nn.Parameter], names: Sequence[str]) -> Part:
    shapes = tuple(owned[name].shape for name in names)
    return Part(tuple(names), shapes, tuple(shape.numel() for shape in shapes))


def _flat(owned: dict[str, nn.Parameter], part: Part) -> Tensor:
    return torch.cat([owned[name].detach().flatten() for name in part.names])


def _views(part: Part, row: Tensor) -> dict[str, Tensor]:
    """A lane's parameters as views of its vector."""
    rows = row.split(part.sizes) if len(part.sizes) > 1 else [row]
    return {name: each.view(shape) for name, shape, each in zip(part.names, part.shapes, rows, strict=True)}


def _rows(tree: Any, rows: Any) -> Any:
    """Take the lanes' rows of all tensors."""
    return tree if isinstance(rows, slice) and rows == slice(None) else tree_map(lambda value: value[rows], tree)
