"""One run of a study: its flags checked, its configuration and its arms, before any work starts."""

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from mldiv.cli import checks
from mldiv.cli.flags import full_path, parse_margins, parse_settings, places
from mldiv.cluster.nodes import check_address, emulates_bf16, has_gpus, memory_here
from mldiv.config import ConfigError, TrialConfig, nearest
from mldiv.datasets.files import DataError, content_hash
from mldiv.datasets.splits import TooFewImages
from mldiv.environment import checkout
from mldiv.environment.checkout import VERSION
from mldiv.environment.terminal import plain, say
from mldiv.plugins import loading
from mldiv.presets import PRESETS, Preset, configure, cut_of
from mldiv.records import study_files
from mldiv.records.checked_files import RecordError, finite
from mldiv.records.contents import LEVEL, StudyRecord, parse_record
from mldiv.settings import kernel_settings
from mldiv.storage.cache import Store
from mldiv.storage.object_store import Location, working_copy
from mldiv.storage.public_weights import located
from mldiv.storage.remote_cache import open_store
from mldiv.study import Changes, Study, Weights
from mldiv.sweep.arm import Arm, make_arm
from mldiv.sweep.looks import Sequential
from mldiv.sweep.plan import Plan, search_seeds
from mldiv.sweep.selection import SELECTION
from mldiv.training.worker_cache import dataset, read_anew

#: Flags that are settings of the configuration, by the same name.
SETTING_FLAGS = ("data", "arch", "width", "ood", "keep_predictions")


@dataclass(frozen=True)
class StudyRun:
    """A study and what its flags say, checked.

    header: the study as it is recorded, which names the arms that are trained; base: the configuration that they change; flags:
    the others, as `parse_flags` returns them; place: the study's; store: where trials share first stages.
    """

    study: Study
    header: StudyRecord
    base: TrialConfig
    preset: Preset
    flags: Namespace
    place: Location
    store: Store

    @property
    def share(self) -> bool:
        """Whether trials share first stages."""
        return not self.flags.no_cache

    def plan(self, folder: Path, storage: BaseStorage | None = None) -> Plan:
        """Make the study's plan on what its folder holds. storage: where Optuna keeps its searches (default: nowhere)."""
        header = self.header
        return Plan(
            make_arms(self.study, self.base, header.changes), folder, samples=header.samples, seeds=tuple(header.seeds),
            batch=header.batch, rule=self.flags.select, search_seeds=header.search_seeds, storage=storage, share=self.share,
            drawn=header.drawn,
        )  # fmt: skip

    def at_look(self, seeds: int) -> "StudyRun":
        """Return the run with so many seeds."""
        return replace(self, header=replace(self.header, seeds=first_seeds(seeds)))

    def say(self, text: str) -> None:
        """Tell the user, beside what the study prints as its result."""
        say(f"{self.study.name}: {text}")


def prepare(study: Study, flags: Namespace) -> StudyRun:
    """Check all that flags, settings and data can be wrong in, before any work.

    Raises: ConfigError, naming the flag or setting; DataError, naming the file and how to get it.
    """
    place, store = places(flags, study.name)
    preset = choose_preset(study, flags)
    base = configure_trials(study, flags, preset)
    read_anew(base)
    with suppress(DataError):  # of arms that depend on the data; what can be said without them is said first
        check_design(study, flags, preset, base)
    checks.check_data(base, flags.download)
    base = fit_cut(study, flags, preset, base)
    changes, arms = check_design(study, flags, preset, base)
    checks.check_trials([arm.config for arm in arms], memory_here() if flags.address == "local" else math.inf)
    checks.check_metrics(base)
    checks.check_terms(arms)
    checks.check_other_images(base)
    for words in checks.check_pretrained([arm.config for arm in arms]):
        print(plain(f"{study.name}: {words}"), file=sys.stderr)
    for words in (
        "" if len(arms) > 1 else f"{arms[0].name!r} is the only arm: nothing is compared",
        checks.idle_root(base),
        checks.check_selected(arms, flags.stop_early, count_trials(study, flags, preset)),
        checks.idle_flags(flags, count_trials(study, flags, preset) > 0 and any(arm.searched for arm in arms)),
        checks.check_precision([arm.config for arm in arms], flags.address == "local" and emulates_bf16()),
    ):
        if words:
            print(f"{study.name}: {words}", file=sys.stderr)
    if not flags.dry_run:
        check_address(flags.address)
    return StudyRun(
        study=study,
        header=describe_study(study, flags, preset, base, arms, changes),
        base=base,
        preset=PRESETS[preset],
        flags=flags,
        place=place,
        store=open_store(store, int(flags.cache_size * 1e9)),
    )


