"""An epoch of several trials in one step after the other: as `loop.train_epoch` for each of them."""

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

from mldiv.method.pair import term_names
from mldiv.training.lanes.asked import Epoch
from mldiv.training.lanes.step import LaneStep, form, obstacle
from mldiv.training.loop import Diverged, check_epoch, set_rates, step_inputs, steps_per_epoch, train_epoch


def together(asked: Epoch) -> tuple[Hashable, ...] | None:
    """Return what epochs must have in common to be trained together; None of one that is trained alone."""
    if obstacle(asked.config) is not None:
        return None
    return (form(asked.config), asked.data.fingerprint, asked.config.train_labels_hash)


def train_epochs(epochs: Sequence[Epoch]) -> list[Tensor | Diverged]:
    """Train the epochs together; of each return what `loop.train_epoch` returns, or would raise. A single one is trained alone.

    epochs: with one answer of `together`; lanes' epochs need not have the same number, nor be of one stage.
    """
    if len(epochs) == 1:
        try:
            return [train_epoch(*epochs[0].given)]
        except Diverged as error:
            return [error]
    for asked in epochs:
        asked.pair.train()
    config, pair = epochs[0].config, epochs[0].pair
    steps = steps_per_epoch(config, epochs[0].data)
    lanes = LaneStep(
        [asked.config for asked in epochs], [asked.pair for asked in epochs], [asked.optimizer for asked in epochs]
    )
    total = torch.zeros(len(epochs), len(term_names(len(pair.peers))), device=epochs[0].device)
    broken = torch.zeros_like(total, dtype=torch.bool)
    for step, (images, labels, noise) in enumerate(_batches(epochs), 1):
        for asked in epochs:
            set_rates(asked.config, asked.optimizer, asked.epoch, step / steps)
        terms = lanes.step(images, labels, noise, [asked.diverse for asked in epochs])
        broken |= ~terms.isfinite() & ~broken.any(1, keepdim=True)
        total += terms
        for asked in epochs:
            asked.after_step(step / steps)
    lanes.release()
    return [_answer(asked, *row) for asked, *row in zip(epochs, total / steps, broken, strict=True)]


def _answer(asked: Epoch, terms: Tensor, broken: Tensor) -> Tensor | Diverged:
    try:
        check_epoch(asked.pair, asked.epoch, broken)
    except Diverged as error:
        return error
    return terms


def _batches(epochs: Sequence[Epoch]) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Yield what each step takes: of branches of one seed in one epoch, which share images and noise, it is drawn once."""
    kinds = {(asked.config.seed, asked.epoch): asked for asked in epochs}  # what random streams are named by
    places = [list(kinds).index((asked.config.seed, asked.epoch)) for asked in epochs]
    alone = (step_inputs(asked.config, asked.pair, asked.data, asked.epoch, asked.device) for asked in kinds.values())
    for drawn in zip(*alone, strict=True):
        if len(drawn) == 1:
            images, labels, noise = drawn[0]
            yield images, labels, [own.expand(len(epochs), *own.shape) for own in noise]
        else:
            columns = zip(*(drawn[place] for place in places), strict=True)
            images, labels, noise = (list(column) for column in columns)
            yield torch.stack(images), torch.stack(labels), [torch.stack(own) for own in zip(*noise, strict=True)]
