"""Keep the data on a worker's device, and a pair with its compiled steps, from one trial to the next."""

import warnings
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from mldiv.config import TrialConfig
from mldiv.datasets.files import check_hash
from mldiv.datasets.splits import ImageData, load
from mldiv.evaluation import predictive
from mldiv.method.pair import MutualPair
from mldiv.setting import FIRST_STAGE_STEP, STEP, sparing
from mldiv.training.loop import epoch_batches, let_fusion_learn, make_pair

#: Settings that compiled steps take as tensors, or do not see: pairs that differ only in them share compiled steps.
SHARED = sparing(TrialConfig, STEP)

#: Settings that choose code of stage two: it is compiled once for each combination, stage one is left as it is.
STAGE_TWO = sparing(TrialConfig, FIRST_STAGE_STEP)


def dataset(config: TrialConfig) -> ImageData:
    """Read the trial's data; what is read is kept for the trials of this process that ask for the same.

    Raises: DataError, naming the file and how to get it.
    """
    return _dataset(
        config.data,
        Path(config.data_root) if config.data_root else None,
        seed=config.split_seed,
        validation_fraction=config.validation_fraction,
        train_size=config.train_size,
        validation_size=config.validation_size,
        test_size=config.test_size,
        test_split=config.test_split,
        image_size=config.image_size,
        train_labels=Path(config.train_labels) if config.train_labels else None,
        labels_hash=config.train_labels_hash,
    )


@lru_cache(maxsize=1)
def _dataset(name: str, root: Path | None, *, train_labels: Path | None, labels_hash: str, **cuts: Any) -> ImageData:
    if train_labels is not None:
        check_hash(train_labels, labels_hash)
    return load(name, root, train_labels=train_labels, **cuts)


class Workspace:
    """The data and the pair that the next trial can use, dropped when a trial asks for something else.

    lanes: how many trials at most are stepped at once (`training.lanes`).
    """

    def __init__(self, device: torch.device | None = None, lanes: int = 1) -> None:
        self.device, self.lanes = device or torch.device("cpu"), lanes
        #: Why steps are not compiled although the trial asks for it.
        self.fallback: str | None = None
        self._source: ImageData | None = None
        self._data: ImageData | None = None
        self._pair: MutualPair | None = None
        self._shape: tuple[Any, ...] | None = None
        self._compiled: set[tuple[Any, ...]] = set()

    def data(self, config: TrialConfig) -> ImageData:
        """Return the trial's data on the device.

        Raises: DataError, naming the file and how to get it.
        """
        source = dataset(config)
        if source is not self._source or self._data is None:
            self._data = None  # the old one's memory first
            self._source, self._data = source, source.to(self.device)
        return self._data

    def pair(self, config: TrialConfig, data: ImageData) -> MutualPair:
        """Return a pair at its random start on the device, its steps compiled if the trial asks for that."""
        build = partial(make_pair, config, data.shapes, self.device)
        if not config.compile:
            return build()
        shape = (data.fingerprint, *(getattr(config, name) for name in vars(config) if name not in SHARED | STAGE_TWO))
        if self._pair is None or self._shape != shape:
            self._pair = None  # the old one's memory first
            torch.compiler.reset()
            self._pair, self._shape, self.fallback, self._compiled = build(), shape, None, set()
            self._pair.compile(mode="reduce-overhead" if self.device.type == "cuda" else None)  # on a GPU: CUDA graphs
        self._pair.adopt(build())
        code = tuple(getattr(config, name) for name in sorted(STAGE_TWO))
        if self.fallback is None and code not in self._compiled:
            self.fallback = _try_steps(config, self._pair, data, self.device)
            self._compiled.add(code)
            self._pair.adopt(build())
        return self._pair


def _try_steps(config: TrialConfig, pair: MutualPair, data: ImageData, device: torch.device) -> str | None:
    """Compile both stages by a step of each; if that fails, undo it and return why."""
    torch._dynamo.config.recompile_limit = 256  # one for each combination of STAGE_TWO, in one long-lived process
    torch._dynamo.config.suppress_errors = False
    try:
        for diverse in (False, True):
            _try_step(config, pair, data, diverse, device)
    except Exception as error:
        pair._compiled_call_impl = None
        reason = " ".join(str(error).split()[:40])
        return f"steps are not compiled: {type(error).__name__}: {reason}"
    torch._dynamo.config.suppress_errors = True  # should compiling once more fail in mid-trial, that frame runs as it is
    return None


def _try_step(config: TrialConfig, pair: MutualPair, data: ImageData, diverse: bool, device: torch.device) -> None:
    images, labels = next(epoch_batches(config, data, 0, "compile", device))
    noise = pair.draw_noise()
    let_fusion_learn(config, pair, diverse and config.fusion_training != "switch")
    with warnings.catch_warnings(), predictive.precision(config, device):
        warnings.simplefilter("ignore")
        loss, _ = pair(images, labels, noise, diverse)
    loss.backward()
