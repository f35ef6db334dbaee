"""SGD and AdamW over stacked parameters, each lane with its own rate, momentum, decay and number of steps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mldiv.training.lanes.stacked import StackedPairs

#: A lane's numbers, [lanes, 1].
Column = Tensor


class StackedOptimizer:
    """What the lanes' own optimisers would do, all in the same operations.

    name: of `config.OPTIMIZERS`; optimizers: of each lane, whose state is taken up; groups: the places of their groups that
    have parameters, each a part of ``stack``. A lane does not touch what it does not train.
    """

    def __init__(
        self, name: str, optimizers: Sequence[torch.optim.Optimizer], groups: Sequence[int], stack: StackedPairs
    ) -> None:
        self.optimizers, self.groups, self.stack = optimizers, groups, stack
        self.update, self.moments = KINDS[name]
        device = stack.values[0].device
        trained = [[_trains(optimizer, place) for optimizer in optimizers] for place in groups]
        for value, lanes in zip(stack.values, trained, strict=True):
            value.requires_grad_(any(lanes))
        #: For every part [lanes, 1]: 1 where the lane trains it, else 0.
        self.trained = torch.tensor(trained, device=device).unsqueeze(-1).float()
        decays = [[optimizer.param_groups[place]["weight_decay"] for optimizer in optimizers] for place in groups]
        self.decays: list[Column] = [torch.tensor(decay, device=device)[:, None] for decay in decays]
        self.decaying = [bool(decay.any()) for decay in self.decays]
        self.momenta = torch.tensor([_momentum(optimizer) for optimizer in optimizers], device=device)[:, None]
        self.steps = [self._state(place, "step") for place in groups]
        self.state = [[self._state(place, moment) for moment in self.moments] for place in groups]
        self.seen: list[list[float]] = []
        self.rates = torch.zeros_like(self.trained)

    def _state(self, place: int, moment: str) -> Tensor:
        """A moment as the lanes' optimisers have it, [lanes, elements], or the number of steps, [lanes, 1]; zero without it."""
        found = []
        for optimizer in self.optimizers:
            values = optimizer.param_groups[place]["params"]
            kept = [optimizer.state.get(value, {}).get(moment) for value in values]
            if moment == "step":
                found.append(
                    torch.zeros(1, device=values[0].device) if kept[0] is None else kept[0].to(values[0].device).view(1)
                )
            else:
                parts = [torch.zeros_like(v) if k is None else k for v, k in zip(values, kept, strict=True)]
                found.append(torch.cat([part.detach().flatten() for part in parts]))
        return torch.stack(found)

    @torch.no_grad()
    def step(self) -> None:
        """Step every lane by the gradients of ``stack.values`` and the rates that its optimiser's groups have now."""
        rates = [[optimizer.param_groups[place]["lr"] for optimizer in self.optimizers] for place in self.groups]
        if rates != self.seen:
            self.rates.copy_(torch.tensor(rates).unsqueeze(-1), non_blocking=True).mul_(self.trained)
            self.seen = rates
        for place, value in enumerate(self.stack.values):
            if value.grad is not None:
                self.steps[place] += self.trained[place]
                decay = self.decays[place] if self.decaying[place] else None
                self.update(value, value.grad, self.state[place], self.steps[place], self.rates[place], self.momenta, decay)

    def release(self) -> None:
        """Give every lane's optimiser its state, as it would have it alone."""
        for place, steps, moments in zip(self.groups, self.steps, self.state, strict=True):
            for lane, optimizer in enumerate(self.optimizers):
                values = optimizer.param_groups[place]["params"]
                named = dict(zip(self.moments, moments, strict=True))
                if not _trains(optimizer, place) or not _keeps(optimizer):
                    continue
                for name, moment in named.items():
                    rows = moment[lane].split([value.numel() for value in values])
                    for value, row in zip(values, rows, strict=True):
                        optimizer.state[value][name] = row.view(value.shape).clone()
                        if "exp_avg" in named:
                            optimizer.state[value]["step"] = steps[lane, 0].clone()


def _trains(optimizer: torch.optim.Optimizer, place: int) -> bool:
    return any(value.requires_grad for value in optimizer.param_groups[place]["params"])


def _momentum(optimizer: torch.optim.Optimizer) -> float:
    group = optimizer.param_groups[0]
    return group["momentum"] if "momentum" in group else group["betas"][0]


def _keeps(optimizer: torch.optim.Optimizer) -> bool:
    """Whether there is a state: SGD without momentum has none."""
    return "betas" in optimizer.param_groups[0] or _momentum(optimizer) > 0


def sgd(
    value: Tensor, grad: Tensor, state: list[Tensor], steps: Column, rate: Column, momentum: Column, decay: Column | None
) -> None:
    r"""Step by momentum, :math:`v \leftarrow m v + g + d w, w \leftarrow w - r v`, as torch.optim.SGD."""
    if decay is not None:
        grad = torch.addcmul(grad, value, decay)
    torch.addcmul(grad, state[0], momentum, out=state[0])
    value.addcmul_(state[0], rate, value=-1)


#: AdamW's second beta and epsilon: `loop.optimizer_of`, torch's default.
SECOND_BETA, EPSILON = 0.999, 1e-8


def adamw(
    value: Tensor, grad: Tensor, state: list[Tensor], steps: Column, rate: Column, momentum: Column, decay: Column | None
) -> None:
    """Step as torch.optim.AdamW does; momentum: the first beta."""
    first, second = state
    if decay is not None:
        value.mul_(1 - rate * decay)
    first.lerp_(grad, 1 - momentum)
    second.mul_(SECOND_BETA).addcmul_(grad, grad, value=1 - SECOND_BETA)
    made = steps.clamp(min=1)  # none by a lane that does not train this part, whose rate is 0
    unbiased = 1 - momentum**made, (1 - SECOND_BETA**made).sqrt()
    value.addcdiv_(first * (-rate / unbiased[0]), second.sqrt() / unbiased[1] + EPSILON)


Update = Callable[[Tensor, Tensor, list[Tensor], Column, Column, Column, Column | None], None]

#: By `config.OPTIMIZERS`: a step, and what torch calls the state that it keeps.
KINDS: dict[str, tuple[Update, tuple[str, ...]]] = {
    "sgd": (sgd, ("momentum_buffer",)),
    "adamw": (adamw, ("exp_avg", "exp_avg_sq")),
}
