"""A study of two arms, one of them searched, that trains in seconds."""

import contextlib
import io
from functools import partial

from analysis.build import build
from mldiv.cli.main import main
from mldiv.records import study_files
from mldiv.study import Study

TINY = [
    "epochs=2", "switch_epoch=1", "pretrain_epochs=1", "train_size=48", "validation_size=24", "test_size=24", "width=0.25",
    "batch_size=16", "test_samples=2", "validation_samples=1", "fusion_dim=16", "ood=none",
]  # fmt: skip
STUDY = Study(
    name="two", question="What do both give?", scientific="method", searched=("alpha",), baseline="plain",
    arms={"plain": {"alpha": 0.0, "beta": 0.0}, "both": {}},
)  # fmt: skip


#: Its tables and its answer: page and pictures take more than its training.
WORDS = partial(build, formats=("md", "csv"))


def run(folder, seeds=2, report=WORDS):
    """Run the study in this process: its exit code, what it printed, what it said."""
    flags = ["--preset", "demo", "--in-process", "--seeds", str(seeds), "--trials", "1", "--out", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(STUDY, report, [*flags, *(f"--set={setting}" for setting in TINY)])
    return code, out.getvalue(), err.getvalue()


def trial(folder, arm="both", seed=1):
    """The folder of a repeat."""
    (found,) = (
        item.trial
        for item in study_files.read_assignments(folder)
        if (item.arm, item.phase, item.seed) == (arm, "repeat", seed)
    )
    return folder / "trials" / found
