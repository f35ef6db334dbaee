"""Monte Carlo predictives of each peer and of both together, their scores, and how different the peers are."""

import torch
from torch import Tensor

from mldiv import metrics, world
from mldiv.config import TrialConfig
from mldiv.data import ImageData, eval_batches
from mldiv.metrics import Predictive
from mldiv.pair import MutualPair
from mldiv.posterior import GaussianPosterior
from mldiv.records import MEMBERS
from mldiv.streams import generator

#: What is scored after every epoch; the final record holds every metric.
EPOCH_METRICS = ("accuracy", "nll", "brier", "ece")

Labels = Tensor


def precision(config: TrialConfig, device: torch.device) -> torch.autocast:
    """The configured precision as a context: bf16 autocast, or float32 as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


@torch.no_grad()
def predict(peer: GaussianPosterior, batches: list[tuple[Tensor, Labels]], weights: Tensor, config: TrialConfig) -> Predictive:
    """The predictive of one peer for this rank's ``batches``, from weight samples [samples, weights]; evaluation mode."""
    means, entropies = [], []
    for images, _ in batches:
        mean = torch.zeros((), device=images.device)
        expected = torch.zeros((), device=images.device)
        with precision(config, images.device):
            for sample in weights:
                logits, _ = peer(images, weights=sample)
                probabilities = logits.float().softmax(-1)
                mean = mean + probabilities
                expected = expected + metrics.entropy(probabilities)
        means.append(mean / len(weights))
        entropies.append(expected / len(weights))
    return Predictive(torch.cat(means), torch.cat(entropies))


def predictives(
    pair: MutualPair, data: ImageData, split: str, *, samples: int, epoch: int, device: torch.device
) -> tuple[dict[str, Predictive], Labels]:
    """The predictive of each peer and of the pair for all images of ``split``, and their labels, on every rank.

    The weight samples come from the stream (seed, purpose, epoch), the same on every rank; images are shared out.
    """
    config, count = pair.config, len(getattr(data, split).labels)
    was_training = pair.training
    pair.eval()
    batches = _batches(pair, data, split, device)
    parts = []
    for index, peer in enumerate(pair.peers, 1):
        stream = generator(config.seed, f"evaluate {split} {index}", epoch, device)
        noise = torch.randn(samples, peer.mean.numel(), generator=stream, device=device)
        local = predict(peer, batches, peer.sample(noise).detach(), config)
        parts.append(Predictive(*(world.gather_rows(rows, count) for rows in local)))
    labels = world.gather_rows(torch.cat([labels for _, labels in batches]), count)
    pair.train(was_training)
    return dict(zip(MEMBERS, (*parts, metrics.together(*parts)), strict=True)), labels


@torch.no_grad()
def feature_kl(pair: MutualPair, data: ImageData, split: str, *, epoch: int, device: torch.device) -> Tensor:
    """Mean feature KL between the peers over the first ``scale_batches`` full batches of this rank's share of ``split``.

    Evaluation mode, one weight sample per peer; averaged over ranks. Batches hold batch_size / world size images, as in
    training, because the divergence depends on that number.
    """
    config = pair.config
    was_training = pair.training
    pair.eval()
    streams = [generator(config.seed, f"feature kl {index}", epoch, device) for index in (1, 2)]
    samples = [
        peer.sample(torch.randn(peer.mean.numel(), generator=stream, device=device))
        for peer, stream in zip(pair.peers, streams, strict=True)
    ]
    values = []
    for images, _ in _batches(pair, data, split, device)[: config.scale_batches]:
        with precision(config, device):
            features = [peer(images, weights=sample)[1] for peer, sample in zip(pair.peers, samples, strict=True)]
        values.append(torch.stack(pair.feature_divergences(*features)).mean())
    pair.train(was_training)
    return world.mean_over_ranks(torch.stack(values).mean())


def _batches(pair: MutualPair, data: ImageData, split: str, device: torch.device) -> list[tuple[Tensor, Labels]]:
    size = max(2, pair.config.batch_size // world.size())
    return list(eval_batches(data, split, batch_size=size, rank=world.rank(), world=world.size(), device=device))


@torch.no_grad()
def diversity(pair: MutualPair) -> dict[str, object]:
    """How far apart the posteriors are: W2 per weight, cosine of the means by layer, norms of the means, mean sigmas.

    w2_per_weight is the squared 2-Wasserstein distance divided by the number of weights; it can grow by the norms alone,
    so the norms and the cosines stand beside it.
    """
    peer_1, peer_2 = pair.peers
    return {
        "w2_per_weight": float(pair.squared_w2() / peer_1.mean.numel()),
        "cosine": {name: float(value) for name, value in peer_1.cosine_by_layer(peer_2).items()},
        "norm_1": float(peer_1.mean.norm()),
        "norm_2": float(peer_2.mean.norm()),
        "sigma_1": float(peer_1.sigma.mean()),
        "sigma_2": float(peer_2.sigma.mean()),
    }


def predictions_table(members: dict[str, Predictive], labels: Labels) -> dict[str, list]:
    """The columns of predictions.parquet: one row per image and member (peer_1, peer_2, pair)."""
    columns: dict[str, list] = {}
    for member, predictive in members.items():
        confidence, predicted = predictive.probabilities.max(-1)
        chosen = predictive.probabilities.gather(-1, labels[:, None]).squeeze(-1)
        rows = {
            "image": torch.arange(len(labels)),
            "label": labels,
            "predicted": predicted,
            "confidence": confidence,
            "label_probability": chosen,
            "entropy": metrics.entropy(predictive.probabilities),
            "mutual_information": metrics.mutual_information(predictive),
        }
        columns.setdefault("member", []).extend([member] * len(labels))
        for name, values in rows.items():
            columns.setdefault(name, []).extend(values.cpu().tolist())
    return columns
