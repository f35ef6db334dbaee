"""Load the pair of a finished trial from what it left: no data set, no Ray, and nothing in a file is run."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mldiv.config import ConfigError, TrialConfig, from_dict
from mldiv.datasets.files import DataError
from mldiv.datasets.splits import Shapes
from mldiv.interface.given import device_of
from mldiv.interface.images import ImageForm
from mldiv.interface.pair import TrainedPair
from mldiv.interface.torch_settings import torch_settings
from mldiv.plugins.loading import Names, hashes, load_named
from mldiv.records import study_files
from mldiv.records.checked_files import Damaged, RecordError, read_bytes
from mldiv.records.contents import ARCHIVE, TrialRecord
from mldiv.storage import files
from mldiv.storage.object_store import SyncedFolder, working_copy
from mldiv.training.loop import make_pair
from mldiv.training.resume import CHECKPOINT
from mldiv.training.worker_cache import dataset

#: How the trials ended whose weights can be loaded.
TRAINED = ("finished", "stopped")


def load(
    place: str | os.PathLike[str], *, arm: str | None = None, seed: int | None = None,
    device: str | torch.device | None = None, plugins: Names = (), data_root: str | os.PathLike[str] | None = None,
) -> TrainedPair:  # fmt: skip
    """Load a trained pair from a study's folder, a trial's, or their address on an object store (s3://...).

    arm, seed: which of a study's; a single one need not be named. device: default: the GPU, where there is one. plugins: those
    that the trial was trained with, files or modules. data_root: the data set's folder, which only trials of mldiv 0.5.0 need
    (of digits none): their records do not say how images are to be taken.

    Raises: ConfigError for an arm or seed that there is not, naming those there are, for a plug-in or a GPU that is missing,
    and for a file or a compact copy in place of a folder;
    RecordError where weights or records are missing, damaged or not those of a trained pair; DataError; OSError.
    """
    load_named(plugins)
    device_of(device)
    if Path(place).is_file():
        raise ConfigError(f"{place} is a file: give the folder, a study's or a trial's")
    with working_copy(str(place), fetch=False) as copy:
        copy.pull(deep=False)
        if not (copy.local / "study.json").exists():
            if (copy.local / ARCHIVE).exists():
                raise ConfigError(f"{place}: a compact copy has no weights: give the study's own folder")
            if arm is not None or seed is not None:
                raise ConfigError(f"{place} is no study's folder: arm and seed choose among the trials of one")
            return read_pair(copy.local, device, data_root)
        trial = _choose(copy, str(place), arm, seed)
        copy.pull(lambda name: not name.endswith(".parquet"), folder=f"trials/{trial}")
        return read_pair(study_files.trial_folder(copy.local, trial), device, data_root)


def _choose(study: SyncedFolder, place: str, arm: str | None, seed: int | None) -> str:
    """Return the trial that answers for an arm and a seed."""
    repeats = [item for item in study_files.read_assignments(study.local) if item.phase == "repeat"]
    arms = list(dict.fromkeys(item.arm for item in repeats))
    if arm is None and len(arms) == 1:
        (arm,) = arms
    if arm not in arms:
        asked = "name an arm" if arm is None else f"no arm is called {arm!r}"
        raise ConfigError(f"{place}: {asked}; there are {', '.join(map(repr, arms)) or 'none yet'}")
    trials = {item.seed: item.trial for item in repeats if item.arm == arm}
    if seed is None and len(trials) == 1:
        (seed,) = trials
    if seed not in trials:
        asked = "name a seed" if seed is None else f"seed {seed} has no trial"
        raise ConfigError(f"{place}, arm {arm!r}: {asked}; there are {', '.join(map(str, trials))}")
    return trials[seed]


def read_pair(
    folder: Path, device: str | torch.device | None = None, data_root: str | os.PathLike[str] | None = None
) -> TrainedPair:
    """Read the pair in a trial's folder. Raises: as `load`."""
    record = study_files.read_trial(folder)
    if record.status not in TRAINED:
        reason, words = (record.reason or "").partition("\n")[0], " or ".join(TRAINED)
        raise RecordError(f"{folder}: the trial is {record.status} ({reason}), and only {words} ones have a trained pair")
    _check_plugins(record)
    config = from_dict(record.config)
    form, shapes = _form(record, config, data_root)
    with torch_settings():
        module = make_pair(config.replace(teacher="none"), shapes)
    files_of = folder / CHECKPOINT
    try:
        saved = files.load(read_bytes(files_of, None), torch.device("cpu"))
        if (saved.get("trial", record.id), saved.get("epoch")) != (record.id, record.epochs):
            raise Damaged("another trial's, or another epoch's")
        files.fill(module, saved.get("pair"))
    except FileNotFoundError:
        raise RecordError(
            f"{files_of}: no such file. It holds the weights; a trial leaves it, and whoever copied or published the records "
            "left it out: take it from where the trial was trained, or train the trial anew (mldiv.train with its settings, "
            "trial.json's config)"
        ) from None
    except Damaged as error:
        raise Damaged(f"{files_of}: {error}") from None
    return TrainedPair(record, config, module.to(device_of(device)).eval(), form, _lines(folder))


def _check_plugins(record: TrialRecord) -> None:
    """Refuse to build a network without the plug-ins that it was trained with, or with others of their names."""
    here, trained = hashes(), record.environment.get("plugins", {})
    lost = [f"{name} ({known})" for name, known in trained.items() if here.get(name) != known]
    if changed := [f"{name} ({here[name]}, not {known})" for name, known in trained.items() if here.get(name, known) != known]:
        raise ConfigError(
            f"trained with another version of the plug-in {', '.join(changed)}: the hash is that of its source; load the pair "
            "in a fresh process with the file as it was then"
        )
    if lost:
        raise ConfigError(f"trained with the plug-in {', '.join(lost)}, by name and hash: load(..., plugins=[FILE]) loads it")


def _form(record: TrialRecord, config: TrialConfig, root: str | os.PathLike[str] | None) -> tuple[ImageForm, Shapes]:
    """How the trial takes images, and what its network knows of them: from its record, or from its data."""
    known: dict[str, Any] = record.data
    if "channels" not in known:
        try:
            data = dataset(config.replace(data_root=str(root)) if root is not None else config)
        except DataError as error:
            raise DataError(
                f"trial {record.id}, of mldiv {record.environment.get('mldiv')}, does not say in its record how images are to "
                f"be normalised; its data set does, and is not there ({error}): give its folder, load(..., data_root=FOLDER)"
            ) from None
        known = known | data.form
    try:
        classes, channels, train, size = (int(known[name]) for name in ("classes", "channels", "train", "image_size"))
        mean, std = (tuple(map(float, known[name])) for name in ("mean", "std"))
        names = None if known["names"] is None else tuple(map(str, known["names"]))
    except (LookupError, TypeError, ValueError) as error:
        raise Damaged(f"trial {record.id}: what its record says of its images is damaged ({error})") from None
    return ImageForm(channels, size, mean, std, names), Shapes(classes, channels, train, size)


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of the trial's epochs; none where they are lost."""
    with suppress(RecordError):
        return list(study_files.epoch_lines(folder / "metrics.jsonl"))
    return []
