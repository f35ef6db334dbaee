"""Keep the data on a worker's device, and a pair with its compiled steps, from one trial to the next."""

from collections.abc import Callable, Hashable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.datasets.files import check_hash
from mldiv.datasets.splits import ImageData, load
from mldiv.environment import numerics
from mldiv.method.pair import MutualPair
from mldiv.settings.setting import FIRST_STAGE_STEP, STEP, fields, sparing
from mldiv.training.loop import make_pair
from mldiv.training.steps.choice import compile_steps, fastest

#: Settings that compiled steps take as tensors, or do not see: pairs that differ only in them share compiled steps.
SHARED = sparing(TrialConfig, STEP)

#: Settings that choose code of stage two: it is compiled once for each combination, stage one is left as it is.
STAGE_TWO = tuple(sorted(sparing(TrialConfig, FIRST_STAGE_STEP)))

#: The others: what the code of a step is made for.
FORM = tuple(name for name in fields(TrialConfig) if name not in {*SHARED, *STAGE_TWO})

#: Settings that are arguments of `splits.load` by the same name.
CUT = ("validation_fraction", "train_size", "validation_size", "test_size", "test_split", "image_size")


def dataset(config: TrialConfig) -> ImageData:
    """Read the trial's data; what is read is kept for the trials of this process that ask for the same.

    Raises: DataError, naming the file and how to get it.
    """
    root, labels = (Path(place) if place else None for place in (config.data_root, config.train_labels))
    return _dataset(config.data, root, train_labels=labels, labels_hash=config.train_labels_hash, **cut_of(config))


def cut_of(config: TrialConfig) -> dict[str, Any]:
    """Return the settings by which `splits.load` cuts a data set, as its arguments."""
    return {"seed": config.split_seed} | {name: getattr(config, name) for name in CUT}


def read_anew(config: TrialConfig) -> None:
    """Forget data that lie at a place of one's own: what a process is asked for next may have changed there."""
    if config.data_root is not None:
        _dataset.cache_clear()


@lru_cache(maxsize=1)
def _dataset(name: str, root: Path | None, *, train_labels: Path | None, labels_hash: str, **cuts: Any) -> ImageData:
    if train_labels is not None:
        check_hash(train_labels, labels_hash)
    return load(name, root, train_labels=train_labels, **cuts)


def stage_two_code(config: TrialConfig) -> tuple[Hashable, ...]:
    """Return the settings that choose the code of stage two, such as the kernel."""
    return tuple(getattr(config, name) for name in STAGE_TWO)


class Workspace:
    """The data and the pair that the next trial can use, dropped when a trial asks for something else.

    lanes: how many trials at most are stepped at once (`training.lanes`).
    """

    def __init__(self, device: torch.device | None = None, lanes: int = 1) -> None:
        self.device, self.lanes = device or torch.device("cpu"), lanes
        numerics.prepare(self.device)
        #: Why steps are not compiled although the trial asks for it.
        self.fallback: str | None = None
        #: What was found out since the last trial, for the record of the one that comes.
        self.messages: list[str] = []
        self._fastest: dict[tuple[Any, ...], str] = {}
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

    def how(self, config: TrialConfig, data: ImageData) -> str:
        """Return how the trial's steps are computed: what `compile` says, for auto the fastest of the three on a GPU."""
        if config.steps != "auto":
            return config.steps
        if self.device.type != "cuda" or distributed.size() > 1 or self.lanes > 1:
            return "off"
        if (shape := self._shape_of(config, data)) not in self._fastest:
            build = partial(make_pair, config, data.shapes, self.device)
            pairs: dict[str, Callable[[], MutualPair | str]] = {"off": build, "graph": build}
            pairs["on"] = partial(self._compiled_or_why, config, data)
            self._fastest[shape], said = fastest(config, data, self.device, pairs)
            self.messages.append(said)
        return self._fastest[shape]

    def _shape_of(self, config: TrialConfig, data: ImageData) -> tuple[Any, ...]:
        """What the code of a step, but for its stage two, is made for."""
        return data.fingerprint, *(getattr(config, name) for name in FORM if name != "compile")

    def pair(self, config: TrialConfig, data: ImageData) -> MutualPair:
        """Return a pair at its random start on the device, its steps compiled if the trial asks for that."""
        if self.how(config, data) == "on":
            return self._compiled_pair(config, data)
        return make_pair(config, data.shapes, self.device)

    def _compiled_or_why(self, config: TrialConfig, data: ImageData) -> MutualPair | str:
        pair = self._compiled_pair(config, data)
        return self.fallback or pair

    def _compiled_pair(self, config: TrialConfig, data: ImageData) -> MutualPair:
        build, shape = partial(make_pair, config, data.shapes, self.device), self._shape_of(config, data)
        if self._pair is None or self._shape != shape:
            self._pair = None  # the old one's memory first
            torch.compiler.reset()
            self._pair, self._shape, self.fallback, self._compiled = build(), shape, None, set()
            self._pair.compile()
        self._pair.adopt(build())
        code = stage_two_code(config)
        if self.fallback is None and code not in self._compiled:
            self.fallback = compile_steps(config, self._pair, data, self.device)
            self._compiled.add(code)
            self._pair.adopt(build())
        return self._pair
