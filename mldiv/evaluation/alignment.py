"""Match the peers' channels at the switch, so that a distance of weights compares units that do the same."""

from collections.abc import Iterable

import torch
from torch import Tensor

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData
from mldiv.evaluation.predictive import evaluation, shared_batches
from mldiv.method import losses
from mldiv.method.alignment import Permutation, activations, match_activations, match_weights, moments
from mldiv.method.pair import MutualPair


def align(config: TrialConfig, pair: MutualPair, data: ImageData, device: torch.device) -> None:
    """Match every peer's channels to peer 1's as `param_alignment` says, and let the pair hold this order; on every rank."""
    if config.param_alignment == "weights":
        pair.align(distributed.from_first(_by_weights(pair)))
    elif config.param_alignment == "activations":
        images = (images for images, _ in shared_batches(config, data, "train", device, config.scale_batches))
        pair.align(distributed.from_first(_by_activations(pair, images)))


@torch.no_grad()
def _by_weights(pair: MutualPair) -> list[list[Permutation]]:
    """Match the means that the distance compares."""
    prepare, sizes = losses.PARAM_WEIGHTS[pair.objective.param_weights].function, pair.peers[0].sizes
    first, *others = (peer.views(prepare(peer.mean, peer.sigma, sizes)[0]) for peer in pair.peers)
    return [match_weights(pair.channel_groups, first, other) for other in others]


@torch.no_grad()
def _by_activations(pair: MutualPair, inputs: Iterable[Tensor]) -> list[list[Permutation]]:
    """Match what the mean networks answer to the same images, in evaluation mode."""
    groups, peers = pair.channel_groups, len(pair.peers)
    device = pair.param_scale.device
    sums = [torch.zeros((1 + peers * group.size,) * 2, dtype=torch.float64, device=device) for group in groups]
    with evaluation(pair):
        for images in inputs:
            seen = [activations(peer, images, groups) for peer in pair.peers]
            sums = [total + moments(of_peers) for total, of_peers in zip(sums, zip(*seen, strict=True), strict=True)]
    by_group = [match_activations(distributed.mean_over_ranks(total), peers) for total in sums]
    return [list(of_peer) for of_peer in zip(*by_group, strict=True)]
