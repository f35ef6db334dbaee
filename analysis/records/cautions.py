"""What else the records know that bears on the answer: terms that did not act, searches that found nothing, and the like.

A term whose gradient all but vanishes beside the cross-entropy's is in no arm's test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.records.load import Curve, StudyData
from analysis.records.signatures import Signature
from mldiv.records.contents import PAIR, TEMPERATURES, TrialRecord, at_bound

#: A term whose gradient in the peers' means is below this share of the cross-entropy's for a whole epoch is dead in it.
DEAD_SHARE = 0.01

#: A network whose test entropy and NLL both reach this share of the classes' own says of every image the same: nothing.
SILENT_SHARE = 0.98

#: By term that an arm may be about: the weight that turns it on, and its name in a sentence.
TERMS = {
    "mutual": ("mutual_weight", "mutual learning"),
    "param_diversity": ("alpha", "the parameter term"),
    "feature_diversity": ("beta", "the feature term"),
}


@dataclass(frozen=True)
class Dead:
    """A term that was dead in an arm: the median of its share of the gradient in the trials that measured it.

    epochs: in which it was dead, and in which it was measured while it acted, summed over the trials.
    """

    arm: str
    term: str
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
        if curve is not None and record.config.get(weight, 0) > 0 and record.config.get("peers", 2) > 1:
            epochs, measured = dead_epochs(curve, term)
            if measured:
                counts.append((len(epochs), len(measured)))
                shares.append(float(np.nanmedian(curve.shares[term])))
    if 2 * sum(dead > 0 for dead, _ in counts) <= len(counts):
        return None
    dead, measured = (sum(column) for column in zip(*counts, strict=True))
    return Dead(arm, term, float(np.median(shares)), (dead, measured))


def cautions(study: StudyData, signatures: Sequence[Signature]) -> list[str]:
    """Write all that this file finds as Markdown sentences; signatures: the known ways to fail that the study's trials show."""
    return [*silent(study), *words(dead_terms(study)), *_known(study, signatures), *searches(study), *bounds(study)]


def silent(study: StudyData) -> list[str]:
    """Say in which repeats a network learned nothing: it gives every test image the shares of the classes."""
    found, wide = [], []
    for arm in study.arms:
        repeats = list(study.finished(arm).values())
        of_arm = {record.id: _silent_members(record) for record in repeats}
        if silent_repeats := sum(map(bool, of_arm.values())):
            found.append(f"{arm} {silent_repeats} of {len(repeats)}")
        wide += [record.posterior.get(member, {}).get("sigma_over_mean") for record in repeats for member in of_arm[record.id]]
    if not found:
        return []
    text = f"**A network learned nothing** in some repeats ({', '.join(found)}): to it all images are about alike"
    if known := [ratio for ratio in wide if ratio]:
        text += f"; its sigmas are {np.median(known):.3g} times its means"
        if np.median(known) > 1:
            text += ", as where the prior outweighs the data: try a smaller `--set kl_weight=...`"
    return [f"{text}."]


def _silent_members(record: TrialRecord) -> list[str]:
    classes, known = record.data.get("classes"), record.data.get("label_entropy")
    if not isinstance(known, float) or known <= 0:  # a record of before, or test images of one class
        known = math.log(classes) if isinstance(classes, int) and classes > 1 else math.inf
    least = SILENT_SHARE * known
    members = [member for member in record.test if member != PAIR] or list(record.test)
    scores = ("entropy", "nll")  # null where they are not defined
    return [member for member in members if all((record.test[member].get(score) or 0) >= least for score in scores)]


def _known(study: StudyData, signatures: Sequence[Signature]) -> list[str]:
    """Count, for each known way to fail, the repeats that show it; the report has their numbers."""
    lines = []
    for kind in dict.fromkeys(found.kind for found in signatures if found.arm):
        arms = [found.arm for found in signatures if found.kind == kind and found.arm]
        head, _, rest = kind.partition(":")
        shown = ", ".join(f"{arm} {arms.count(arm)} of {len(study.finished(arm))}" for arm in dict.fromkeys(arms))
        lines.append(
            f"**{head[0].upper()}{head[1:]}** in {len(arms)} repeat{'s' * (len(arms) > 1)} ({shown}){':' * bool(rest)}{rest}."
        )
    return lines


def searches(study: StudyData) -> list[str]:
    """Say in which arms the search chose every setting as it is by default."""
    header = study.header
    tuned = {arm: chosen for arm, chosen in (header.chosen or {}).items() if chosen and arm in study.arms}
    if not header.has_search or not tuned:
        return []
    kept = [arm for arm, chosen in tuned.items() if all(_default(study, arm, name) == chosen[name] for name in chosen)]
    if not kept:
        return []
    others = [arm for arm in tuned if arm not in kept]
    which = "every arm" if not others else f"{len(kept)} of {len(tuned)} arms (all but {', '.join(others)})"
    tried = f"{header.samples} setting{'s' * (header.samples > 1)} tried in each"
    text = f"**The search chose the defaults** in {which}, of {tried}"
    if study.baseline in others:
        text += ": the baseline was tuned, the others are as they come"
    return [f"{text}."]


def _default(study: StudyData, arm: str, name: str) -> object:
    header = study.header
    return (header.settings | header.parameters | header.changes.get(arm, {})).get(name)


def bounds(study: StudyData) -> list[str]:
    """Say which arms' calibration temperatures were stopped by a bound."""
    found = []
    for arm in study.arms:
        repeats = list(study.finished(arm).values())
        stopped = sum(
            any(value is not None and at_bound(value) for value in record.calibration_temperature.values())
            for record in repeats
        )
        if stopped:
            found.append(f"{arm} ({stopped} of {len(repeats)} repeats)")
    ends = " or ".join(f"{end:g}" for end in TEMPERATURES)
    text = f"**A fitted temperature lies at its bound**, {ends}, and what follows from it is no optimum: {', '.join(found)}."
    return [text] if found else []


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
