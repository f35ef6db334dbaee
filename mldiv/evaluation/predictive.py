"""Monte Carlo predictives of each peer and of all together, their scores, and how different the peers are."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData, eval_batches
from mldiv.evaluation import batchnorm, metrics
from mldiv.evaluation.batchnorm import Statistics
from mldiv.evaluation.metrics import Predictive
from mldiv.method import kernels, losses
from mldiv.method.fusion import Features, pool
from mldiv.method.pair import MutualPair
from mldiv.method.posterior import GaussianPosterior
from mldiv.records.contents import members_of
from mldiv.seeding import generator

#: What is scored after every epoch; the final record holds every metric.
EPOCH_METRICS = ("accuracy", "nll", "brier", "ece")

#: Batches over which the feature KL of an epoch's line is averaged.
YARDSTICK_BATCHES = 8

#: On a GPU, where a batch of training leaves most of it idle, so many such batches are predicted at once: that holds no more
#: than a step does, which keeps what every layer answers. And at most so many values of images.
BATCHES_AT_ONCE, VALUES_AT_ONCE = 16, 3 * 2**21

Labels = Tensor


def precision(config: TrialConfig, device: torch.device) -> torch.autocast:
    """Make the configured precision a context: bf16 autocast, or float32 as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def layout(config: TrialConfig) -> torch.memory_format:
    """Return the configured memory layout of images and features."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


@torch.no_grad()
def predict(
    peer: GaussianPosterior, images: Tensor, weights: Tensor, config: TrialConfig, statistics: Sequence[Statistics] = ()
) -> Predictive:
    """Compute the predictive of one peer for a batch, from weight samples [samples, weights]; evaluation mode.

    statistics: of batch norm, for each sample (default: the peer's own).

    `samples_at_once` of them are computed together by torch.func.vmap, or fewer where the device's memory does not hold them;
    one at a time is the default, which is faster on a CPU (benchmarks/evaluation.md).
    """
    mean = torch.zeros((), device=images.device)
    expected, partition, largest = mean, mean, mean
    with precision(config, images.device):
        for logits in _logits(peer, images, weights, config.samples_at_once, statistics or [{}] * len(weights)):
            logits = logits.float()
            probabilities = logits.softmax(-1)
            mean = mean + probabilities.sum(0)
            expected = expected + metrics.entropy(probabilities).sum(0)
            partition = partition + logits.logsumexp(-1).sum(0)
            largest = largest + logits.amax(-1).sum(0)
    return Predictive(*(total / len(weights) for total in (mean, expected, partition, largest)))


def _logits(
    peer: GaussianPosterior, images: Tensor, weights: Tensor, at_once: int, statistics: Sequence[Statistics]
) -> Iterator[Tensor]:
    """Logits [samples, images, classes], some samples at a time; half as many again whenever memory runs out."""
    if at_once > 1 and images.is_cuda:
        images = images.contiguous()  # mapped over samples, CUDA's batch norm cannot ask whether channels come last

    def mapped(flat: Tensor, own: Statistics) -> Tensor:  # not by the peer, which casts weights for autocast: no convolution
        return functional_call(peer.module, {**peer.views(flat), **own}, (images,))[0]  # heeds that when it is mapped

    done = 0
    while done < len(weights):
        part, buffers = weights[done : done + at_once], statistics[done : done + at_once]
        try:
            logits = (
                vmap(mapped)(part, _stacked(buffers))
                if at_once > 1
                else peer(images, weights=part[0], buffers=buffers[0])[0][None]
            )
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            at_once //= 2
            continue
        yield logits
        done += len(part)


def _stacked(statistics: Sequence[Statistics]) -> Statistics:
    return {name: torch.stack([each[name] for each in statistics]) for name in statistics[0]}


@torch.no_grad()
def predictives(
    config: TrialConfig, pair: MutualPair, data: ImageData, split: str, *, samples: int, epoch: int, device: torch.device
) -> tuple[dict[str, Predictive], Labels]:
    """Predict all images of ``split`` by each peer and by all together, the pair; also give their labels. On every rank.

    The weight samples come from the stream (seed, purpose, epoch), the same on every rank; images are shared out.

    samples: of each peer's weights; 0: the network of its means, which is all that a peer without noise has.
    """
    count = len(data.splits[split])
    drawn = draw_weights(pair, config.seed, f"evaluate {split}", samples=samples, epoch=epoch, device=device)
    with evaluation(pair):
        networks = [
            (peer, own, _statistics(config, peer, own, data, epoch)) for peer, own in zip(pair.peers, drawn, strict=True)
        ]

        def each(images: Tensor, labels: Labels) -> tuple[Predictive | Labels, ...]:
            return *(predict(peer, images, own, config, estimated) for peer, own, estimated in networks), labels

        batches = [each(*batch) for batch in shared_batches(config, data, split, device)]
        if not batches:  # few images on many ranks: what the last ones predict instead is cut off
            batches = [each(*next(eval_batches(data, split, batch_size=1, device=device)))]
    *parts, shares = zip(*batches, strict=True)
    peers = [
        Predictive(*(distributed.gather_rows(torch.cat(rows), count) for rows in zip(*part, strict=True))) for part in parts
    ]
    members = dict(zip(members_of(len(peers)), (*peers, metrics.together(*peers)), strict=True))
    return members, distributed.gather_rows(torch.cat(shares), count)


@torch.no_grad()
def draw_weights(pair: MutualPair, seed: int, purpose: str, *, samples: int, epoch: int, device: torch.device) -> list[Tensor]:
    """Draw weight samples [samples, weights] of every peer, each from a stream of its own by (seed, purpose, epoch).

    samples: 0 for the means alone.
    """
    streams = [generator(seed, f"{purpose} {number}", epoch, device) for number in range(1, len(pair.peers) + 1)]
    return [_draw(peer, samples, stream) for peer, stream in zip(pair.peers, streams, strict=True)]


def _draw(peer: GaussianPosterior, samples: int, stream: torch.Generator) -> Tensor:
    """Weight samples [samples, weights]; the means alone where there is no noise, or none is asked for."""
    if not samples or not peer.noisy:
        return peer.mean[None]
    return peer.sample(torch.randn(samples, peer.mean.numel(), generator=stream, device=peer.mean.device))


def _statistics(
    config: TrialConfig, peer: GaussianPosterior, weights: Tensor, data: ImageData, epoch: int
) -> Sequence[Statistics]:
    """Batch norm's statistics for each weight sample, where they are to be estimated."""
    if not config.batchnorm_batches:
        return ()
    device = weights.device
    return batchnorm.estimate(peer, weights, batchnorm.batches(config, data, epoch, device), precision(config, device))


@contextmanager
def evaluation(pair: MutualPair) -> Iterator[None]:
    """Put the peers into evaluation mode, and afterwards into the mode of before."""
    was_training = pair.training
    pair.eval()
    try:
        yield
    finally:
        pair.train(was_training)


@torch.no_grad()
def feature_kl(
    config: TrialConfig, pair: MutualPair, data: ImageData, split: str, *, epoch: int, device: torch.device, own: bool = False
) -> Tensor:
    """Measure the feature KL between the peers, mean over pairs and over the first full batches of a rank's share of ``split``.

    own: as the trial's diversity term measures it, with its fusion and kernel, over ``scale_batches`` batches. Otherwise by
    one yardstick for every trial and epoch: Eq. (14) on the last block's features, averaged over space and centered;
    symmetric, per image, diagonal left out; over YARDSTICK_BATCHES batches.
    Evaluation mode, one weight sample per peer; averaged over ranks. Batches hold batch_size / world size images, as in
    training, because the divergence depends on that number; `_full_batches` says what is taken where there are none. Of a
    split of one image it is no number.
    """
    measure = pair.feature_divergences if own else _yardstick
    most = config.scale_batches if own else YARDSTICK_BATCHES
    samples = draw_weights(pair, config.seed, "feature kl", samples=1, epoch=epoch, device=device)
    values = []
    with evaluation(pair):
        for images in _full_batches(config, data, split, device, most):
            with precision(config, device):
                features = [peer(images, weights=sample)[1] for peer, (sample,) in zip(pair.peers, samples, strict=True)]
            values.append(torch.stack(measure(features)).mean())
    own_level = torch.stack(values).mean() if values else torch.zeros((), device=device)
    measured = torch.full_like(own_level, bool(values))
    return distributed.mean_over_ranks(own_level) / distributed.mean_over_ranks(measured)


def _yardstick(features: Sequence[Features]) -> list[Tensor]:
    """Measure the feature KL of every two peers by the one yardstick of all trials."""
    pooled = [pool(blocks[-1]) for blocks in features]
    with torch.autocast(pooled[0].device.type, enabled=False):
        centered = [losses.normalize_features(vectors, center=True) for vectors in pooled]
        distributions = [losses.conditional_distribution(kernels.cosine(vectors, vectors)) for vectors in centered]
        named = {"direction": "symmetric", "reduction": "batchmean"}
        return [losses.feature_kl(first, second, **named) for first, second in combinations(distributions, 2)]


def shared_batches(
    config: TrialConfig, data: ImageData, split: str, device: torch.device, most: int | None = None
) -> Iterator[tuple[Tensor, Labels]]:
    """Yield a rank's share of a split in batches to be predicted.

    most: end after so many, which then are of batch_size / world size images.
    """
    size = max(2, config.batch_size // distributed.size())
    if most is None and device.type == "cuda":
        values = size * data.train.images.shape[1:].numel()
        size *= max(1, min(BATCHES_AT_ONCE // config.samples_at_once, VALUES_AT_ONCE // values))
    for images, labels in eval_batches(
        data, split, batch_size=size, rank=distributed.rank(), world=distributed.size(), device=device, most=most
    ):
        yield images.contiguous(memory_format=layout(config)), labels


def _full_batches(config: TrialConfig, data: ImageData, split: str, device: torch.device, most: int) -> Iterator[Tensor]:
    """Yield the first full batches of this rank's share of a split, since the feature KL depends on a batch's size.

    A share that fills none is a batch of its own, and of fewer than two images none. Where all shares are that small, every
    rank takes the whole split.
    """
    world, count = distributed.size(), len(data.splits[split])
    alone = -(-count // world) < 2
    size = count if alone else max(2, config.batch_size // world)
    rank, world = (0, 1) if alone else (distributed.rank(), world)
    given = eval_batches(data, split, batch_size=size, rank=rank, world=world, device=device, most=most)
    for place, (images, _) in enumerate(given):
        if len(images) == size or (place == 0 and len(images) > 1):
            yield images.contiguous(memory_format=layout(config))


@torch.no_grad()
def diversity(pair: MutualPair, aligned: bool = False) -> dict[str, object]:
    """Measure how far apart the posteriors are: W2 per weight, cosine of the means by layer, norms of the means, mean sigmas.

    w2_per_weight is the squared 2-Wasserstein distance divided by the number of weights, w2_share_means and w2_share_sigmas
    what comes from either; it can grow by the norms alone, so the norms and the cosines stand beside it, and w2_by_layer, the
    distance of weights over their layer's norm. w2_aligned: per weight, after the alignment of channels; None before.
    All are means over pairs of peers; a single peer has none.
    """
    found: dict[str, object] = {}
    if len(pair.peers) > 1:
        pairs, count = list(combinations(pair.peers, 2)), pair.peers[0].mean.numel()
        distance = pair.distance("w2")
        found["w2_per_weight"] = float(distance / count)
        sigmas = statistics.fmean(float((first.sigma - second.sigma).square().sum()) for first, second in pairs)
        share = sigmas / float(distance) if distance > 0 else None
        found |= {"w2_share_means": None if share is None else 1 - share, "w2_share_sigmas": share}
        found["w2_by_layer"] = float(pair.distance("w2", "layer"))
        found["w2_aligned"] = float(pair.distance("w2", aligned=True) / count) if aligned else None
        cosines = [first.cosine_by_layer(second) for first, second in pairs]
        found["cosine"] = {name: statistics.fmean(float(by_layer[name]) for by_layer in cosines) for name in cosines[0]}
    found |= {f"norm_{number}": float(peer.mean.norm()) for number, peer in enumerate(pair.peers, 1)}
    return found | {f"sigma_{number}": float(peer.sigma.mean()) for number, peer in enumerate(pair.peers, 1)}


def disagreement(members: Mapping[str, Predictive]) -> float:
    """Compute the share of images on which two peers name different classes; mean over pairs of peers."""
    peers = [prediction for name, prediction in members.items() if name != "pair"]
    return statistics.fmean(float(metrics.disagreement(first, second)) for first, second in combinations(peers, 2))
