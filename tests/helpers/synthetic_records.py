"""Study folders with known numbers, for the analysis."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.records.load import Predictions
from mldiv.records import checked_files, study_files
from mldiv.records.contents import SCHEMA, Assignment, TrialRecord, members_of
from mldiv.records.study_files import trial_folder

SETTINGS = {
    "arch": "resnet8", "width": 1.0, "epochs": 12, "switch_epoch": 8, "batch_size": 64, "test_samples": 20, "data": "digits",
    "alpha": 1.0, "beta": 2.0, "kernel": "cosine", "lr": 0.05, "ood": "photographs",
}  # fmt: skip

CLASSES = 10


def make(folder: Path, nll: dict[str, list[float]], accuracy: dict[str, list[float]] | None = None, images: int = 200,
         predictions: bool = True, **changed) -> Path:  # fmt: skip
    """A kernel sweep whose arm a has test NLL nll[a][i] on seed i + 1; the first arm is the baseline."""
    arms = list(nll)
    seeds = list(range(1, 1 + max(len(values) for values in nll.values())))
    header = {
        "schema": SCHEMA, "name": "kernel_sweep", "question": "Which kernel?", "scientific": "kernel",
        "preset": "demo", "baseline": arms[0], "arms": arms, "seeds": seeds, "samples": 2, "world_size": 1,
        "searched": {arm: ["alpha"] if place else [] for place, arm in enumerate(arms)},
        "changes": {arm: {} for arm in arms}, "chosen": {}, "compare": arms[1:], "contrasts": {}, "members": {},
        "search_seeds": [0], "importance": {}, "surface": None, "objectives": ["nll"], "early_stopping": None,
        "selection": "lowest validation NLL after the last epoch", "settings": SETTINGS,
        "data": "digits: 100 training images", "data_is_subset": False,
        "environment": {"mldiv": "0.1.0", "commit": "abc1234"},
    }  # fmt: skip
    study_files.write_json(folder / "study.json", header | changed)
    assignments = []
    for place, arm in enumerate(arms):
        for index, value in enumerate(nll[arm]):
            trial = f"{place:02d}{index:02d}"
            assignments.append(Assignment(arm, "repeat", index + 1, trial))
            right = accuracy[arm][index] if accuracy else 0.9
            write(folder, trial, value, right, images if predictions else 0, index)
    study_files.write_assignments(folder, assignments)
    return folder


def write(folder: Path, trial: str, nll: float, accuracy: float, images: int, seed: int, status: str = "finished",
          **config) -> None:  # fmt: skip
    """A trial: record, lines of 12 epochs with the switch after 8, and predictions of ``images`` images whose mean NLL is
    exactly ``nll``: (0: no predictions)."""
    scores = {"accuracy": accuracy, "nll": nll, "brier": 0.1, "ece": 0.05, "adaptive_ece": 0.05, "classwise_ece": 0.02}
    scores |= {"entropy": 0.4, "mutual_information": 0.05}
    done = status == "finished"
    members = {member: dict(scores) for member in members_of(2)}
    detection = {
        "error_auroc_entropy": 0.8, "error_auroc_mutual_information": 0.75, "ood_auroc_entropy": 0.9,
        "ood_auroc_mutual_information": 0.85, "aurc_entropy": 0.02, "aurc_mutual_information": 0.03,
    }  # fmt: skip
    bayesian = {"nll": nll, "accuracy": accuracy, "mean_nll": nll + 0.01, "mean_accuracy": accuracy}
    posterior = {f"peer_{number}": bayesian | {"sigma_over_mean": 0.05 * number} for number in (1, 2)}
    posterior["pair"] = bayesian | {"mutual_information": 0.05, "within": 0.01, "between": 0.04}
    record = TrialRecord(
        trial, SETTINGS | {"seed": seed} | config, status=status, epochs=12, validation=members,
        test=members if done else {}, calibration_temperature=dict.fromkeys(members, 0.8) if done else {},
        test_scaled=members if done else {}, uncertainty=dict.fromkeys(members, detection) if done else {},
        posterior=posterior if done else {}, switch={"param_distance": 3.0, "feature_kl": 0.01}, seconds=3.0,
        cost={"epochs_trained": 8, "epochs_shared": 4, "pretraining_epochs_trained": 0},
    )  # fmt: skip
    path = trial_folder(folder, trial)
    path.mkdir(parents=True, exist_ok=True)
    study_files.write_trial(path, record)
    lines = [_line(epoch, nll, accuracy, seed) for epoch in range(12)]
    checked_files.write_atomically(path / "metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    if images and done:
        predictions(path / "predictions.parquet", nll, images, seed)


def _line(epoch: int, nll: float, accuracy: float, seed: int) -> dict:
    stage, gone = 2 if epoch >= 8 else 1, 0.6**epoch
    scores = {"nll": nll + gone, "accuracy": accuracy * (1 - gone), "brier": 0.1, "ece": 0.05}
    diversity = {
        "disagreement": 0.1 + 0.5 * gone, "w2_per_weight": 0.01 * (1 + 0.05 * epoch), "feature_kl": 0.02 + 0.001 * seed,
        "w2_share_means": 0.75 + 0.02 * epoch, "w2_share_sigmas": 0.25 - 0.02 * epoch,
        "cosine": {"conv1.weight": 0.1, "linear.weight": -0.1}, "norm_1": 10.0, "norm_2": 11.0, "sigma_1": 0.05,
        "sigma_2": 0.05,
    }  # fmt: skip
    train = {"nll_1": nll, "nll_2": nll, "feature_kl": 0.02 if stage == 2 else None}
    first = [{"at": 0.0, "peer_2": 0.5}, {"at": 0.5, "peer_2": 0.42}, {"at": 1.0, "peer_2": 0.47}]
    return ({"first_epoch": first} if epoch == 0 else {}) | {
        "epoch": epoch, "stage": stage, "shared": epoch < 4, "lr": 0.1, "train": train, "seconds": 0.5,
        "validation": {member: dict(scores) for member in members_of(2)}, "diversity": diversity,
    }  # fmt: skip


def predictions(path: Path, nll: float, images: int, seed: int) -> None:
    """Calibrated predictions: the label has probability p, is predicted in a share p of cases; scaled to the given NLL."""
    draws = np.random.default_rng(seed)
    confidence = draws.uniform(0.3, 1.0, images)
    correct = draws.random(images) < confidence
    label_probability = np.where(correct, confidence, (1 - confidence) / (CLASSES - 1))
    label_probability = np.exp(np.log(label_probability) * nll / -np.log(label_probability).mean())
    entropy = -np.log(confidence)
    frames = []
    for member in members_of(2):
        frames.append(
            pd.DataFrame(
                {
                    "member": member,
                    "image": np.arange(images, dtype="int32"),
                    "label": np.int16(1),
                    "predicted": np.where(correct, 1, 0).astype("int16"),
                    "confidence": confidence.astype("float32"),
                    "label_probability": label_probability.astype("float64"),
                    "entropy": entropy.astype("float32"),
                    "mutual_information": (0.3 * entropy).astype("float32"),
                    "scaled_confidence": (confidence**1.1).astype("float32"),
                    "scaled_label_probability": label_probability.astype("float32"),
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    frame.astype({"member": "category"}).to_parquet(path)


def step_line(arch: str = "resnet8", width: float = 1.0, batch: int = 64, factor: float = 1.0) -> dict:
    """A line of scaling.jsonl whose terms grow as their formulas do: with the weights P, or with the batch B as B²."""
    weights = int(1000 * width**2)
    seconds = {
        "stage_1": 1e-6 * weights * batch, "stage_2": 1.1e-6 * weights * batch, "param_distance": 1e-8 * weights,
        "kl_to_prior": 2e-8 * weights, "feature_kl": 1e-9 * batch**2, "logit_mutual": 1e-7 * batch,
    }  # fmt: skip
    return {"arch": arch, "width": width, "batch_size": batch, "weights": weights,
            "seconds": {name: factor * value for name, value in seconds.items()},
            "bytes": {"state": 1e6, "stage_1": 2e6, "stage_2": 3e6}}  # fmt: skip


#: A scaling.jsonl: one network over widths and over batches, another over widths.
SCALING = (
    [step_line(width=width) for width in (0.5, 1, 2, 4)]
    + [step_line(batch=batch) for batch in (128, 256, 512, 1024)]
    + [step_line(arch="vit", width=width, factor=50) for width in (0.5, 1, 2, 4)]
)


def predicted(correct, entropy, confidence=None, scaled=None):
    """Predictions of one member, of two classes, whose label is always the first."""
    count = len(correct)
    label = np.zeros(count, int)
    confidence = np.full(count, 0.9) if confidence is None else np.asarray(confidence, float)
    scaled = confidence if scaled is None else np.asarray(scaled, float)
    wrong = 1 - np.asarray(correct, int)
    entropy = np.asarray(entropy, float)
    return Predictions(label, wrong, confidence, confidence, scaled, entropy, -entropy)
