"""The folder of a study: opened, held against a second run, and continued: as it is, or grown by seeds, arms and trials."""

import json
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mldiv.cli.checks import check_links, check_writable
from mldiv.cli.run import StudyRun
from mldiv.config import ConfigError, TrialConfig
from mldiv.environment.terminal import first_few
from mldiv.plugins import loading
from mldiv.records import study_files
from mldiv.records.checked_files import RecordError, read_json
from mldiv.records.contents import GIVEN, OF_IMAGES, StudyRecord, TrialRecord
from mldiv.settings import setting
from mldiv.storage.object_store import Location, SyncedFolder, is_url, working_copy
from mldiv.sweep.common_points import drawn_after
from mldiv.training.worker_cache import dataset

#: Fields of study.json in which a folder's study may differ from the one that continues it; settings are compared one by one.
FREE = frozenset(
    {
        "environment", "settings", "data", "chosen", "importance", "fingerprint", "drawn", "grown", "plugin_files", "trends",
        "kernel_defaults",
    }
)  # fmt: skip

#: Trials that a refusal names at most.
MOST_NAMED = 20


@contextmanager
def open_folder(run: StudyRun) -> Iterator[tuple[StudyRun, SyncedFolder]]:
    """Open the study's folder, or a copy here of one on an object store, with the records that are there.

    Yields the run too, as it continues what the folder holds.

    Raises: ConfigError where a place cannot be written, or holds another configuration of the study; RecordError; OSError.
    """
    check_writable("out", run.place, run.flags.dry_run)
    if run.share:
        check_writable("cache", run.store.place, run.flags.dry_run)
    with working_copy(run.place, fetch=False) as folder, only_driver(run, folder):
        check_links(folder.local)
        folder.pull_study(of_trials=("/trial.json",))
        found = continued(run, folder)
        check_trials_there(found, folder.local)
        yield found, folder


@contextmanager
def only_driver(run: StudyRun, folder: SyncedFolder) -> Iterator[None]:
    """Hold a study's folder on a disk against a second run of it.

    Raises: ConfigError, saying who holds it.
    """
    if run.flags.dry_run or is_url(run.place):
        yield
        return
    lock, who = FileLock(folder.local / ".running", timeout=0), folder.local / ".running.json"
    try:
        lock.acquire()
    except Timeout:
        said = "nobody says who"
        with suppress(OSError, RecordError):
            said = ", ".join(f"{name} {value}" for name, value in read_json(who).items())
        raise ConfigError(
            f"{run.place} is in use by another run of this study ({said}): wait for it, end it, or take another --out"
        ) from None
    except (OSError, NotImplementedError) as error:  # a second run would train into it beside this one
        raise ConfigError(
            f"{run.place}: its files cannot be locked ({getattr(error, 'strerror', None) or error}): take another --out, or "
            "mount it with locks (NFS: without nolock)"
        ) from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        study_files.write_json(who, {"process": os.getpid(), "host": platform.node(), "since": since})
        yield
    finally:
        who.unlink(missing_ok=True)
        lock.release()


def continued(run: StudyRun, folder: SyncedFolder) -> StudyRun:
    """Return the run as it continues the folder's study, extended where it has more seeds, arms or searched trials.

    Raises: ConfigError, naming what differs and the flags that continue the study; RecordError.
    """
    if not (folder.local / "study.json").exists():
        return run
    here, there = run.header, study_files.read_study(folder.local)
    if any(item.trial.startswith(GIVEN) for item in study_files.read_assignments(folder.local)):
        raise ConfigError(
            f"{run.place} is a copy of a study with predictions from elsewhere (mldiv.add_predictions): continue the study "
            "itself, and add them to it anew"
        )
    if differing := list(_differing(here, there)):
        words = "; ".join(f"{name} ({old!r} there, {new!r} here)" for name, old, new in differing)
        raise ConfigError(
            f"{run.place} holds another configuration of this study: {words}. {_ways(run.place, here, there, differing)}"
        )
    if grown := _grown(here, there):
        run.say(f"extends the study in {run.place}: {grown}; trials that are recorded are kept")
    reported = [[len(there.seeds), len(there.arms)]] if grown and there.chosen is not None else []
    drawn = drawn_after(there.drawn, there.searched, here.searched)
    return replace(run, header=replace(here, drawn=drawn, grown=there.grown + reported))


