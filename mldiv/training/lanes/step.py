"""One step of several pairs at once: forward, backward, clipping and optimiser in the same operations for all."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mldiv.config import ConfigError, TrialConfig
from mldiv.evaluation import predictive
from mldiv.method.pair import MutualPair
from mldiv.training.lanes.optimizer import StackedOptimizer
from mldiv.training.lanes.stacked import StackedPairs
from mldiv.training.worker_cache import FORM, stage_two_code

#: What `torch.nn.utils.clip_grad_norm_` adds to a norm before it divides by it.
CLIP_EPSILON = 1e-6


def form(config: TrialConfig) -> tuple[Hashable, ...]:
    """Return the settings in which trials must agree to be lanes of one step: all that a compiled step is made for, without
    what chooses the code of stage two alone, and the optimiser."""
    return (config.optimizer, *(getattr(config, name) for name in FORM))


def obstacle(config: TrialConfig) -> str | None:
    """Say why a trial cannot be a lane beside others; None where it can."""
    if config.steps in ("on", "graph"):
        return f"compile = {config.steps!r}: lanes are neither compiled nor a graph; set compile to 'off' or 'auto'"
    if config.teacher != "none":
        return f"teacher = {config.teacher!r}: every lane would have a teacher of its own, which is not stacked"
    return None


class LaneStep:
    """A step of N pairs, each with its own factors of the loss terms, learning rates, clipping, momentum and decay.

        lanes = LaneStep(configs, pairs, optimizers)
        for images, labels in batches:
            terms = lanes.step(images, labels, noise, diverse)  # [lanes, terms]
        lanes.release()

    configs, pairs, optimizers: of each lane; `make_optimizer`'s, in whose groups the rates are looked up at every step (as
    `set_rates` sets them) and whose state is taken up here, and given back by `release`. Which weights learn is fixed here:
    `let_fusion_learn` comes first. Until `release` every pair's parameters are views of the stacked ones: between two steps a
    pair can be evaluated or saved, but its optimiser is behind. A step reads nothing from the device.

    Raises: ConfigError for trials that cannot be lanes of one step, saying why.
    """

    def __init__(
        self, configs: Sequence[TrialConfig], pairs: Sequence[MutualPair], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        check(configs)
        self.config, self.pairs = configs[0], tuple(pairs)
        names = {id(value): name for name, value in pairs[0].named_parameters()}
        groups = [place for place, group in enumerate(optimizers[0].param_groups) if group["params"]]
        parts = [[names[id(value)] for value in optimizers[0].param_groups[place]["params"]] for place in groups]
        self.stack = StackedPairs(pairs, parts, [stage_two_code(config) for config in configs])
        self.optimizer = StackedOptimizer(configs[0].optimizer, optimizers, groups, self.stack)
        device = self.stack.values[0].device
        #: By lane; without clipping no norm is too long.
        self.clip = torch.tensor([config.clip_norm or float("inf") for config in configs], device=device)
        #: The places in `stack.values` of what is clipped together: of each peer, of the fusion.
        self.clipped: dict[int, list[int]] = {}
        for place, group in enumerate(groups):
            self.clipped.setdefault(optimizers[0].param_groups[group]["peer"], []).append(place)

    def step(
        self,
        images: Shaped[Tensor, "*lanes batch channels height width"],
        labels: Int[Tensor, "*lanes batch"],
        noise: Sequence[Shaped[Tensor, "lanes *samples weights"]],
        diverse: bool | Sequence[bool],
    ) -> Float[Tensor, "lanes terms"]:
        """Make a step of every lane; return the vectors of their terms, as `loop.train_step` does for one.

        images, labels: of each lane, or, without that dimension, the same for all; noise: for each peer [lanes, weights], or
        [lanes, samples, weights] of several weight samples; diverse: whether the diversity terms act, of all lanes or of each.
        """
        acts = [diverse] * len(self.pairs) if isinstance(diverse, bool) else diverse
        with predictive.precision(self.config, images.device):
            total, terms = self.stack.forward(images.contiguous(), labels, noise, acts)
        for value in self.stack.values:
            value.grad = None
        total.sum().backward()
        self._clip()
        self.optimizer.step()
        return terms

    @torch.no_grad()
    def _clip(self) -> None:
        """Shorten each lane's gradients of each peer, and of the fusion, to its longest norm."""
        for places in self.clipped.values():
            gradients = [grad for place in places if (grad := self.stack.values[place].grad) is not None]
            if gradients:
                norm = torch.stack([torch.linalg.vector_norm(grad, dim=1) for grad in gradients]).norm(dim=0)
                factor = (self.clip / (norm + CLIP_EPSILON)).clamp(max=1.0)[:, None]
                for grad in gradients:
                    grad.mul_(factor)

    def release(self) -> None:
        """Give every pair and every optimiser what is theirs, as if they had been stepped alone."""
        self.stack.release()
        self.optimizer.release()


def check(configs: Sequence[TrialConfig]) -> None:
    """Refuse trials that cannot be lanes of one step.

    Raises: ConfigError, naming the setting.
    """
    for config in configs:
        if (why := obstacle(config)) is not None:
            raise ConfigError(f"no lane: {why}")
        if form(config) != form(configs[0]):
            other: Any = next(name for name in (*FORM, "optimizer") if getattr(config, name) != getattr(configs[0], name))
            raise ConfigError(
                f"{other} differs between lanes of one step: {getattr(configs[0], other)!r}, {getattr(config, other)!r}"
            )