def choose_preset(study: Study, flags: Namespace) -> str:
    """Return the preset's name; --preset auto asks the cluster, of a study that trains here this machine."""
    name = flags.preset
    if name == "auto":
        name = "paper" if has_gpus(flags.address) else "demo"
        why = "the cluster has GPUs" if name == "paper" else "no GPU here"
        print(f"{study.name}: preset {name} ({why}; --preset chooses)", file=sys.stderr)
    if name not in PRESETS:
        raise ConfigError(f"--preset {name!r} is unknown{nearest(name, ['auto', *PRESETS])}")
    return name


def configure_trials(study: Study, flags: Namespace, preset: str, sets: Sequence[str] | None = None) -> TrialConfig:
    """Return the configuration that the arms change: the preset's, with the study's settings and those of the flags.

    Raises: ConfigError where --set would let a choice of defaults see the official test data, or contradicts a flag.
    """
    found = parse_settings(flags.set if sets is None else sets)
    for name in SETTING_FLAGS:
        if name in found and getattr(flags, name) not in (None, found[name]):
            raise ConfigError(
                f"--set {name}={found[name]} contradicts --{name.replace('_', '-')} {getattr(flags, name)}: leave one out"
            )
    if "test_split" in found and "test_split" in study.settings:
        raise ConfigError(f"--set test_split: {study.name} is for choosing defaults, which never sees the test data")
    root = str(full_path("--data-root", flags.data_root)) if flags.data_root else None
    given = {name: found.get(name, getattr(flags, name)) for name in SETTING_FLAGS}
    return configure(preset, given | {"data_root": root}, study.settings).replace(**found, **named_files(flags))


def named_files(flags: Namespace) -> dict[str, str]:
    """Return the settings of the files that flags name, with the hash of each, which is part of a trial's identity.

    Raises: DataError for one that cannot be read.
    """
    found: dict[str, str] = {}
    for name in ("train_labels", "pretrained"):
        if (given := getattr(flags, name)) is not None:
            path = (located(given) if name == "pretrained" else None) or full_path(f"--{name.replace('_', '-')}", given)
            found |= {name: str(path), f"{name}_hash": content_hash(path)}
    return found


def fit_cut(study: Study, flags: Namespace, preset: str, base: TrialConfig) -> TrialConfig:
    """Return the configuration less what the preset asks of a data set that has fewer images; say so.

    All of them are taken then, those for validation by validation_fraction, and so small a batch that an epoch has two steps at
    least. What the study or --set asks for stays.

    Raises: DataError where that is more than there is.
    """
    asked = study.settings.keys() | parse_settings(flags.set).keys()
    cut = cut_of(PRESETS[preset], base.data).keys() - asked
    for names in (set(), {"test_size"}, {"train_size", "validation_size"}, cut):
        fitted = base.replace(**dict.fromkeys(names & cut))
        try:
            data = dataset(fitted)
        except TooFewImages:
            if names >= cut:
                raise
            continue
        break
    if "batch_size" not in asked and 4 <= len(data.train) < fitted.batch_size:
        fitted = fitted.replace(batch_size=2 ** int(math.log2(len(data.train) / 2)))
    if words := clipped(preset, base, fitted):
        print(f"{study.name}: {words}: {data.describe()}", file=sys.stderr)
    return fitted


#: By setting that a data set was too small for, what is taken then.
ALL_OF = {"train_size": "all training images", "test_size": "all test images", "validation_size": "a share for validation"}


def clipped(preset: str, base: TrialConfig, fitted: TrialConfig) -> str:
    """Say what of a preset was fitted to a small data set; nothing where all of it was kept."""
    batch = f"batch_size {fitted.batch_size} in place of {base.batch_size}" if fitted.batch_size != base.batch_size else ""
    changed = [name for name in ("train_size", "test_size", "validation_size") if getattr(fitted, name) != getattr(base, name)]
    sizes = "all there are" if changed[:2] == ["train_size", "test_size"] else ALL_OF[changed[0]] if changed else ""
    words = ", and ".join(filter(None, (sizes, batch)))
    return f"fewer images than preset {preset} takes, so {words}" if words else ""


def check_design(study: Study, flags: Namespace, preset: str, base: TrialConfig) -> tuple[dict[str, Changes], list[Arm]]:
    """Return what the arms change, and the arms, refusing what cannot be compared."""
    if faults := list(study.faults(list(choose_arms(study, (), base)))):
        said = "; ".join(faults)
        raise ConfigError(f"{said}{'' if said.endswith('?') else '.'} Mend it where the study is defined")
    changes = choose_arms(study, flags.arm, base)
    arms = make_arms(study, base, changes)
    checks.check_arms(arms, searches=count_trials(study, flags, preset) > 0)
    checks.check_heard(
        parse_settings(flags.set), base, configure_trials(study, flags, preset, sets=()),
        lambda config: make_arms(study, config, choose_arms(study, flags.arm, config)),
        lambda: held_settings(places(flags, study.name)[0]),
    )  # fmt: skip
    checks.check_workers(flags, [arm.config for arm in arms])
    checks.check_lanes(flags.lanes, [arm.config for arm in arms])
    if study.sizes is not None:
        study.own("sizes", base)  # timed once all of Ray is there; what cannot be is refused before
    return changes, arms


