"""Write a study for Weights & Biases, offline: a run for each trial under its own id, its arm as the group."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import pandas as pd
import wandb

from mldiv.export.runs import Exported, Run

#: In a run's folder: the digest of what was written and its project, once all of it was.
DIGEST = "mldiv.digest"
#: Nothing of this machine, process or checkout is sent, nothing is linked, nothing printed.
QUIET = {
    "console": "off", "silent": True, "symlink": False, "disable_git": True, "disable_code": True, "save_code": False,
    "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True, "x_save_requirements": False, "host": "",
}  # fmt: skip


def export(study: Exported, out: Path) -> str:
    """Write every run that is not there as it is; return how to send it. A run that has changed since is replaced."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # where a table waits to be sent, and logs of W&B's own
        os.environ.setdefault(name, str(out.resolve()))
    for folder in (folder for trial in study.gone for folder in _folders(out, study.header.name, trial)):
        shutil.rmtree(folder)
    write = partial(_write, out, study.header.name)
    for run in study.runs:
        given = {"group": run.arm, "name": run.name, "job_type": run.phase, "notes": "; ".join(run.roles)}
        known = {name: getattr(run, name) for name in ("arm", "phase", "trial", "status", "reason", "notes")}
        write(run.trial, run.digest, given | {"config": run.settings | known}, partial(_log, run), int(run.status == "failed"))
    if study.files:
        write(study.run, study.digest, {"name": "study", "job_type": "study"}, partial(_log_files, study.files))
    return f"wandb sync {out}/wandb/offline-run-*"


def _write(
    out: Path, project: str, name: str, digest: str, given: dict[str, Any], fill: Callable[[Any], None], code: int = 0
) -> None:  # fmt: skip
    """Write a run, then remove what earlier exports wrote of it; nothing where that is the same and whole."""
    old = _folders(out, project, name)
    if [_written(folder)[0] for folder in old] == [digest]:
        return
    run = wandb.init(project=project, id=name, dir=str(out), mode="offline", settings=wandb.Settings(**QUIET), **given)
    fill(run)
    made = Path(run.dir).parent
    run.finish(exit_code=code)
    for folder in old:
        if folder != made:
            shutil.rmtree(folder)
    (made / DIGEST).write_text(f"{digest} {project}", encoding="utf-8")


def _folders(out: Path, project: str, name: str) -> list[Path]:
    """Return the folders of a run: those of its project, and those that do not say of which they are."""
    return [path for path in out.glob(f"wandb/offline-run-*-{name}") if _written(path)[1] in ("", project)]


def _written(folder: Path) -> tuple[str, str]:
    text = (folder / DIGEST).read_text(encoding="utf-8") if (folder / DIGEST).exists() else ""
    digest, _, project = text.partition(" ")
    return digest, project


def _log(content: Run, run: Any) -> None:
    for line in content.epochs:
        run.log(line.values | {"_timestamp": line.ended}, step=line.epoch)
    run.summary.update(content.scores)


def _log_files(files: list[Path], run: Any) -> None:
    kinds: dict[str, Callable[[Path], Any]] = {
        ".csv": lambda path: wandb.Table(dataframe=pd.read_csv(path)),
        ".png": lambda path: wandb.Image(str(path)),
        ".html": lambda path: wandb.Html(path.read_text(encoding="utf-8"), inject=False),
    }
    run.log({path.stem: kinds[path.suffix](path) for path in files if path.suffix in kinds}, step=0)