def check_trials_there(run: StudyRun, folder: Path) -> None:
    """Refuse trials that would count as trained and are not this study's, as a folder that was copied may hold them.

    They were trained with other images (those with the cut of an arm are looked at), or with what another version of a loaded
    plug-in entered.

    Raises: ConfigError, naming them.
    """
    there = cuts(run)

    @cache
    def images(cut: str) -> tuple[str, str, str]:
        data = dataset(there[cut])
        return data.name, data.whole_fingerprint, data.test_fingerprint

    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("trials/*/trial.json")):
        with suppress(RecordError):  # of a damaged one, which is trained anew
            record = study_files.read_trial(path.parent)
            cut = _cut(record.config)
            if why := _not_of(images(cut) if cut in there else None, record):
                found.setdefault(why, []).append(path.parent.name)
    for why, trials in found.items():
        shown = first_few(trials, MOST_NAMED, " ")
        raise ConfigError(f"{run.place} holds {len(trials)} trials {why}: remove them from {folder / 'trials'} ({shown}), or "
                          "take another --out")  # fmt: skip


def cuts(run: StudyRun) -> dict[str, TrialConfig]:
    """Return a configuration of each cut of the data that an arm has, by what decides its images."""
    configs = [run.base, *(run.base.replace(**changes) for changes in run.header.changes.values())]
    return {_cut(vars(config)): config for config in configs}


def _cut(config: Mapping[str, Any]) -> str:
    return str([config.get(name) for name in OF_IMAGES])


def _not_of(images: tuple[str, str, str] | None, record: TrialRecord) -> str | None:
    """Say what a trial was trained with that is not there; images: their name and fingerprints, where an arm has its cut."""
    if images and record.of_other_images(*images[1:]):
        return f"with other images than {images[0]} has now"
    for name, before in record.environment.get("plugins", {}).items():
        entered = loading.entered(name)
        if before != loading.hashes().get(name, before) and (
            "metric" in entered or any(value in names for names in entered.values() for value in record.config.values())
        ):
            return f"with what another version of the plug-in {name} enters"
    return None


def _differing(here: StudyRecord, there: StudyRecord) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old and new value of what keeps ``here`` from continuing ``there``."""
    more_arms, fewer_arms = len(here.arms) > len(there.arms), not set(here.arms) >= set(there.arms)
    for name in (item.name for item in fields(StudyRecord) if item.name not in FREE):
        old, new = (_acting(record) if name == "changes" else getattr(record, name) for record in (there, here))
        if name == "seeds" and here.looks and here.looks == there.looks:
            continue  # every run looks anew, from the first look on
        if old != new and not (name in EXTENDS and EXTENDS[name](old, new, more_arms)):
            if fewer_arms and name in OF_ARMS:  # said already
                continue
            if isinstance(old, dict) and isinstance(new, dict):
                shared = name in BY_ARM and here.arms != there.arms
                old, new = _where_differing(old, new, set(old) & set(new) if shared else set(old) | set(new))
            if old != new:
                yield name, old, new
    before, paths = setting.as_before(TrialConfig) | there.settings, setting.sparing(TrialConfig, setting.TRIAL)
    yield from (
        (name, before[name], value) for name, value in here.settings.items() if name not in paths and before[name] != value
    )
    if there.fingerprint not in (None, here.fingerprint):  # of a study begun by mldiv 0.5.0 it is not known
        yield "fingerprint", there.fingerprint, here.fingerprint


def _where_differing(old: dict[str, Any], new: dict[str, Any], among: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the entries of both under the keys of ``among`` at which they differ."""
    keys = {key for key in among if old.get(key, ...) != new.get(key, ...)}
    return {key: old[key] for key in old if key in keys}, {key: new[key] for key in new if key in keys}


def _acting(record: StudyRecord) -> dict[str, dict[str, Any]]:
    """Return what each arm changes, less what it changes to the value that the study's settings have anyway."""
    settings = setting.as_before(TrialConfig) | record.settings
    return {
        arm: {name: value for name, value in changes.items() if settings.get(name) != value}
        for arm, changes in record.changes.items()
    }


def _holds(old: Any, new: Any, more_arms: bool) -> bool:
    return set(old) <= set(new)


def _of_more_arms(old: dict[str, Any], new: dict[str, Any], more_arms: bool) -> bool:
    return more_arms and all(new.get(name) == value for name, value in old.items())


