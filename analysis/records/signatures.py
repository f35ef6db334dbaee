"""Recognise the method's known ways to fail from a trial's epochs, and name them.

The paper's summary names three: alpha too high, the networks run apart and stop learning; beta too high, the features are too
dissimilar for the peers to teach each other; both too low, nothing but mutual learning. Each is judged against plain mutual
learning of the same seed after the last epoch, or, where there is none, against the trial's own last epoch before the switch.
A fourth was seen here (RESULTS.md): the trained fusion takes up the feature term's push.
chosen: the thresholds below; the paper gives none.
"""

from dataclasses import dataclass, replace

import numpy as np

from analysis.records.load import Curve, StudyData, of_peers
from mldiv.records.contents import TrialRecord

#: Times the reference's distance from which on the peers are far apart: squared W2, feature KL.
FAR_APART_FACTOR, DISSIMILAR_FACTOR = 2.0, 10.0
#: Worse than the reference: by so much of a peer's or the pair's validation accuracy, or by this share of its NLL.
WORSE_ACCURACY, WORSE_NLL_SHARE = 0.03, 0.25
#: As good as the same: relative differences of squared W2 and feature KL, points of disagreement, relative difference of NLL.
SAME_W2, SAME_KL, SAME_DISAGREEMENT, SAME_NLL = 0.01, 0.05, 0.01, 0.01
#: The fusion took up the push: the term's own feature KL grew by this factor or more since the switch, that of the last blocks,
#: which the fusion is no part of, by this one or less.
GREW_FACTOR, STAYED_FACTOR = 3.0, 1.25
#: Trials named for a kind.
NAMED_TRIALS = 3


@dataclass(frozen=True)
class Signature:
    """A known way to fail: what happened, in words; the trial's arm, phase and seed; the numbers that show it.

    arm: of a repeat, None of a searched trial.
    """

    kind: str
    where: str
    detail: str
    arm: str | None = None


RAN_APART = "alpha too high: the networks ran apart and learned less"
DISSIMILAR_FEATURES = "beta too high: the features grew too dissimilar and mutual learning lost its benefit"
NO_EFFECT = "weights too low: nothing but mutual learning"
TAKEN_UP = (
    "the fusion took up the feature term's push: the distance between the features that it makes grew, that between the "
    "networks' own did not"
)
DIED = "the feature term died"
RAN_AWAY = "the feature term ran away"

#: What a trial is judged against, as details call it.
PLAIN, BEFORE_SWITCH = "in plain mutual learning", "before the switch"


def signatures(study: StudyData) -> list[Signature]:
    """Find the known ways to fail in every trial with diversity terms, the repeats' first."""
    baseline = study.finished(study.baseline) if study.baseline in study.arms else {}
    baseline = {seed: record for seed, record in baseline.items() if _is_plain(study, record)}
    searched = {
        record.config["seed"]: record
        for arm, record in reversed(study.searched)
        if arm == study.baseline and _is_plain(study, record)
    }
    found = []
    for (arm, seed), record in study.records.items():
        of_repeat = _of_trial(study, record, f"{arm}, seed {seed}", baseline.get(seed))
        found += [replace(signature, arm=arm) for signature in of_repeat]
    for arm, record in {record.id: (arm, record) for arm, record in study.searched}.values():
        found += _of_trial(study, record, f"{arm}, search, {_weights(record)}", searched.get(record.config["seed"]))
    return found


def _is_plain(study: StudyData, record: TrialRecord) -> bool:
    """Whether no diversity term acts in a trial: not every study's baseline is plain mutual learning."""
    curve = study.curve(record.id)
    return not (record.config["alpha"] or record.config["beta"]) or curve is None or curve.switch is None


def _of_trial(study: StudyData, record: TrialRecord, where: str, plain: TrialRecord | None) -> list[Signature]:
    found = [
        Signature(kind, where, note.split(": ", 1)[-1])
        for note in record.notes
        for kind in (DIED, RAN_AWAY)
        if note.startswith(kind.removeprefix("the "))
    ]
    own = study.curve(record.id)
    if own is None or own.switch is None:
        return found
    if (detail := taken_up(own, record.switch.get("feature_kl"), record.config["beta"])) is not None:
        found.append(Signature(TAKEN_UP, where, detail))
    other = study.curve(plain.id) if plain is not None and plain.id != record.id else None
    alpha, beta = record.config["alpha"], record.config["beta"]
    return found + [Signature(kind, where, detail) for kind, detail in of_curve(own, other, alpha, beta)]


