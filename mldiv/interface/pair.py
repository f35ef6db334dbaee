"""A trained pair, and what it predicts for one's own images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mldiv.config import TrialConfig
from mldiv.datasets.files import DataError
from mldiv.evaluation import metrics, predictive
from mldiv.interface.given import whole, yes_or_no
from mldiv.interface.images import ImageForm, Images, normalized
from mldiv.interface.torch_settings import torch_settings
from mldiv.method.pair import MutualPair
from mldiv.records.contents import TrialRecord
from mldiv.settings.setting import shown

#: What a line of an epoch holds beside numbers by name.
LISTS = ("gradients", "first_epoch")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a pair predicts for N images, float32.

    mean: class probabilities of all peers together, mean over their weight samples, [N, classes]; peers: of each peer alone,
    [K, N, classes]; entropy: of ``mean``, in nats, [N]; mutual_information: of prediction and weights (BALD), the part of the
    entropy that comes from not knowing them, in nats, [N]; samples: of every weight sample, [K, samples, N, classes], where
    they were asked for; names: of the classes, where they are known.
    """

    mean: np.ndarray
    peers: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray
    samples: np.ndarray | None = None
    names: tuple[str, ...] | None = None

    @property
    def labels(self) -> np.ndarray:
        """The most probable class of each image, int64 [N]."""
        return self.mean.argmax(-1)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of that class, [N]."""
        return self.mean.max(-1)


@dataclass(frozen=True, eq=False)
class TrainedPair:
    """The peers of a finished trial, two or however many they are.

    record: the trial's settings and scores; config: its settings as training takes them; module: the peers, on ``device``;
    form: how images are taken; lines: of every epoch.
    """

    record: TrialRecord
    config: TrialConfig
    module: MutualPair
    form: ImageForm
    lines: list[dict[str, Any]]

    def __repr__(self) -> str:
        config, name = self.config, self.record.id
        return f"TrainedPair({config.arch!r}, peers={config.peers}, data={config.data!r}, seed={config.seed}, id={name!r})"

    @property
    def device(self) -> torch.device:
        """The device on which it predicts."""
        return self.module.param_scale.device

    @property
    def names(self) -> tuple[str, ...] | None:
        """The classes' names, in the order of their numbers, where they are known."""
        return self.form.names

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch: stage, learning rate, terms of the loss, validation scores, diversity, as validation.pair.nll."""
        plain = [{name: value for name, value in line.items() if name not in LISTS} for line in self.lines]
        return pd.json_normalize(plain)

    def predict(
        self, images: Images, *, samples: int | None = None, seed: int | None = None, keep_samples: bool = False,
        batch_size: int | None = None, layout: str | None = None, threads: int | None = None,
    ) -> Predictions:  # fmt: skip
        """Predict the classes of images, a batch at a time; the same call gives the same numbers.

        images: uint8, or floats in [0, 1], not normalised: arrays or tensors [N, height, width, channels] or [N, channels,
        height, width], also [N, height, width] where they are grey, or a list of Pillow's pictures; of another size than the
        trial's they are cut to their central square and resized. Floats are rounded to levels of 1/255, as in training.

        samples: of each peer's weights (default: as many as the trial's test scores have), 0 for the networks of the means;
        seed: of these samples (default: the very ones of the test scores); keep_samples: whether to return what each predicts,
        4 bytes for each of K x samples x N x classes; batch_size: images at a time (default: the trial's), a matter of speed
        and memory; layout: HWC or CHW, where the shape leaves it open; threads: on the processor (default: as in training).

        Raises: DataError for images that cannot be; ConfigError for numbers that cannot.
        """
        keep_samples = yes_or_no("keep_samples", keep_samples)
        count = self.config.test_samples if samples is None else whole("samples", samples, 0)
        usual = max(2, self.config.batch_size // int(self.record.environment.get("world_size", 1)))  # a worker's at a time
        size = usual if batch_size is None else whole("batch_size", batch_size, 1)
        used = int(self.record.environment.get("threads", 1)) if threads is None else threads
        try:
            many, _ = len(images), images[:0]
        except (TypeError, LookupError):  # a number, a dict, what makes one after the other
            many = 0
        if not many:
            raise DataError(f"no images, but {shown(images)}")
        with torch_settings(used), predictive.evaluation(self.module):
            weights = self._weights(count, None if seed is None else whole("seed", seed, 0))
            found = [
                self._batch(normalized(images[at : at + size], self.form, layout, self.device, at, many), weights, keep_samples)
                for at in range(0, many, size)
            ]
        return Predictions(**_joined(found), names=self.names)

    def _weights(self, samples: int, seed: int | None) -> list[Tensor]:
        own = self.config
        given, purpose, epoch = (own.seed, "evaluate test", own.epochs) if seed is None else (seed, "evaluate images", 0)
        return predictive.draw_weights(self.module, given, purpose, samples=samples, epoch=epoch, device=self.device)

    @torch.no_grad()
    def _batch(self, images: Tensor, weights: list[Tensor], keep_samples: bool) -> tuple[Tensor, ...]:
        """The fields of `Predictions` for a batch, float32 on the processor."""
        images = images.contiguous(memory_format=predictive.layout(self.config))
        drawn, predict = list(zip(self.module.peers, weights, strict=True)), predictive.predict
        if keep_samples:
            each = [[predict(peer, images, sample[None], self.config) for sample in own] for peer, own in drawn]
            peers = [metrics.together(*own) for own in each]
            kept = torch.stack([torch.stack([sample.probabilities for sample in own]) for own in each])
        else:
            peers, kept = [predict(peer, images, own, self.config) for peer, own in drawn], None
        pair = metrics.together(*peers)
        single = torch.stack([peer.probabilities for peer in peers])
        found = pair.probabilities, single, metrics.entropy(pair.probabilities), metrics.mutual_information(pair), kept
        return tuple(value.float().cpu() for value in found if value is not None)


def _joined(batches: list[tuple[Tensor, ...]]) -> dict[str, Any]:
    """Join the fields of batches, by name; images come last, or last but the classes."""
    parts = zip(*batches, strict=True)
    joined = [torch.cat(part, dim=max(0, part[0].dim() - 2)).numpy() for part in parts]
    return dict(zip(("mean", "peers", "entropy", "mutual_information", "samples"), joined, strict=False))
