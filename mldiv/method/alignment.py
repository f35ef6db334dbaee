"""Which channels of a network may change places, and which of them match another network's: hidden units have no names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mldiv.method.losses import TINY
from mldiv.method.posterior import GaussianPosterior

#: How the peers' channels are matched before their weights are compared [chosen: the paper is silent].
ALIGNMENTS = ("none", "weights", "activations")

#: Rounds over all groups after which weight matching ends wherever it stands; a few are enough.
MOST_ROUNDS = 100
#: The least that a round must gain, as a share of the whole: less is rounding.
SMALLEST_GAIN = 1e-6

#: Channel p[i] takes place i.
Permutation = Int[Tensor, "_"]


class Channels(NamedTuple):
    """Channels along an axis of a named tensor: an entry of a network's state, or a module's output."""

    name: str
    axis: int
    places: tuple[int, ...]

    def of(self, tensor: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "channels rest"]:
        """Return the tensor's values by channel."""
        return tensor.movedim(self.axis, 0)[list(self.places)].flatten(1)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that may change places with each other, all their entries at once, without the network's function changing.

    entries: where they lie in the network's state; what is not in a given state is passed over. output: where they can be
    seen, a module's output.
    """

    entries: tuple[Channels, ...]
    output: Channels

    @property
    def size(self) -> int:
        """The number of channels."""
        return len(self.output.places)


def channel_groups(network: nn.Module) -> list[ChannelGroup]:
    """Return what a network declares by its method ``channel_groups``: the one place that says what may be permuted in it.

    Raises: ValueError, naming the network, where it declares nothing.
    """
    declare: Any = getattr(network, "channel_groups", None)
    if declare is None:
        raise ValueError(
            f"{type(network).__name__} declares no channel_groups, which of its channels may change places: "
            "set param_alignment to 'none', or give it that method"
        )
    return declare()


def written(network: nn.Module, layers: Iterable[str], places: Sequence[int], channels: int) -> list[Channels]:
    """Name the entries of layers that put out these of ``channels`` channels: weights, biases, all of a normalisation.

    Layers that the network lacks are passed over: an activation is one where it has parameters.
    """
    found, modules = [], dict(network.named_modules())
    for layer in (layer for layer in layers if layer in modules):
        state = modules[layer].state_dict()  # of a posterior's network it holds no weights
        shapes = {"weight": (channels,), "bias": (channels,)} | {entry: tuple(value.shape) for entry, value in state.items()}
        found += [
            Channels(f"{layer}.{entry}", shape.index(channels), tuple(places))
            for entry, shape in shapes.items()
            if channels in shape
        ]
    return found


def read(layers: Iterable[str], places: Sequence[int]) -> list[Channels]:
    """Name the weights of layers that take in these channels."""
    return [Channels(f"{layer}.weight", 1, tuple(places)) for layer in layers]


def inner_group(network: nn.Module, block: str) -> ChannelGroup:
    """Group the channels between a residual block's two convolutions: conv1, bn1, activation1 and conv2."""
    layer: Any = network.get_submodule(f"{block}.conv1")
    places = range(layer.out_channels)
    writers = [f"{block}.{layer}" for layer in ("conv1", "bn1", "activation1")]
    entries = written(network, writers, places, len(places)) + read([f"{block}.conv2"], places)
    return ChannelGroup(tuple(entries), Channels(f"{block}.bn1", 1, tuple(places)))


def permuted(
    state: Mapping[str, Tensor], groups: Sequence[ChannelGroup], permutations: Sequence[Permutation]
) -> dict[str, Tensor]:
    """Return a network's state, or a part of it, with every group's channels in the order of its permutation."""
    found = dict(state)
    for group, permutation in zip(groups, permutations, strict=True):
        for name, axis, places in group.entries:
            if name in found:
                order = torch.arange(found[name].shape[axis], device=found[name].device)
                old = torch.tensor(places, device=order.device)
                order[old] = old[permutation.to(order.device)]
                found[name] = found[name].index_select(axis, order)
    return found


def flat_order(
    peer: GaussianPosterior, groups: Sequence[ChannelGroup], permutations: Sequence[Permutation]
) -> Int[Tensor, " weights"]:
    """Return the index that puts a posterior's flat vectors into the order of the permutations."""
    moved = permuted(peer.views(torch.arange(peer.mean.numel())), groups, permutations)
    return torch.cat([moved[names[0]].flatten() for names in peer.names])


