"""Did an arm test what it says? Terms of the loss whose gradient all but vanishes beside the cross-entropy's."""

from dataclasses import dataclass

import numpy as np

from analysis.records.load import Curve, StudyData
from mldiv.records import TrialRecord

#: A term whose gradient in the peers' means is below this share of the cross-entropy's for a whole epoch is dead in it.
DEAD_SHARE = 0.01

#: By term that an arm may be about: the weight that turns it on, and its name in a sentence.
TERMS = {
    "mutual": ("mutual_weight", "mutual learning"),
    "param_diversity": ("alpha", "the parameter term"),
    "feature_diversity": ("beta", "the feature term"),
}


@dataclass(frozen=True)
class Dead:
    """A term that was dead in an arm: in how many of its measured trials, and the median of its share of the gradient there.

    epochs: in which it was dead, and in which it was measured while it acted, summed over the trials.
    """

    arm: str
    term: str
    trials: int
    measured: int
    share: float
    epochs: tuple[int, int]


def dead_epochs(curve: Curve, term: str) -> tuple[list[int], list[int]]:
    """Return the epochs in which every measured share of a term was below DEAD_SHARE, and those in which any was measured."""
    share = curve.shares[term]
    known = np.isfinite(share)
    epochs = np.ceil(curve.points[known]).astype(int) - 1
    measured = sorted(set(epochs.tolist()))
    return [epoch for epoch in measured if (share[known][epochs == epoch] < DEAD_SHARE).all()], measured


def dead_terms(study: StudyData) -> list[Dead]:
    """Find the terms that were dead for a whole epoch or more in most of an arm's finished repeats that measured it."""
    found = [_dead(study, arm, term, weight) for arm in study.arms for term, (weight, _) in TERMS.items()]
    return [dead for dead in found if dead is not None]


def _dead(study: StudyData, arm: str, term: str, weight: str) -> Dead | None:
    shares, counts = [], []
    for record in study.finished(arm).values():
        curve = study.curve(record.id)
        if curve is not None and _acts(record, weight):
            epochs, measured = dead_epochs(curve, term)
            if measured:
                counts.append((len(epochs), len(measured)))
                shares.append(float(np.nanmedian(curve.shares[term])))
    trials = sum(dead > 0 for dead, _ in counts)
    if 2 * trials <= len(counts):
        return None
    dead, measured = (sum(column) for column in zip(*counts, strict=True))
    return Dead(arm, term, trials, len(counts), float(np.median(shares)), (dead, measured))


def _acts(record: TrialRecord, weight: str) -> bool:
    return record.config.get(weight, 0) > 0 and record.config.get("peers", 2) > 1


def words(found: list[Dead]) -> list[str]:
    """Write a Markdown sentence for each term: which arms did not test it."""
    lines = []
    for term, (_, name) in TERMS.items():
        if arms := [dead for dead in found if dead.term == term]:
            shown = "; ".join(
                f"{dead.arm}: {dead.epochs[0]} of {dead.epochs[1]} measured epochs, median {_percent(dead.share)}"
                for dead in arms
            )
            lines.append(
                f"**{name[0].upper()}{name[1:]} all but did not act** in {len(arms)} arm{'s' * (len(arms) > 1)}, which did not "
                f"test what {'they say' if len(arms) > 1 else 'it says'}: its gradient in the peers' means was below "
                f"{DEAD_SHARE:.0%} of the cross-entropy's for whole epochs ({shown})."
            )
    return lines


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 1e-4 else f"{100 * share:.1g} %"