def taken_up(own: Curve, start: float | None, beta: float) -> str | None:
    """Say by numbers that the fusion moved and the networks did not, if so; start: the term's feature KL at the switch."""
    before = np.flatnonzero(own.stage == 1)
    if not beta or not start or not len(before):
        return None
    term, blocks = own.values["own_feature_kl"][-1], own.values["feature_kl"]
    if not (term >= GREW_FACTOR * start and blocks[-1] <= STAYED_FACTOR * blocks[before[-1]]):
        return None
    there, here = blocks[before[-1]], blocks[-1]
    return (
        f"the term's feature KL from {start:.2g} at the switch to {term:.2g}, the last blocks' from {there:.2g} to {here:.2g}"
    )


def of_curve(own: Curve, plain: Curve | None, alpha: float, beta: float) -> list[tuple[str, str]]:
    """Find which known ways to fail the epochs of a trial with diversity terms show: kinds and details.

    plain: mutual learning of the same seed, compared after as many epochs; where it is None or has not come so far, the
    trial's own last epoch before the switch stands for it.
    """
    before = np.flatnonzero(own.stage == 1)
    if plain is not None and plain.epoch[-1] >= own.epoch[-1]:
        then, against = _values(plain, int(np.flatnonzero(plain.epoch == own.epoch[-1])[0])), PLAIN
    elif len(before):
        then, against = _values(own, int(before[-1])), BEFORE_SWITCH
    else:
        return []
    now, found = _values(own, -1), []
    if np.isnan([now["accuracy"], then["accuracy"]]).any():  # without validation images nothing shows
        return []
    if _worse(now, then):
        if alpha > 0 and now["w2_per_weight"] >= FAR_APART_FACTOR * then["w2_per_weight"]:
            found.append((RAN_APART, _detail("W2² per weight", "w2_per_weight", now, then, against)))
        if beta > 0 and now["feature_kl"] >= DISSIMILAR_FACTOR * then["feature_kl"]:
            found.append((DISSIMILAR_FEATURES, _detail("feature KL", "feature_kl", now, then, against)))
    if (alpha > 0 or beta > 0) and against == PLAIN and _same(now, then):
        found.append((NO_EFFECT, _detail("disagreement", "disagreement", now, then, against)))
    return found


def _values(curve: Curve, place: int) -> dict[str, float]:
    return {name: float(values[place]) for name, values in curve.values.items()}


def _accuracy(values: dict[str, float]) -> float:
    peers = of_peers(values, "accuracy")
    return float(np.nanmin([values["accuracy"], np.mean(peers) if peers else np.nan]))


def _worse(now: dict[str, float], then: dict[str, float]) -> bool:
    lost = then["accuracy"] - now["accuracy"], _accuracy(then) - _accuracy(now)
    return max(lost) > WORSE_ACCURACY or now["nll"] > (1 + WORSE_NLL_SHARE) * then["nll"]


def _same(now: dict[str, float], then: dict[str, float]) -> bool:
    shares = {"w2_per_weight": SAME_W2, "nll": SAME_NLL, "feature_kl": SAME_KL}
    near = all(np.isclose(now[name], then[name], rtol=share, atol=0) for name, share in shares.items())
    return near and abs(now["disagreement"] - then["disagreement"]) <= SAME_DISAGREEMENT


def _detail(title: str, name: str, now: dict[str, float], then: dict[str, float], against: str) -> str:
    return (
        f"{title} {now[name]:.3g} against {then[name]:.3g} {against}; validation accuracy {100 * now['accuracy']:.1f} against "
        f"{100 * then['accuracy']:.1f} %, NLL {now['nll']:.3f} against {then['nll']:.3f}"
    )


def _weights(record: TrialRecord) -> str:
    return f"alpha {record.config['alpha']:.2g}, beta {record.config['beta']:.2g}, seed {record.config['seed']}"


def words(found: list[Signature]) -> list[str]:
    """Write a Markdown sentence for each kind: in how many trials, and the first of them."""
    lines = []
    for kind in dict.fromkeys(signature.kind for signature in found):
        trials = [signature for signature in found if signature.kind == kind]
        shown = "; ".join(f"{trial.where} ({trial.detail})" for trial in trials[:NAMED_TRIALS])
        more = f"; and {len(trials) - NAMED_TRIALS} more" if len(trials) > NAMED_TRIALS else ""
        lines.append(f"**{kind[0].upper()}{kind[1:]}**, in {len(trials)} trial{'s' * (len(trials) > 1)}: {shown}{more}.")
    return lines