@torch.no_grad()
def match_weights(groups: Sequence[ChannelGroup], own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[Permutation]:
    r"""Find permutations of the other network's channels that bring its weights near to these.

    .. math:: \max_{P_1, \dots, P_G} \sum_l \langle W_l, P(W'_l) \rangle

    chosen: the paper is silent (`param_alignment`). The same as the least \|W - P(W')\|. One group at a time is an assignment
    problem, solved exactly; so in turn until none gains, which is a local optimum. From the identity, so the distance is never
    larger than without.

    W -> own; W' -> other: weights by name. Returns a permutation for each group, on the CPU.
    References: Ainsworth et al., Git Re-Basin (ICLR 2023), section 3.2.
    """
    found = [torch.arange(group.size) for group in groups]
    least = SMALLEST_GAIN * sum(float(value.norm() * other[name].norm()) for name, value in own.items())
    for _ in range(MOST_ROUNDS):
        gains = [_improve(groups, place, found, own, other) for place in range(len(groups))]
        if sum(gains) <= least:
            break
    return found


def _improve(
    groups: Sequence[ChannelGroup], place: int, found: list[Permutation], own: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> float:
    """Give one group its best permutation with all others held; return what that gains."""
    entries = [entry for entry in groups[place].entries if entry.name in own]
    rest = [*groups[:place], *groups[place + 1 :]]
    moved = permuted({name: other[name] for name, _, _ in entries}, rest, [*found[:place], *found[place + 1 :]])
    alike = torch.stack([entry.of(own[entry.name]) @ entry.of(moved[entry.name]).T for entry in entries]).sum(0).cpu().double()
    best, rows = _assign(alike), torch.arange(groups[place].size)
    gain = float(alike[rows, best].sum() - alike[rows, found[place]].sum())
    if gain > 0:
        found[place] = best
    return max(gain, 0.0)


def _assign(alike: Float[Tensor, "channels channels"]) -> Permutation:
    """Return for each row its column, so that the sum is the largest."""
    from scipy.optimize import linear_sum_assignment  # takes half a second to import

    return torch.from_numpy(np.asarray(linear_sum_assignment(alike.numpy(), maximize=True)[1]))


@torch.no_grad()
def activations(
    peer: GaussianPosterior, inputs: Shaped[Tensor, "batch *shape"], groups: Sequence[ChannelGroup]
) -> list[Float[Tensor, "_ _"]]:
    """Run the mean network; return each group's channels at every input and place, in float32."""
    seen: dict[str, Tensor] = {}
    names = {group.output.name for group in groups}

    def keep(name: str) -> Any:
        return lambda module, given, output: seen.update({name: output.to(torch.float32, copy=True)})  # ReLUs act in place

    hooks = [peer.module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        peer(inputs, weights=peer.mean)
    finally:
        for hook in hooks:
            hook.remove()
    return [group.output.of(seen[group.output.name]) for group in groups]


def moments(of_peers: Sequence[Float[Tensor, "channels seen"]]) -> Float[Tensor, "all all"]:
    """Sum the products of a group's channels over what was seen, of all peers and a constant 1 that stands first.

    Sums of several batches may be added. Shapes: of_peers [channels, seen] each; result [1 + peers channels] squared, float64.
    """
    rows = torch.cat([torch.ones_like(of_peers[0][:1]), *of_peers])
    return (rows @ rows.T).double()


def match_activations(moments: Float[Tensor, "all all"], peers: int) -> list[Permutation]:
    r"""Find for each further peer the permutation of a group's channels that correlate most with the first peer's.

    .. math:: \max_P \sum_i \mathrm{corr}(a_i, a'_{P(i)})

    chosen: the paper is silent (`param_alignment`). moments: of `moments`. Returns a permutation each, on the CPU.
    References: Li et al., Convergent Learning (ICLR 2016); Ainsworth et al., Git Re-Basin (ICLR 2023), section 3.1.
    """
    sums = moments.cpu()
    mean = sums[0, 1:] / sums[0, 0]
    covariance = sums[1:, 1:] / sums[0, 0] - mean.outer(mean)
    std = covariance.diagonal().clamp_min(TINY).sqrt()
    first, *others = (covariance / std.outer(std)).chunk(peers, 1)
    size = first.shape[1]
    return [_assign(block[:size]) for block in others]
