"""A study: a question, its arms, and the command line that all studies share. `main` runs it from plan to table."""

import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mldiv
from mldiv import datasets, records
from mldiv.config import PATHS, ConfigError, TrialConfig, nearest
from mldiv.epochs import dataset
from mldiv.plan import Plan, journal, make_arm
from mldiv.presets import PRESETS, Preset, configure
from mldiv.records import RecordError
from mldiv.search_space import SELECTION
from mldiv.store import Store

ROOT = Path(__file__).resolve().parent.parent

#: Builds tables and pictures from a study folder and returns what to print. The studies pass `analysis.build`.
ReportBuilder = Callable[[Path], str]


@dataclass(frozen=True)
class Study:
    """scientific: what differs between arms; arms: name -> changed settings; searched: nuisance settings, tuned for each
    arm with the same budget; baseline: the arm that the others are compared with; batch: open Optuna trials per arm."""

    name: str
    question: str
    scientific: str
    arms: dict[str, dict[str, Any]]
    searched: tuple[str, ...]
    baseline: str | None = None
    batch: int = 1
    rule: str = "validation_nll"

    def plan(self, base: TrialConfig, folder: Path, samples: int, seeds: int, storage: Any = None, share: bool = True) -> Plan:
        arms = [make_arm(name, base, changes, self.searched) for name, changes in self.arms.items()]
        repeats = tuple(range(1, seeds + 1))
        return Plan(
            arms, folder, samples=samples, seeds=repeats, batch=self.batch, rule=self.rule, storage=storage, share=share
        )

    def main(self, report: ReportBuilder, argv: Sequence[str] | None = None) -> int:
        """Run the study as its flags say; the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
        flags = parse_flags(self, argv)
        try:
            return Run(self, flags).start(report)
        except (ConfigError, RecordError, datasets.DataError) as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            print(
                f"{self.name}: {error}\nNothing that is recorded is lost: mend this and run the same command again.",
                file=sys.stderr,
            )
            return 1


def parse_flags(study: Study, argv: Sequence[str] | None) -> Namespace:
    """The flags that all studies share. argparse itself ends with code 2 at an unknown one."""
    parser = ArgumentParser(prog=f"studies/{study.name}.py", description=study.question)
    parser.add_argument("--preset", default="auto", help="auto (paper with GPUs, else demo), demo, quick or paper")
    parser.add_argument("--data", help="digits, fashion_mnist, cifar10, cifar100 or image_folder")
    parser.add_argument("--data-root", help="folder of the data (digits needs none)")
    parser.add_argument("--download", action="store_true", help="let torchvision download missing data into --data-root")
    parser.add_argument("--arch", help="resnet8, resnet20, resnet32, resnet56 or resnet18")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds on which each arm's choice is repeated")
    parser.add_argument("--samples", type=int, metavar="N", help="Optuna trials for each searched arm; 0: defaults as they are")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="DDP processes per trial (default 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"where results go (default results/{study.name})")
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where studies share first stages and pretraining (default: trunks beside --out)",
    )
    parser.add_argument("--store-size", type=float, default=20.0, metavar="GB", help="size of the store (default 20)")
    parser.add_argument("--no-store", action="store_true", help="share nothing: train every trial from its very start")
    parser.add_argument("--groups", type=int, metavar="N", help="most trials at once (default: what the cluster has room for)")
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS", "local"), help="Ray cluster (default: this machine)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    return parser.parse_args(argv)


class Run:
    """One invocation of a study: checked flags, configuration, plan."""

    def __init__(self, study: Study, flags: Namespace) -> None:
        self.study, self.flags = study, flags
        self.out: Path = (flags.out or Path("results") / study.name).resolve()
        self.preset_name = self._preset()
        self.preset: Preset = PRESETS[self.preset_name]
        self.samples = self._count("samples", self.preset.samples, minimum=0)
        self.seeds = self._count("seeds", self.preset.seeds)
        self.workers = self._count("workers", 1)
        if flags.groups is not None:
            self._count("groups", 1)
        if not flags.store_size > 0:
            raise ConfigError(f"--store-size {flags.store_size:g}: must be greater than zero")
        self.store = Store((flags.store or self.out.parent / "trunks").resolve(), int(flags.store_size * 1e9))
        root = str(Path(flags.data_root).expanduser().resolve()) if flags.data_root else None
        self.base = configure(self.preset_name, {"data": flags.data, "data_root": root, "arch": flags.arch})
        self._check_workers()

    def _check_workers(self) -> None:
        """Whether a batch can be shared, and whether this machine has a processor for each (a cluster is asked later)."""
        if self.flags.address == "local":
            from mldiv.conduct import local_resources

            cpus = int(local_resources()["CPU"])
            if self.workers > cpus:
                raise ConfigError(f"--workers {self.workers}: this machine has {cpus} processors; take at most so many")
        if self.base.batch_size % self.workers:
            raise ConfigError(f"--workers {self.workers}: the batch of {self.base.batch_size} cannot be shared evenly")

    def start(self, report: ReportBuilder) -> int:
        datasets.check(self.base.data, Path(self.base.data_root) if self.base.data_root else None,
                          download=self.flags.download)  # fmt: skip
        self._check_out()
        header = self._header()
        self._check_same(header)
        if self.flags.dry_run:
            from mldiv.outline import outline

            print(outline(self, header))
            return 0
        records.write_json(self.out / "study.json", header)
        from mldiv.conduct import conduct

        return conduct(self, header, report)

    def plan(self, storage: bool = False) -> Plan:
        """The study's plan on what is recorded so far; with its Optuna storage file only when it is to run."""
        kept = journal(self.out / "optuna.journal") if storage else None
        return self.study.plan(self.base, self.out, self.samples, self.seeds, kept, share=not self.flags.no_store)

    def _preset(self) -> str:
        name = self.flags.preset
        if name == "auto":
            from mldiv.conduct import has_gpus

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
        for flag, path in (("out", self.out), ("store", self.store.folder)):
            try:
                if not self.flags.dry_run:
                    path.mkdir(parents=True, exist_ok=True)
                nearest_folder = next(folder for folder in (path, *path.parents) if folder.exists())
                with tempfile.TemporaryFile(dir=nearest_folder):
                    pass
            except OSError as error:
                raise ConfigError(f"--{flag} {path}: cannot be written ({error.strerror}); choose another folder") from None

    def _header(self) -> dict[str, Any]:
        """study.json."""
        sizes = dataset(self.base).describe()
        arms = [make_arm(name, self.base, changes, self.study.searched) for name, changes in self.study.arms.items()]
        return {
            "schema": records.SCHEMA,
            "name": self.study.name,
            "question": self.study.question,
            "scientific": self.study.scientific,
            "preset": self.preset_name,
            "baseline": self.study.baseline,
            "arms": list(self.study.arms),
            "changes": self.study.arms,
            "seeds": list(range(1, self.seeds + 1)),
            "samples": self.samples,
            "searched": {arm.name: list(arm.searched) for arm in arms},
            "batch": self.study.batch,
            "selection": SELECTION[self.study.rule][0],
            "settings": asdict(self.base),
            "data": sizes,
            "data_is_subset": bool(self.base.train_size or self.base.test_size),
            "world_size": self.workers,
            "environment": {"mldiv": mldiv.__version__, "commit": commit()},
        }

    def _check_same(self, header: dict[str, Any]) -> None:
        """Refuse to continue another configuration's folder.

        Raises: ConfigError naming each field that differs, there and here.
        """
        path = self.out / "study.json"
        if not path.exists():
            return
        before = records.read_json(path)
        free = {"environment", "chosen", "settings", "data"}
        differing = [
            f"{name} ({before.get(name)!r} there, {header[name]!r} here)"
            for name in header
            if name not in free and before.get(name) != header[name]
        ]
        there = before.get("settings", {})
        differing += [
            f"{name} ({there.get(name)!r} there, {value!r} here)"
            for name, value in header["settings"].items()
            if name not in PATHS and there.get(name) != value
        ]
        if differing:
            raise ConfigError(
                f"{self.out} holds another configuration of this study: {'; '.join(differing)}. "
                "Use the same flags to continue it, or another --out"
            )


def commit() -> str:
    """The checkout's short commit, with a note when it has uncommitted changes; "unknown" outside of git."""
    with suppress(OSError, subprocess.CalledProcessError):
        ask = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        name = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True)
        return name + (" (with uncommitted changes)" if changed.stdout.strip() else "")
    return "unknown"
