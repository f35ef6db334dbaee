"""Cross-attention over a network's block features: one vector per image, whose neighbourhoods the peers compare."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

Features = tuple[Tensor, ...]

#: What checkpoints of mldiv up to 0.5.0 call the modules of `PeerFusion`.
OLD_NAMES = {"first": "peer_1", "second": "peer_2"}


class _Pool(torch.autograd.Function):
    """Mean over space in float32, whose gradient is never written out in full: every position has the same."""

    generate_vmap_rule = True

    @staticmethod
    def forward(feature: Tensor) -> Tensor:
        return feature.mean(tuple(range(2, feature.dim())), dtype=torch.float32)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        context.like = inputs[0].shape, inputs[0].dtype

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        shape, dtype = context.like
        share = (gradients[0] / math.prod(shape[2:])).to(dtype)
        return share.view(*shape[:2], *(1 for _ in shape[2:])).expand(shape)


def pool(feature: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels"]:
    """Average a block's feature map over space, in float32 whatever the precision of the network; a vector stays as it is."""
    return _Pool.apply(feature) if feature.dim() > 2 else feature.float()


def pool_cells(feature: Float[Tensor, "batch channels *space"], grid: int) -> Float[Tensor, "batch channels cells"]:
    """Average a block's feature map over the cells of a grid of ``grid`` x ``grid``, in float32; tokens in as many parts.

    A vector is in every cell what it is.
    """
    if feature.dim() == 2:
        return feature.float()[..., None].expand(-1, -1, grid**2)
    if feature.dim() == 4:
        return functional.adaptive_avg_pool2d(feature.float(), grid).flatten(2)
    return feature.float() if feature.shape[2] == grid**2 else functional.adaptive_avg_pool1d(feature.float(), grid**2)


