"""Train one pair from Python, on a data set by name or on one's own images."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets.splits import ImageData
from mldiv.interface.given import device_of, yes_or_no
from mldiv.interface.loading import read_pair
from mldiv.interface.own.data import Data, own_data
from mldiv.interface.pair import TrainedPair
from mldiv.interface.torch_settings import torch_settings
from mldiv.plugins.contracts import try_network
from mldiv.plugins.loading import Names, load_named
from mldiv.records import study_files
from mldiv.records.checked_files import Damaged, existing
from mldiv.records.contents import TrialRecord
from mldiv.settings.setting import TRIAL, as_before, shown, sparing
from mldiv.storage.cache import Store
from mldiv.training.fit import fit
from mldiv.training.loop import Diverged
from mldiv.training.resume import Report
from mldiv.training.worker_cache import Workspace, read_anew

#: Points of an epoch at which the gradients of a trial's terms are recorded, where its settings do not say: every other epoch.
GRADIENT_POINTS = 0.5

#: Folder in a trial's, while it trains, of the networks that are trained before its pair.
PRETRAINED = ".mldiv-pretrained"


class _Given(Workspace):
    """A workspace whose data are given, and not read."""

    def __init__(self, device: torch.device, data: ImageData) -> None:
        super().__init__(device)
        self._given = data.to(device)
        self.messages += data.notes

    def data(self, config: TrialConfig) -> ImageData:
        return self._given


def train(
    config: TrialConfig | Mapping[str, Any] | None = None, data: Data | None = None, *, test: Data | None = None,
    folder: str | os.PathLike[str] | None = None, names: Sequence[str] | None = None, padding: int | None = None,
    flip: bool = False, layout: str | None = None, device: str | torch.device | None = None, threads: int = 1,
    plugins: Names = (), progress: Report = lambda line: False,
) -> TrainedPair:  # fmt: skip
    """Train one pair to its end, as a trial of a study is trained; return it with its history and scores.

    config: settings by name (docs/settings.md; the others as they are by default, which is the paper's size, but
    ``gradient_points`` is GRADIENT_POINTS, so that the record shows whether each term acts), or a whole configuration, which is
    taken as it is. data: (images, labels), a loader of such batches, or a torch data set; None for the data set that the
    configuration names. Images as `TrainedPair.predict` takes them, kept as uint8; labels are whole numbers from 0 on, or
    soft, [images, classes]. The validation images are taken from them by ``validation_size`` or ``validation_fraction``, and
    where no ``test`` is given so are those for the final scores.

    folder: where the trial's records and weights stay (`load` reads them), and from where an interrupted one goes on; None
    keeps nothing. names: of the classes; padding: largest shift of an image in training, in pixels (default: an eighth of its
    side); flip: whether images are mirrored in training; layout: as for predictions; device: default: the GPU, where there is
    one; threads: on the processor, as many as a study's trial has by default; plugins: files or modules that enter what the
    settings name; progress: called with each epoch's line, a true answer ends the training there.

    Raises: ConfigError, DataError, PluginError; Diverged where a loss or a prediction was no number; OSError.
    """
    if not isinstance(config, TrialConfig | Mapping | None):
        raise ConfigError(f"settings: a dict by name, or a TrialConfig, in place of {shown(config)}; mldiv.presets has presets")
    if not callable(progress):
        raise ConfigError(f"progress = {shown(progress)}: expected a function of an epoch's line, or leave it out")
    load_named(plugins)
    if not isinstance(config, TrialConfig):
        config = TrialConfig(gradient_points=GRADIENT_POINTS).replace(**(config or {}))
    of_images = {"test": test, "names": names, "padding": padding, "flip": yes_or_no("flip", flip) or None, "layout": layout}
    if data is None and (said := [name for name, value in of_images.items() if value is not None]):
        raise ConfigError(
            f"{said[0]}= is of images that are given, and none are: data={config.data!r} has its own; give train(settings, "
            "(images, labels), ...), or leave it out"
        )
    where = device_of(device)
    with ExitStack() as stack:
        stack.enter_context(torch_settings(threads))
        if data is None:
            read_anew(config)
            workspace = Workspace(where)
        else:
            config = config.replace(data="own", **({} if test is not None else {"test_split": "development"}))
            images = own_data(config, data, test, names=names, padding=padding, flip=flip, layout=layout)
            workspace = _Given(where, images)
        place = Path(folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="mldiv-")))
        _check_folder(place, config, workspace)
        _check_network(config, workspace.data(config))
        record = fit(config, place, store=Store(place / PRETRAINED), workspace=workspace, report=progress)
        shutil.rmtree(place / PRETRAINED, ignore_errors=True)
        if record.status == "diverged":
            raise Diverged(record.reason)
        return read_pair(place, where)


def _check_network(config: TrialConfig, data: ImageData) -> None:
    """Refuse a network of one's own with which training fails, or whose features no gradient reaches."""
    try:
        try_network(config.arch, config.width, data.classes, data.channels, data.train.images.shape[-1])
    except ConfigError as error:
        raise ConfigError(f"network {config.arch!r}: {error}") from None


def _check_folder(folder: Path, config: TrialConfig, workspace: Workspace) -> None:
    """Refuse a folder that holds a study, or another trial: what is there would be set aside; and what is no folder."""
    if not (there := existing(folder)).is_dir():
        raise ConfigError(f"{there} is a file: take another folder")
    if (folder / "study.json").exists():
        raise ConfigError(f"{folder} holds a study: take another folder for a single trial")
    if not (folder / "trial.json").exists():
        return
    with suppress(Damaged):
        found = study_files.read_trial(folder)
        data = workspace.data(config)
        if found.id != config.id or found.of_other_images(data.whole_fingerprint, data.test_fingerprint):
            what = _other_settings(found, config) if found.id != config.id else "the same settings, but other images"
            raise ConfigError(f"{folder} holds a trial with {what}: take another folder, or remove it")


def _other_settings(found: TrialRecord, config: TrialConfig) -> str:
    before, places = as_before(TrialConfig) | found.config, sparing(TrialConfig, TRIAL)
    changed = [
        f"{name} = {before[name]!r}, not {value!r}"
        for name, value in asdict(config).items()
        if name not in places and value != before[name]
    ]
    return "other settings" + f" ({'; '.join(changed)})" * bool(changed)
