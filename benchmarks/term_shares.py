"""How much do both terms act at a share of 0.2, by the length of stage two? From the published records of every such pair.

python -m benchmarks.term_shares       prints the table of docs/results/gradients/README.md
"""

from pathlib import Path

import numpy as np

from analysis.compact.copy import ARCHIVE, load
from analysis.records.load import Curve, StudyData
from benchmarks.timing import table
from mldiv.config import TrialConfig
from mldiv.records.contents import TrialRecord

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SHARE, LOW = 0.2, 0.05
TERMS = {"parameter": "param_diversity", "feature": "feature_diversity"}
TITLES = [
    "study: pairs", "n", "epochs, steps of stage two", "points", *(f"{name} term: lowest" for name in TERMS),
    *(f"{name} term: points below 5 %" for name in TERMS),
]  # fmt: skip
#: What makes another form of the terms, by how the settings' names begin.
FORMS = ("param_", "feature_", "fusion", "weighting", "stage_", "center_features", "include_diagonal")
#: Trials of another row's study.
AGAIN = {("diversity_form/tenth", "both terms"), ("budget", "with both, as it is")}
ONE_START = "pretrained_same"

#: Start, epochs and steps of stage two, width.
Kind = tuple[str, int, int, float]


def rows() -> list[list[str]]:
    """Write the table's rows: a study's pairs alike in length, width and start together; by length, from one start last."""
    found = [(kind, name, curves) for name in _studies() for kind, curves in _pairs(load(RESULTS / name), name).items()]
    return [_row(kind, name, curves) for kind, name, curves in sorted(found, key=lambda row: (_late(row[0]), row[1]))]


def _studies() -> list[str]:
    return sorted(str(path.parent.relative_to(RESULTS)) for path in RESULTS.rglob(ARCHIVE))


def _late(kind: Kind) -> tuple[bool, int, int]:
    start, epochs, steps, _ = kind
    return start == ONE_START, epochs, steps


def _pairs(study: StudyData, name: str) -> dict[Kind, list[tuple[str, Curve]]]:
    """Return by kind the curves, each with its arm, of the pairs that have both terms in their default form."""
    found: dict[Kind, list[tuple[str, Curve]]] = {}
    for arm in study.arms:
        for record in study.finished(arm).values() if (name, arm) not in AGAIN else ():
            curve = study.curve(record.id) if _both(record) else None
            if curve is not None and len(_measured(curve)):
                found.setdefault(_kind(record), []).append((arm, curve))
    return found


def _both(record: TrialRecord) -> bool:
    config, usual = record.config, TrialConfig()
    form = all(value == getattr(usual, name) for name, value in config.items() if name.startswith(FORMS))
    return form and config["alpha"] == config["beta"] == SHARE


def _kind(record: TrialRecord) -> Kind:
    config, images = record.config, record.data["train"]
    epochs = config["epochs"] - config["switch_epoch"]
    start = ONE_START if config["initialization"] == ONE_START else ""
    return start, epochs, epochs * (images // config["batch_size"]), config["width"]


def _measured(curve: Curve) -> np.ndarray:
    """Return which points lie in stage two."""
    return np.flatnonzero(curve.points > curve.switch) if curve.switch is not None else np.zeros(0, dtype=int)


def _row(kind: Kind, name: str, curves: list[tuple[str, Curve]]) -> list[str]:
    arms = ", ".join(dict.fromkeys(arm for arm, _ in curves))
    points = {len(_measured(curve)) for _, curve in curves}
    shares = {term: [curve.shares[key][_measured(curve)] for _, curve in curves] for term, key in TERMS.items()}
    return [
        f"{name}: {arms}", str(len(curves)), f"{kind[1]}, {kind[2]:,}", ", ".join(map(str, sorted(points))),
        *(_lowest(each) for each in shares.values()),
        *(f"{100 * np.mean(np.concatenate(each) < LOW):.0f} %" for each in shares.values()),
    ]  # fmt: skip


def _lowest(shares: list[np.ndarray]) -> str:
    """Write the mean over pairs of each one's lowest share, and the lowest of all."""
    lowest = [each.min() for each in shares]
    return f"{np.mean(lowest):.3f} ({min(lowest):.3f})"


if __name__ == "__main__":
    print(table(TITLES, rows()))
