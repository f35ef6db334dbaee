"""Is every term alive? How long its gradient is beside the cross-entropy's, on training batches, without a trace."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.evaluation.predictive import precision
from mldiv.method.gradients import Lengths, gradient_lengths
from mldiv.method.pair import MutualPair
from mldiv.seeding import generator

#: So that a point that lies at an epoch's very end is not missed.
ROUNDING = 1e-9


def measure(
    config: TrialConfig, pair: MutualPair, batches: Iterable[tuple[Tensor, Tensor]], *, epoch: int, diverse: bool,
    weighted: bool = True,
) -> Lengths:  # fmt: skip
    """Measure `gradient_lengths` of the loss terms, of the gradients' mean over ranks; mean over batches; on every rank. The
    pair stays as it is.

    weighted: as they act in the loss, by their names in `MutualPair.weighted`; otherwise the diversity terms before alpha, beta
    and their strengths.
    """
    device = pair.param_scale.device
    streams = [generator(config.seed, f"gradients {number}", epoch, device) for number in range(1, len(pair.peers) + 1)]
    found: list[Lengths] = []
    with as_it_is(pair):
        for images, labels in batches:
            with precision(config, device):
                terms = pair.terms(images, labels, pair.draw_noise(streams), diverse)
            scalars = pair.weighted(terms)
            if not weighted and diverse:
                scalars |= {name: terms[name][0] for name in ("param_diversity", "feature_diversity")}
            found.append(gradient_lengths(pair, scalars, distributed.mean_over_ranks))
    return {
        term: {part: torch.stack([batch[term][part] for batch in found]).mean() for part in parts}
        for term, parts in found[0].items()
    }


class Trace:
    """Measures the gradients of an epoch's loss terms at `gradient_points` points of it; called after every step.

    batches: makes an iterator over training batches; a point takes one. Below 1, so many points lie in several epochs together.
    """

    def __init__(
        self,
        config: TrialConfig,
        pair: MutualPair,
        epoch: int,
        diverse: bool,
        batches: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    ) -> None:
        self.config, self.pair, self.epoch, self.diverse = config, pair, epoch, diverse
        self.batches = chain.from_iterable(iter(batches, None))  # made when the first is wanted, and anew after the last
        self.points: list[tuple[float, Lengths]] = []
        self.passed = 0.0

    def __call__(self, done: float) -> None:
        """Measure if a point lies between the last call and this; done: the share of the epoch that is over."""
        before, self.passed = self._points_until(self.passed), done
        if self._points_until(done) == before:
            return
        found = measure(self.config, self.pair, [next(self.batches)], epoch=self.epoch, diverse=self.diverse)
        self.points.append((done, found))

    def _points_until(self, done: float) -> int:
        return int((self.epoch + done) * self.config.gradient_points + ROUNDING)

    def lines(self) -> list[dict[str, Any]]:
        """Return a point each: ``at``, the share of the epoch that was over, and the lengths by term and part."""
        return [
            {"at": done} | {term: {part: float(value) for part, value in parts.items()} for term, parts in found.items()}
            for done, found in self.points
        ]


@contextmanager
def as_it_is(pair: MutualPair) -> Iterator[None]:
    """Put the pair into training mode; afterwards give it back its buffers and its mode."""
    was_training, buffers = pair.training, [value.clone() for value in pair.buffers()]
    pair.train()
    try:
        yield
    finally:
        pair.train(was_training)
        with torch.no_grad():
            for value, before in zip(pair.buffers(), buffers, strict=True):
                value.copy_(before)
