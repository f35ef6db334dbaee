"""Score full predictions under any labels, as a trial scores its own: formulas as in mldiv/evaluation/metrics.py.

Of a soft label q, NLL is ``-sum_c q_c log p_c`` and Brier ``sum_c (p_c - q_c)^2``, means over images; accuracy and what is made
of it (calibration errors, the detection of errors) go by the class of its largest share.
"""

import math

import numpy as np
from sklearn.metrics import roc_auc_score

from analysis.figures.detection import UNCERTAINTIES, risk
from analysis.records.predictions import Predictions
from analysis.stats.calibration import BINS, reliability


def cross_entropy(logarithms: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return each image's NLL in nats, [images]. logarithms: of the probabilities; shares: labels; [images, classes] both."""
    return -np.where(shares > 0, shares * logarithms, 0.0).sum(1)


def scores(member: Predictions, logarithms: np.ndarray, shares: np.ndarray) -> dict[str, float]:
    """Score a member by its predictions under the labels, and its full ones. shares: labels [images, classes]."""
    probabilities, truth = np.exp(logarithms), member.label
    classwise = [reliability(column, truth == number).ece for number, column in enumerate(probabilities.T)]
    return {
        "accuracy": float(member.correct.mean()),
        "nll": float(member.nll.mean()),
        "brier": float(np.square(probabilities - shares).sum(1).mean()),
        "ece": reliability(member.confidence, member.correct).ece,
        "adaptive_ece": _adaptive_ece(member.confidence, member.correct),
        "classwise_ece": float(np.mean(classwise)),
    }


def _adaptive_ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    rank = np.argsort(np.argsort(confidence, kind="stable"))
    gaps = np.bincount(rank * BINS // len(rank), weights=correct - confidence.astype(float), minlength=BINS)
    return float(np.abs(gaps).sum() / len(rank))


def detection(member: Predictions) -> dict[str, float | None]:
    """Score how well a member's uncertainties find its errors; None where it has none, or nothing else."""
    found: dict[str, float | None] = {}
    for name in UNCERTAINTIES:
        uncertainty, kept = getattr(member, name), np.arange(1, len(member.label) + 1)
        risks = risk(uncertainty, member.correct)
        wrong = ~member.correct
        found[f"error_auroc_{name}"] = float(roc_auc_score(wrong, uncertainty)) if 0 < wrong.sum() < len(wrong) else None
        found[f"aurc_{name}"] = float(risks.mean())
        found[f"augrc_{name}"] = float((risks * kept / len(kept)).mean())
    return found


def diversity(disagreement: float, peers: list[dict[str, float]], pair: dict[str, float]) -> dict[str, float | None]:
    """Return what of the peers' diversity depends on labels, and their disagreement, as `final_scores.diversity_scores`."""
    error = 1 - math.fsum(peer["accuracy"] for peer in peers) / len(peers)
    gain = math.fsum(peer["nll"] for peer in peers) / len(peers) - pair["nll"]
    return {"disagreement": disagreement, "error": error, "gain": gain, "over_error": disagreement / error if error else None}
