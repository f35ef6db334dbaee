"""An epoch that a trial asks for: who trains several trials side by side answers, alone it is trained at once."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData
from mldiv.method.pair import MutualPair
from mldiv.records.contents import TrialRecord
from mldiv.training.loop import PairStep


@dataclass
class Epoch:
    """An epoch that a trial asks for: what `train_epoch` takes.

    pair_step: None once the epoch is over, so that a graph is held by the trial alone; waited: seconds that other trials took
    between the question and the answer.
    """

    config: TrialConfig
    pair: MutualPair
    optimizer: torch.optim.Optimizer
    data: ImageData
    epoch: int
    diverse: bool
    device: torch.device
    after_step: Callable[[float], None]
    pair_step: PairStep | None
    waited: float = 0.0

    @property
    def given(self) -> tuple[Any, ...]:
        """The arguments of `train_epoch`, in its order."""
        return tuple(getattr(self, item.name) for item in fields(self) if item.name != "waited")


#: A trial in training: it yields every epoch that it asks for, is sent what `train_epoch` returns, and returns its record.
Training = Generator[Epoch, Tensor, TrialRecord]
