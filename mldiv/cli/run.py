"""One invocation of a study: its flags checked, its configuration and its plan, before any work starts."""

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mldiv
from mldiv import records
from mldiv.cli.flags import parse_settings, places
from mldiv.config import ConfigError, TrialConfig, nearest
from mldiv.datasets import ood, sources
from mldiv.method.networks import build
from mldiv.presets import PRESETS, Preset, configure
from mldiv.setting import TRIAL, fields, sparing
from mldiv.storage import object_store
from mldiv.storage.remote_cache import open_store
from mldiv.study import Study
from mldiv.sweep.plan import Plan, journal, search_seeds
from mldiv.sweep.search_space import SELECTION
from mldiv.training.loop import dataset

EARLY_STOPPING = "ASHA within each arm's search, at equal epochs after the last switch"

#: Flags that are settings of the configuration, by the same name.
SETTING_FLAGS = ("data", "arch", "width", "ood")

#: Builds tables and pictures from a study folder and returns what to print. The studies pass `analysis.build`.
ReportBuilder = Callable[..., str]


class Run:
    """Checked flags, configuration, plan. Raises: ConfigError, before any work starts, naming the flag."""

    def __init__(self, study: "Study", flags: Namespace) -> None:
        self.study, self.flags = study, flags
        self.place, store = places(flags, study.name)
        self.preset_name = self._preset()
        self.preset: Preset = PRESETS[self.preset_name]
        self.samples = self._count("samples", study.samples.get(self.preset_name, self.preset.samples), minimum=0)
        self.seeds = self._count("seeds", self.preset.seeds)
        study = replace(study, batch=self._count("batch", study.batch))
        self.workers = self._count("workers", 1)
        if flags.groups is not None:
            self._count("groups", 1)
        self._check_shares()
        if not flags.store_size > 0:
            raise ConfigError(f"--store-size {flags.store_size:g}: must be greater than zero")
        self.store = open_store(store, int(flags.store_size * 1e9))
        root = str(Path(flags.data_root).expanduser().resolve()) if flags.data_root else None
        given = {name: getattr(flags, name) for name in SETTING_FLAGS}
        self.base = configure(self.preset_name, given | {"data_root": root}, study.settings).replace(**self._set())
        self.study = study.only(flags.arm, self.base)
        self.study.make_arms(self.base)
        self._check_workers()
        self._check_ways()

    def _set(self) -> dict[str, Any]:
        """The settings of --set.

        Raises: ConfigError where one would let a choice of defaults see the official test data, or contradicts a flag.
        """
        found = parse_settings(self.flags.set)
        for name in SETTING_FLAGS:
            if name in found and getattr(self.flags, name) not in (None, found[name]):
                raise ConfigError(f"--set {name}={found[name]} contradicts --{name} {getattr(self.flags, name)}: leave one out")
        if "test_split" in found and "test_split" in self.study.settings:
            raise ConfigError(f"--set test_split: {self.study.name} is for choosing defaults, which never sees the test data")
        return found

    def _check_networks(self) -> None:
        """Whether every arm's network can be built for this data."""
        data = dataset(self.base)
        arms = self.study.make_arms(self.base)
        for arch, width in dict.fromkeys((arm.config.arch, arm.config.width) for arm in arms):
            try:
                build(arch, classes=data.classes, channels=data.channels, width=width, seed=0,
                      image_size=data.train.images.shape[-1])  # fmt: skip
            except ValueError as error:
                raise ConfigError(str(error)) from None

    def _check_ways(self) -> None:
        """Flags that name a way of searching or training."""
        if self.flags.select not in SELECTION:
            raise ConfigError(f"--select {self.flags.select!r} is unknown{nearest(self.flags.select, SELECTION)}")
        if self.flags.in_process:
            for flag, given in (
                ("workers", self.workers > 1),
                ("groups", self.flags.groups),
                ("stop-early", self.flags.stop_early),
            ):
                if given:
                    raise ConfigError(f"--{flag} needs Ray: leave it out, or leave out --in-process")

    def _check_shares(self) -> None:
        """Whether Ray can give such shares of a machine."""
        cpus, gpus = self.flags.cpus_per_worker, self.flags.gpus_per_worker
        if cpus is not None and not cpus > 0:
            raise ConfigError(f"--cpus-per-worker {cpus:g}: must be greater than zero")
        if gpus is not None and (not gpus >= 0 or (gpus > 1 and gpus % 1)):
            raise ConfigError(f"--gpus-per-worker {gpus:g}: must be a fraction of one, or a whole number")

    def _check_workers(self) -> None:
        """Whether a batch can be shared, and whether this machine has a processor for each (a cluster is asked later)."""
        if self.flags.address == "local":
            from mldiv.cluster.nodes import local_resources

            cpus = int(local_resources()["CPU"])
            if self.workers > cpus:
                raise ConfigError(f"--workers {self.workers}: this machine has {cpus} processors; take at most so many")
        if self.base.batch_size % self.workers:
            raise ConfigError(f"--workers {self.workers}: the batch of {self.base.batch_size} cannot be shared evenly")

    def start(self, report: ReportBuilder) -> int:
        root = Path(self.base.data_root) if self.base.data_root else None
        sources.check(self.base.data, root, download=self.flags.download)
        ood.check(self.base.ood, root, self.base.data)
        self._check_networks()
        self._check_out()
        with object_store.working_copy(self.place, fetch=False) as self.copy:
            self.copy.pull_study(of_trials=("/trial.json",))
            return self._start(report)

    @property
    def out(self) -> Path:
        """The study's folder on this disk, from the start on."""
        return self.copy.local

    def _start(self, report: ReportBuilder) -> int:
        header = self._header()
        self._check_same(header)
        if self.flags.dry_run:
            from mldiv.cli.dry_run import outline

            print(outline(self, header))
            return 0
        records.write_json(self.out / "study.json", header)
        self.copy.push(folders=False)
        from mldiv.cli.execute import conduct

        return conduct(self, header, report)

    def plan(self, storage: bool = False) -> Plan:
        """The study's plan on what is recorded so far; with its Optuna storage file only when it is to run."""
        kept = journal(self.out / "optuna.journal") if storage else None
        share, rule = not self.flags.no_store, self.flags.select
        return self.study.plan(self.base, self.out, self.samples, self.seeds, kept, share=share, rule=rule)

    def _preset(self) -> str:
        name = self.flags.preset
        if name == "auto":
            from mldiv.cluster.nodes import has_gpus

            name = "paper" if has_gpus(self.flags.address) else "demo"
            why = "the cluster has GPUs" if name == "paper" else "no GPU here"
            print(f"{self.study.name}: preset {name} ({why}; --preset chooses)", file=sys.stderr)
        if name not in PRESETS:
            raise ConfigError(f"--preset {name!r} is unknown{nearest(name, ['auto', *PRESETS])}")
        return name

    def _count(self, flag: str, default: int, minimum: int = 1) -> int:
        value = getattr(self.flags, flag)
        value = default if value is None else value
        if value < minimum:
            raise ConfigError(f"--{flag} {value}: must be at least {minimum}")
        return value

    def _check_out(self) -> None:
        for flag, place in (("out", self.place), ("store", self.store.place)):
            try:
                if object_store.is_url(place):
                    object_store.Remote(place).try_writing()
                    continue
                path = Path(place)
                if not self.flags.dry_run:
                    path.mkdir(parents=True, exist_ok=True)
                nearest_folder = next(folder for folder in (path, *path.parents) if folder.exists())
                with tempfile.TemporaryFile(dir=nearest_folder):
                    pass
            except OSError as error:
                why = error.strerror or error
                raise ConfigError(f"--{flag} {place}: cannot be written ({why}); choose another folder") from None

    def _header(self) -> dict[str, Any]:
        """study.json."""
        study, selection = self.study, SELECTION[self.flags.select]
        changes = study.changes(self.base)
        contrasts = study.contrasts(list(changes)) if callable(study.contrasts) else study.contrasts
        return records.study_header(
            name=study.name,
            question=study.question,
            scientific=study.scientific,
            preset=self.preset_name,
            baseline=study.baseline,
            changes=changes,
            compare=list(study.compare) or [arm for arm in changes if arm != study.baseline],
            contrasts=contrasts,
            members=study.members,
            seeds=list(range(1, self.seeds + 1)),
            samples=self.samples,
            search_seeds=list(search_seeds(study.search_seeds)),
            searched={arm.name: list(arm.searched) for arm in study.make_arms(self.base)},
            batch=study.batch,
            selection=selection.title,
            objectives=list(selection.objectives),
            early_stopping=EARLY_STOPPING if self.flags.stop_early else None,
            surface={name: list(ends) for name, ends in study.surface.items()} if study.surface else None,
            settings=asdict(self.base),
            data=dataset(self.base).describe(),
            world_size=self.workers,
            environment={"mldiv": mldiv.__version__, "commit": records.commit()},
        )

    def _check_same(self, header: dict[str, Any]) -> None:
        """Refuse to continue another configuration's folder.

        Raises: ConfigError naming each field that differs, there and here.
        """
        path = self.out / "study.json"
        if not path.exists():
            return
        before = records.read_json(path)
        free = {"environment", "settings", "data"}
        differing = [
            f"{name} ({before.get(name)!r} there, {header[name]!r} here)"
            for name in header
            if name not in free and before.get(name) != header[name]
        ]
        there = {name: item.default for name, item in fields(TrialConfig).items()} | before.get("settings", {})
        differing += [
            f"{name} ({there[name]!r} there, {value!r} here)"
            for name, value in header["settings"].items()
            if name not in sparing(TrialConfig, TRIAL) and there[name] != value
        ]
        if differing:
            raise ConfigError(
                f"{self.place} holds another configuration of this study: {'; '.join(differing)}. "
                "Use the same flags to continue it, or another --out"
            )