#: Fields of study.json that follow from which arms there are, and those with an entry for each.
OF_ARMS, BY_ARM = {"compare", "contrasts"}, {"changes", "searched"}
#: By field of study.json, whether its new value, unlike the old one, extends a study: (old, new, whether there are more arms).
#: What was compared follows from the arms; contrasts may be added to, for they train nothing.
EXTENDS: dict[str, Callable[[Any, Any, bool], bool]] = {
    "seeds": _holds,
    "arms": _holds,
    "samples": lambda old, new, more_arms: new > old,
    "changes": _of_more_arms,
    "searched": _of_more_arms,
    "contrasts": lambda old, new, more_arms: old.items() <= new.items(),
    "compare": lambda old, new, more_arms: more_arms,
}


def _grown(here: StudyRecord, there: StudyRecord) -> str:
    """Say by what the study grows; nothing where it does not."""
    counts = {
        "arms": (len(there.arms), len(here.arms)),
        "seeds": (len(there.seeds), len(here.seeds)),
        "searched trials of an arm": (there.samples, here.samples),
    }
    return ", ".join(f"{new} {name} in place of {old}" for name, (old, new) in counts.items() if new > old)


def _seeds(there: StudyRecord) -> str:
    return f"--seeds auto:{there.looks[-1]}" if there.looks else f"--seeds {len(there.seeds)}"


#: By field of study.json, the flags that ask for what it holds.
FLAGS: dict[str, Callable[[StudyRecord], str]] = {
    "preset": lambda there: f"--preset {there.preset}",
    "arms": lambda there: " ".join(f"--arm {shlex.quote(arm)}" for arm in there.arms if arm != there.baseline),
    "seeds": _seeds,
    "looks": _seeds,
    "samples": lambda there: f"--trials {there.samples}",
    "batch": lambda there: f"--open-suggestions {there.batch}",
    "margins": lambda there: " ".join(f"--margin {name}={size:g}" for name, size in there.margins.items()),
    "world_size": lambda there: f"--workers {there.world_size}",
}


def _of_file(there: StudyRecord, name: str, old: str) -> str:
    """Say with which file a study goes on whose hash is a setting, which no flag sets; old: the hash there."""
    file = name.removesuffix("_hash")
    flag = f"--{file.replace('_', '-')}"
    return f"{flag} {shlex.quote(there.settings.get(file) or 'FILE')} as it was then" if old else f"without {flag}"


def _of_plugins(there: StudyRecord, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Say with which plug-ins a study goes on; old, new: the hashes of those that differ, there and here."""
    named = {name: shlex.quote(there.plugin_files.get(name, name)) for name in old}
    kept = [f"--plugin {file}{' as it was then' * (name in new)}" for name, file in named.items()]
    return kept + [f"without the plug-in {name}" for name in new if name not in old]


def _ways(place: Location, here: StudyRecord, there: StudyRecord, differing: list[tuple[str, Any, Any]]) -> str:
    """Say which flags continue the study in ``place``, and how another one takes over what it shares with it."""
    names, other = {name for name, _, _ in differing}, shlex.quote(f"{place}-2")
    another = f"another --out, for instance --out {other}"
    if "name" in names:
        return f"It is another study's folder: take {another}"
    flags = list(dict.fromkeys(FLAGS[name](there) for name, _, _ in differing if name in FLAGS))
    changed = {name: old for name, old, _ in differing if name in here.settings}
    flags += [f"--set {name}={json.dumps(old)}" for name, old in changed.items() if not name.endswith("_hash")]
    files = [_of_file(there, name, old) for name, old in changed.items() if name.endswith("_hash")]
    files += [words for name, old, new in differing if name == "plugins" for words in _of_plugins(there, old, new)]
    said = ", ".join(filter(None, (" ".join(flags), *files)))
    asked = f" ({said})" if said else ""
    same = f"Use the same flags to continue it{asked}"
    if "train_labels_hash" in names:  # the images' fingerprint follows from their labels
        return f"{same}, or {another}"
    if "fingerprint" in names:
        return f"These are other images: take {another}"
    if is_url(place):
        return f"{same}, or another --out, which shares first stages with it"
    if not any(Path(place).glob("trials/*/trial.json")):
        return f"{same}, or {another}, which shares first stages with it"
    return (
        f"{same}, or {another}: it shares first stages with this one, and finished trials too after `mkdir {other} && cp -r "
        f"{shlex.quote(str(place))}/trials {other}`"
    )
