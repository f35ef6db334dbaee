"""Do pretrained means survive? The validation accuracy of the peers that start there, over the first epoch."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.datasets.formats.arrays import classes_of
from mldiv.datasets.splits import ImageData
from mldiv.evaluation.predictive import evaluation, precision, shared_batches
from mldiv.method.pair import MutualPair

#: Where it is measured: shares of the epoch that are over.
POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)

#: Validation images at most, taken evenly from all.
MOST_IMAGES = 500


class FirstEpoch:
    """Measures the accuracy of pretrained peers' mean networks at POINTS of epoch 0; called after every step."""

    def __init__(self, config: TrialConfig, pair: MutualPair, data: ImageData, epoch: int, device: torch.device) -> None:
        self.config, self.pair, self.device = config, pair, device
        self.left = list(POINTS) if epoch == 0 and config.pretrained_peers and len(data.validation) else []
        self.points: list[tuple[float, dict[str, Tensor]]] = []
        if self.left:
            count = len(data.validation)
            self.count = min(count, MOST_IMAGES)
            places = np.linspace(0, count - 1, self.count).round().astype(int)
            self.data = replace(data, validation=data.validation.take(places))
            self(0.0)

    def __call__(self, done: float) -> None:
        """Measure if a point lies between the last call and this; done: the share of the epoch that is over."""
        passed = [point for point in self.left if point <= done]
        if passed:
            self.left = self.left[len(passed) :]
            self.points.append((done, self._accuracies()))

    @torch.no_grad()
    def _accuracies(self) -> dict[str, Tensor]:
        right = {number: torch.zeros((), device=self.device) for number in self.config.pretrained_peers}
        with evaluation(self.pair), precision(self.config, self.device):
            for images, labels in shared_batches(self.config, self.data, "validation", self.device):
                for number, found in right.items():
                    peer = self.pair.peers[number - 1]
                    found += (peer(images, weights=peer.mean)[0].argmax(-1) == classes_of(labels)).sum()
        share = self.count / distributed.size()  # the ranks share the images
        return {f"peer_{number}": distributed.mean_over_ranks(found) / share for number, found in right.items()}

    def lines(self) -> list[dict[str, float]]:
        """Return a point each: ``at``, the share of the epoch that was over, and each peer's accuracy by its name."""
        return [{"at": done} | {name: float(value) for name, value in found.items()} for done, found in self.points]