class CrossAttention(nn.Module):
    """Attention from the deepest block to all blocks: one query; keys and values are the blocks' averages over space.

    chosen: the paper says cross-attention over the features of several blocks and no more. Each block's feature map is
    averaged over the cells of a ``grid`` x ``grid`` (1: over all of space) to tokens, projected to ``dim`` and given the
    block's learned embedding, and with several cells the cell's. The query is the mean of the deepest block's tokens; the
    answer is added to it and normalised. With ``classes`` there is a linear classifier of the result, ``head``.
    Shapes: features, each [batch, channels_l, height_l, width_l]; result [batch, dim], float32.
    """

    def __init__(self, channels: Sequence[int], dim: int = 64, heads: int = 4, grid: int = 1, classes: int = 0) -> None:
        super().__init__()
        self.heads, self.grid = heads, grid
        self.project = nn.ModuleList(nn.Linear(count, dim) for count in channels)
        self.block = nn.Parameter(0.02 * torch.randn(len(channels), dim))
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.cell = nn.Parameter(0.02 * torch.randn(grid**2, dim)) if grid > 1 else None
        self.head = nn.Linear(dim, classes) if classes else None

    def pool(self, feature: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *cells"]:
        """Average a block's feature map as the attention sees it, in float32. A second time changes nothing."""
        return pool(feature) if self.cell is None else pool_cells(feature, self.grid)

    def forward(self, features: Features) -> Float[Tensor, "batch dim"]:
        """Fuse the feature maps of a network's blocks, or what `pool` made of them.

        Raises: ValueError for another number of them, or of channels, than it was made for.
        """
        found, made = [feature.shape[1] for feature in features], [project.in_features for project in self.project]
        if found != made:
            raise ValueError(f"features of {found} channels, and the fusion was made for {made}")
        parts = zip(self.project, map(self.pool, features), strict=True)
        if self.cell is None:
            tokens = torch.stack([project(feature) for project, feature in parts], 1) + self.block
            last = tokens[:, -1:]
        else:
            cells = [project(feature.transpose(1, 2)) + self.cell for project, feature in parts]
            tokens = torch.cat([block + own for block, own in zip(cells, self.block, strict=True)], 1)
            last = tokens[:, -len(self.cell) :].mean(1, keepdim=True)
        query = self._heads(self.query(last))
        key, value = (self._heads(part) for part in self.key_value(tokens).chunk(2, -1))
        answer = functional.scaled_dot_product_attention(query, key, value)
        answer = answer.transpose(1, 2).flatten(2)
        return self.norm(last + self.out(answer)).squeeze(1)

    def _heads(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch heads tokens part"]:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PeerFusion(nn.Module):
    """The fusion of each peer: several may have the same module.

    blocks: which of a network's features are fused, counted from 0; none: all.
    """

    def __init__(self, modules: Sequence[nn.Module], blocks: Sequence[int] = ()) -> None:
        super().__init__()
        #: In the order of the peers' numbers; by name they are peer_1, peer_2 and so on.
        self.of_peers, self.blocks = tuple(modules), tuple(blocks)
        for number, module in enumerate(modules, 1):
            self.add_module(f"peer_{number}", module)
        self.register_load_state_dict_pre_hook(_rename)

    def pool(self, features: Sequence[Features]) -> list[Features]:
        """Return what is fused of every peer's features: once for all terms that fuse them. A second time changes nothing."""

        def seen(module: nn.Module, blocks: Features) -> Features:
            if type(module) is not CrossAttention:  # a subclass may see more of a block than its average
                return blocks
            chosen = self.blocks or range(len(blocks))
            return tuple(module.pool(block) if place in chosen else block for place, block in enumerate(blocks))

        return [seen(module, blocks) for module, blocks in zip(self.of_peers, features, strict=True)]

    def forward(self, features: Sequence[Features], sees: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
        """Fuse every peer's features, each [batch, channels, ...] a block, to a vector per image, [batch, dim].

        What `CrossAttention` makes of an image depends on no other: all peers that share one are fused in one call.
        sees: what the result is made of in place of each of the fusion's weights, an entry of FUSION_TRAINING.
        """
        chosen = [tuple(blocks[place] for place in self.blocks) if self.blocks else blocks for blocks in features]
        if type(module := self.of_peers[0]) is CrossAttention and all(other is module for other in self.of_peers):
            pooled = [map(module.pool, blocks) for blocks in chosen]
            joined = tuple(torch.cat(parts) for parts in zip(*pooled, strict=True))
            return list(_call(module, joined, sees).chunk(len(chosen)))
        return [_call(module, blocks, sees) for module, blocks in zip(self.of_peers, chosen, strict=True)]

    def classify(self, fused: Sequence[Tensor]) -> list[Tensor]:
        """Compute the logits [batch, classes] of each peer's classifier of its fused vectors."""
        return [cast(Any, module).head(vectors) for module, vectors in zip(self.of_peers, fused, strict=True)]


def _call(module: nn.Module, blocks: Features, sees: Callable[[Tensor], Tensor] | None) -> Tensor:
    if sees is None:
        return module(blocks)
    return functional_call(module, {name: sees(value) for name, value in module.named_parameters()}, (blocks,))


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *given: Any) -> None:
    """Give the modules of a checkpoint of mldiv up to 0.5.0 their names."""
    for name in list(state):
        first, _, rest = name.removeprefix(prefix).partition(".")
        if first in OLD_NAMES:
            state[f"{prefix}{OLD_NAMES[first]}.{rest}"] = state.pop(name)


def _seeded(channels: Sequence[int], dim: int, heads: int, seed: int, blocks: Sequence[int], **more: int) -> CrossAttention:
    chosen = [channels[block] for block in blocks] or channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CrossAttention(chosen, dim, heads, **more)


def shared(
    channels: Sequence[int], dim: int = 64, heads: int = 4, seed: int = 0, peers: int = 2, blocks: Sequence[int] = (),
    **more: int,
) -> PeerFusion:  # fmt: skip
    """Make one module for all peers.

    blocks: which features are fused, counted from 0 (none: all); more: the grid and classes of `CrossAttention`.
    """
    return PeerFusion([_seeded(channels, dim, heads, seed, blocks, **more)] * peers, blocks)


def per_peer(
    channels: Sequence[int], dim: int = 64, heads: int = 4, seed: int = 0, peers: int = 2, blocks: Sequence[int] = (),
    **more: int,
) -> PeerFusion:  # fmt: skip
    """Make a module for each peer: they can differ without the networks doing so."""
    return PeerFusion([_seeded(channels, dim, heads, seed + place, blocks, **more) for place in range(peers)], blocks)


def frozen(*given: Any, **more: Any) -> PeerFusion:
    """Make one random module for all as `shared` does, never trained: only the networks can change the feature KL."""
    return shared(*given, **more).requires_grad_(False)


#: How the peers' features are fused [chosen: the paper is silent]: (channels, dim, heads, seed, peers, blocks, grid=,
#: classes=) -> PeerFusion.
FUSIONS: dict[str, Callable[..., PeerFusion]] = {
    "shared": shared,
    "per_peer": per_peer,
    "frozen": frozen,
}


def reverse_gradient(value: Tensor) -> Tensor:
    """Return the value; what is minimised in it is maximised by whatever it was made of (Ganin and Lempitsky, ICML 2015)."""
    return 2 * value.detach() - value


#: What a fusion's own weights learn from the diversity term [chosen: the paper is silent]: how the term sees them.
FUSION_TRAINING: dict[str, Callable[[Tensor], Tensor]] = {
    "diversity": lambda weight: weight,
    "adversarial": reverse_gradient,
    "task": Tensor.detach,
    "switch": Tensor.detach,
}

#: Those whose fusion learns to classify its images, from features that learn nothing from it.
TASK_TRAINED = frozenset({"task", "switch"})
