"""Cross-attention over a network's block features: one vector per image, whose neighbourhoods the peers compare."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Features = tuple[Tensor, ...]

#: What checkpoints of mldiv up to 0.5.0 call the modules of `PeerFusion`.
OLD_NAMES = {"first": "peer_1", "second": "peer_2"}


class _Pool(torch.autograd.Function):
    """Mean over space in float32, whose gradient is never written out in full: every position has the same."""

    @staticmethod
    def forward(context: Any, feature: Tensor) -> Tensor:
        context.like = feature.shape, feature.dtype
        positions = tuple(range(2, feature.dim()))
        return feature.sum(positions, dtype=torch.float32) / feature[0, 0].numel()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        shape, dtype = context.like
        share = (gradients[0] / math.prod(shape[2:])).to(dtype)
        return share.view(*shape[:2], *(1 for _ in shape[2:])).expand(shape)


def pool(feature: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels"]:
    """Average a block's feature map over space, in float32 whatever the precision of the network; a vector stays as it is."""
    return _Pool.apply(feature) if feature.dim() > 2 else feature.float()


class CrossAttention(nn.Module):
    """Attention from the deepest block to all blocks: one query, as many keys and values as blocks.

    chosen: the paper says cross-attention over the features of several blocks and no more. Each block's feature map is
    averaged over space to one token, projected to ``dim`` and given the block's learned embedding; tokens at every position
    would cost as many times more as there are positions. The answer is added to the query and normalised.
    Shapes: features, each [batch, channels_l, height_l, width_l]; result [batch, dim], float32.
    """

    def __init__(self, channels: tuple[int, ...], dim: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.ModuleList(nn.Linear(count, dim) for count in channels)
        self.block = nn.Parameter(0.02 * torch.randn(len(channels), dim))
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Features) -> Float[Tensor, "batch dim"]:
        """Fuse the feature maps of a network's blocks."""
        tokens = (
            torch.stack([project(pool(feature)) for project, feature in zip(self.project, features, strict=True)], 1)
            + self.block
        )
        last = tokens[:, -1:]
        query = self._heads(self.query(last))
        key, value = (self._heads(part) for part in self.key_value(tokens).chunk(2, -1))
        answer = functional.scaled_dot_product_attention(query, key, value)
        answer = answer.transpose(1, 2).flatten(2)
        return self.norm(last + self.out(answer)).squeeze(1)

    def _heads(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch heads tokens part"]:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PeerFusion(nn.Module):
    """The fusion of each peer: several may have the same module."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        #: In the order of the peers' numbers; by name they are peer_1, peer_2 and so on.
        self.of_peers = tuple(modules)
        for number, module in enumerate(modules, 1):
            self.add_module(f"peer_{number}", module)
        self.register_load_state_dict_pre_hook(_rename)

    def forward(self, features: Sequence[Features]) -> list[Tensor]:
        """Fuse every peer's features, each [batch, channels, ...] a block, to a vector per image, [batch, dim]."""
        return [module(blocks) for module, blocks in zip(self.of_peers, features, strict=True)]


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *given: Any) -> None:
    """Give the modules of a checkpoint of mldiv up to 0.5.0 their names."""
    for name in list(state):
        first, _, rest = name.removeprefix(prefix).partition(".")
        if first in OLD_NAMES:
            state[f"{prefix}{OLD_NAMES[first]}.{rest}"] = state.pop(name)


def _seeded(channels: tuple[int, ...], dim: int, heads: int, seed: int) -> CrossAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CrossAttention(channels, dim, heads)


def shared(channels: tuple[int, ...], dim: int = 64, heads: int = 4, seed: int = 0, peers: int = 2) -> PeerFusion:
    """Make one trained module for all peers.

    Trained by a term that is maximised, it can kill that term (all vectors parallel) or inflate it with the networks
    unchanged: watch the feature KL and the disagreement side by side.
    """
    return PeerFusion([_seeded(channels, dim, heads, seed)] * peers)


def per_peer(channels: tuple[int, ...], dim: int = 64, heads: int = 4, seed: int = 0, peers: int = 2) -> PeerFusion:
    """Make a trained module for each peer: they can differ without the networks doing so."""
    return PeerFusion([_seeded(channels, dim, heads, seed + place) for place in range(peers)])


def frozen(channels: tuple[int, ...], dim: int = 64, heads: int = 4, seed: int = 0, peers: int = 2) -> PeerFusion:
    """Make one random module for all, never trained: only the networks can change the feature KL."""
    return shared(channels, dim, heads, seed, peers).requires_grad_(False)


#: How the peers' features are fused [chosen: the paper is silent]: (channels, dim, heads, seed, peers) -> PeerFusion.
FUSIONS: dict[str, Callable[[tuple[int, ...], int, int, int, int], PeerFusion]] = {
    "shared": shared,
    "per_peer": per_peer,
    "frozen": frozen,
}
