"""An epoch that a trial asks for: who trains several trials side by side answers, alone it is trained at once."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData
from mldiv.method.pair import MutualPair
from mldiv.records import TrialRecord
from mldiv.training.loop import PairStep, train_epoch

T = TypeVar("T")


@dataclass
class Epoch:
    """An epoch that a trial asks for: what `train_epoch` takes.

    waited: seconds that other trials took between the question and the answer.
    """

    config: TrialConfig
    pair: MutualPair
    optimizer: torch.optim.Optimizer
    data: ImageData
    epoch: int
    diverse: bool
    device: torch.device
    after_step: Callable[[float], None]
    pair_step: PairStep
    waited: float = 0.0

    def train(self) -> Tensor:
        """Train it, alone."""
        return train_epoch(
            self.config, self.pair, self.pair, self.optimizer, self.data, self.epoch, self.diverse, self.device,
            self.after_step, self.pair_step,
        )  # fmt: skip


#: A trial in training: it yields every epoch that it asks for, is sent what `train_epoch` returns, and returns its record.
Training = Generator[Epoch, Tensor, TrialRecord]


def train_alone(trial: Generator[Epoch, Tensor, T]) -> T:
    """Train the epochs that a trial asks for, one after the other; return what it returns.

    The trial is sent what `train_epoch` returns, and thrown what it raises.
    """
    try:
        asked = next(trial)
        while True:
            try:
                terms = asked.train()
            except BaseException as error:
                asked = trial.throw(error)
            else:
                asked = trial.send(terms)
    except StopIteration as end:
        return end.value
