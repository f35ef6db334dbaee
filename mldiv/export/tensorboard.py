"""Write a study for TensorBoard: a folder for each arm and in it one for each run, replaced whole at each export."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mldiv.export.runs import Exported, Run

#: What a run's one file is called; TensorBoard takes files whose names hold "tfevents".
FILE = "events.out.tfevents.0.mldiv"
#: Scores beside which TensorBoard lists the settings.
LISTED = ("test/pair/nll", "test/pair/accuracy", "test/pair/ece")


def export(study: Exported, out: Path) -> str:
    """Write every run into ``out``, and the study's tables and pictures beside them; return how to look at it."""
    for folder in (folder for trial in study.gone for folder in out.glob(f"*/* {_name(trial)}")):
        (folder / FILE).unlink(missing_ok=True)
        with suppress(OSError):  # what is not ours, or another run, stays
            folder.rmdir()
            folder.parent.rmdir()
    for run in study.runs:
        with _writer(out / _name(run.arm) / _name(f"{run.name} {run.trial}" if run.phase == "repeat" else run.name)) as writer:
            _write(run, writer)
    with _writer(out / study.run) as writer:
        for path in study.files:
            if path.suffix == ".md":
                writer.add_text(path.name, path.read_text(encoding="utf-8"), 0, 0.0)
            elif path.suffix == ".png":
                writer.add_image(path.name, np.asarray(Image.open(path).convert("RGB")), 0, 0.0, dataformats="HWC")
    return f"tensorboard --logdir {out}"


def _name(text: str) -> str:
    """Return a folder's name for an arm's, another one for another."""
    return quote(text, safe=" +=,()").replace("~", "%7E")


@contextmanager
def _writer(folder: Path) -> Iterator[SummaryWriter]:
    """Give a writer whose file then takes the place of the folder's earlier one."""
    making = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    try:
        with SummaryWriter(str(making)) as writer:
            yield writer
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(next(making.iterdir()), folder / FILE)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _write(run: Run, writer: SummaryWriter) -> None:
    scores = {name: run.scores[name] for name in LISTED if name in run.scores}
    settings = run.settings | {"arm": run.arm, "phase": run.phase, "trial": run.trial, "status": run.status}
    for summary in hparams(settings, scores):
        writer._get_file_writer().add_summary(summary)
    for line in run.epochs:
        for name, value in line.values.items():
            writer.add_scalar(name, value, line.epoch, line.ended)
    for name, value in run.scores.items():
        writer.add_scalar(name, value, run.last.epoch, run.last.ended)
    text = [*run.roles, run.status, run.reason, *run.notes]
    writer.add_text("trial", "\n\n".join(line for line in text if line), 0, run.last.ended)