def held_settings(place: Location) -> dict[str, Any]:
    """Return the settings of the study that a place holds; none where there is none that can be read."""
    with suppress(RecordError, OSError, ValueError), working_copy(place, fetch=False) as folder:
        folder.pull(deep=False)
        if (folder.local / "study.json").exists():
            return study_files.read_study(folder.local).settings
    return {}


def choose_arms(study: Study, names: Sequence[str], base: TrialConfig) -> dict[str, Changes]:
    """Return what every arm changes; with names, that of the baseline and of these arms alone.

    Raises: ConfigError for a name that is no arm.
    """
    changes = study.own_arms(base)
    for name in names:
        if name not in changes:
            raise ConfigError(f"--arm {name!r} is unknown{nearest(name, changes)}")
    return {name: settings for name, settings in changes.items() if not names or name in (study.baseline, *names)}


def make_arms(study: Study, base: TrialConfig, changes: dict[str, Changes]) -> list[Arm]:
    """Make the arms, of which nothing has been asked yet."""
    return [
        make_arm(name, base, settings, study.searched, study.own_ranges(), study.members.get(name, "pair"))
        for name, settings in changes.items()
    ]


def describe_study(
    study: Study, flags: Namespace, preset: str, base: TrialConfig, arms: Sequence[Arm], changes: dict[str, Changes]
) -> StudyRecord:  # fmt: skip
    """Return study.json as the run begins with it.

    Raises: Damaged where it could not be read again, and all would be trained for nothing.
    """
    names, usual = list(changes), PRESETS[preset]
    seeds = usual.seeds if flags.seeds is None else flags.seeds
    looks = seeds.looks() if isinstance(seeds, Sequential) else []
    others = [arm for arm in names if arm != study.baseline]
    found = StudyRecord(
        name=study.name,
        question=study.question,
        scientific=study.scientific,
        preset=preset,
        baseline=study.baseline,
        arms=names,
        changes=changes,
        compare=[arm for arm in study.compare if arm in names] or others,
        contrasts=choose_contrasts(study, flags.arm, names),
        members=study.members,
        seeds=first_seeds(looks[0] if looks else seeds),
        looks=looks,
        level=LEVEL / max(len(looks), 1),
        samples=count_trials(study, flags, preset),
        search_seeds=list(search_seeds(study.search_seeds)),
        searched={arm.name: list(arm.searched) for arm in arms},
        batch=study.batch if flags.open_suggestions is None else flags.open_suggestions,
        selection=SELECTION[flags.select].title,
        objectives=list(SELECTION[flags.select].objectives),
        early_stopping="ASHA within each arm's search, at equal epochs after the last switch" if flags.stop_early else None,
        margins=parse_margins(flags.margin),
        trends=study.own("trends", base) or {},
        surface={name: list(ends) for name, ends in study.own("surface").items()} if study.surface else None,
        settings=asdict(base),
        kernel_defaults=kernel_settings.defaults_beside_fields(base),
        data="; ".join(filter(None, (dataset(base).describe(), clipped(preset, configure_trials(study, flags, preset), base)))),
        fingerprint=dataset(base).whole_fingerprint,
        data_is_subset=bool(base.train_size or base.test_size),
        world_size=flags.workers,
        plugins=loading.hashes(),
        plugin_files=loading.files(),
        environment={"mldiv": VERSION, "commit": checkout.commit()},
    )
    parse_record(StudyRecord, finite(asdict(found)), "the study")
    return found


def first_seeds(count: int) -> list[int]:
    """Return the seeds of so many repeats."""
    return list(range(1, count + 1))


def count_trials(study: Study, flags: Namespace, preset: str) -> int:
    """Return how many Optuna trials each searched arm gets."""
    return study.samples.get(preset, PRESETS[preset].samples) if flags.trials is None else flags.trials


def choose_contrasts(study: Study, chosen: Sequence[str], arms: list[str]) -> dict[str, Weights]:
    """Return the study's contrasts; where arms were chosen, those that these allow."""
    found = study.own_contrasts(arms)
    return {name: weights for name, weights in found.items() if not chosen or set(weights) <= set(arms)}
