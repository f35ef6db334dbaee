"""The steps of an epoch: the optimiser's groups, and the loop that reads nothing from the device before its end."""

import torch
from torch import Tensor, nn

from mldiv import evaluate, world
from mldiv.config import TrialConfig
from mldiv.data import ImageData
from mldiv.epochs import epoch_batches, learning_rate, optimizer_of
from mldiv.pair import TERMS, MutualPair
from mldiv.streams import generator


class Diverged(Exception):
    """A loss term became infinite or not a number; the message says which and when."""


def make_optimizer(config: TrialConfig, pair: MutualPair) -> torch.optim.Optimizer:
    """The optimiser over three groups: means and point estimates, rho, fusion. No weight decay: the prior regularises."""
    rho = [peer.rho for peer in pair.peers]
    rest = [value for peer in pair.peers for name, value in peer.named_parameters() if name != "rho"]
    groups = [
        {"params": rest, "scale": 1.0},
        {"params": rho, "scale": config.rho_lr_scale},
        {"params": list(pair.fusion.parameters()), "scale": config.fusion_lr_scale},
    ]
    return optimizer_of(config, groups, weight_decay=0.0)


def train_epoch(
    model: nn.Module, pair: MutualPair, optimizer: torch.optim.Optimizer, data: ImageData, epoch: int, diverse: bool,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """One epoch of steps; the mean of each of TERMS over steps and ranks. Nothing is read from the device before its end.

    model: ``pair``, perhaps with its gradients averaged over ranks.

    Raises: Diverged, naming the first term that was not finite, on every rank alike.
    """
    config = pair.config
    pair.train()
    rate = learning_rate(config, epoch, config.epochs)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    # The same noise on every rank: one weight sample per peer and step, whatever the number of ranks.
    streams = [generator(config.seed, f"weights {index}", epoch, device) for index in (1, 2)]
    total = torch.zeros(len(TERMS), device=device)
    broken = torch.zeros(len(TERMS), dtype=torch.bool, device=device)
    steps = 0
    for images, labels in epoch_batches(config, data, epoch, "fit", device):
        noise = [torch.randn(pair.peer_1.mean.numel(), generator=stream, device=device) for stream in streams]
        terms = train_step(model, pair, optimizer, images, labels, noise, diverse)
        broken |= ~terms.isfinite() & ~broken.any()
        total += terms
        steps += 1
    if names := [name for name, bad in zip(TERMS, world.any_rank(broken).tolist(), strict=True) if bad]:
        raise Diverged(f"epoch {epoch}: loss term {names[0]} was not finite")
    return world.mean_over_ranks(total / steps)


def train_step(
    model: nn.Module, pair: MutualPair, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, noise: list[Tensor],
    diverse: bool,
) -> Tensor:  # fmt: skip
    """Forward, backward, clipping of each peer's gradient, optimiser step; the vector of TERMS."""
    config = pair.config
    with evaluate.precision(config, images.device):
        loss, terms = model(images, labels, *noise, diverse)
    optimizer.zero_grad()
    loss.backward()
    if config.clip_norm:
        for peer in pair.peers:
            nn.utils.clip_grad_norm_(peer.parameters(), config.clip_norm)
    optimizer.step()
    return terms
