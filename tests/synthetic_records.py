"""Study folders with known numbers, for the analysis."""

from pathlib import Path

import numpy as np
import pandas as pd

from mldiv import records
from mldiv.records import Assignment, TrialRecord, trial_folder

SETTINGS = {
    "arch": "resnet8", "width": 1.0, "epochs": 12, "switch_epoch": 8, "batch_size": 64, "test_samples": 20, "data": "digits",
}  # fmt: skip


def make(folder: Path, nll: dict[str, list[float]], accuracy: dict[str, list[float]] | None = None, images: int = 200,
         **changed) -> Path:  # fmt: skip
    """A kernel sweep whose arm a has test NLL nll[a][i] on seed i + 1; the first arm is the baseline."""
    arms = list(nll)
    seeds = list(range(1, 1 + max(len(values) for values in nll.values())))
    header = {
        "schema": 2, "name": "kernel_sweep", "question": "Which kernel?", "scientific": "kernel", "preset": "demo",
        "baseline": arms[0], "arms": arms, "seeds": seeds, "samples": 2, "searched": {}, "world_size": 1,
        "selection": "lowest validation NLL of the pair at the last epoch", "settings": SETTINGS,
        "data": "digits: 100 training images", "data_is_subset": False,
        "environment": {"mldiv": "0.1.0", "commit": "abc1234"},
    }  # fmt: skip
    records.write_json(folder / "study.json", header | changed)
    assignments = []
    for place, arm in enumerate(arms):
        for index, value in enumerate(nll[arm]):
            trial = f"{place:02d}{index:02d}"
            assignments.append(Assignment(arm, "repeat", index + 1, trial))
            right = accuracy[arm][index] if accuracy else 0.9
            write(folder, trial, value, right, images, index)
    records.write_assignments(folder, assignments)
    return folder


def write(folder: Path, trial: str, nll: float, accuracy: float, images: int, seed: int, status: str = "finished") -> None:
    scores = {"accuracy": accuracy, "nll": nll, "brier": 0.1, "ece": 0.05}
    test = {member: dict(scores) for member in records.MEMBERS} if status == "finished" else {}
    record = TrialRecord(trial, SETTINGS | {"seed": seed}, status=status, epochs=12, test=test)
    path = trial_folder(folder, trial)
    records.write_trial(path, record)
    diversity = {"disagreement": 0.1, "w2_per_weight": 0.01, "feature_kl": 0.02}
    records.append_line(path / "metrics.jsonl", {"epoch": 11, "stage": 2, "diversity": diversity})
    confidence = np.random.default_rng(seed).uniform(0.3, 1.0, images).astype("float32")
    correct = np.random.default_rng(seed + 1000).random(images) < confidence
    frame = pd.DataFrame({"image": np.arange(images, dtype="int32"), "member": "pair", "label": 1,
                          "predicted": np.where(correct, 1, 0), "confidence": confidence})  # fmt: skip
    frame.to_parquet(path / "predictions.parquet")
