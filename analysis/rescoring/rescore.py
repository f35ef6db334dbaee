"""Score a study's finished repeats anew, under other labels of the test images, from what they kept of their predictions."""

from dataclasses import replace
from typing import Any

import numpy as np

from analysis.records.load import StudyData
from analysis.records.predictions import Members, Predictions
from analysis.rescoring import scores
from analysis.rescoring.labels import OF_DATA, Labels
from mldiv import soft_labels
from mldiv.records.checked_files import Damaged, RecordError
from mldiv.records.contents import PAIR, TrialRecord
from mldiv.records.study_files import trial_folder
from mldiv.storage import full_predictions
from mldiv.storage.full_predictions import FILE, FullPredictions

#: What float16 may change in a logarithm: relative to it, and at all.
ROUNDING, LEAST_ROUNDING = 1e-3, 1e-5
#: Scores of a record that need validation labels too, or other predictions than those of the test images.
NOT_ANEW: dict[str, Any] = {"test_scaled": {}, "calibration_temperature": {}, "recalibrated": {}, "ensembles": {}, "shift": {}}
WORDS = (
    "Not made anew, and left out: scores after temperature, vector and isotonic scaling, fitted to validation labels, and with "
    "them the worth in independent networks; scores under shift; metrics of plug-ins. Of validation or training data, "
    "and so under the study's own labels: searches, choices, curves, gain on training images."
)


def rescore(study: StudyData, labels: Labels) -> None:
    """Give every finished repeat the scores and predictions under ``labels``; leave out, by name, those that cannot have them.

    Raises: RecordError where the labels are not of the study's test images, or no repeat kept its full predictions.
    """
    done: dict[str, tuple[TrialRecord, Members]] = {}
    first: tuple[TrialRecord, np.ndarray] | None = None
    finished = [(arm, seed, record) for arm in study.arms for seed, record in study.finished(arm).items()]
    for arm, seed, record in finished:
        try:
            if record.id not in done:
                own, full = _kept(study, record)
                first = first or (record, own[PAIR].label)
                done[record.id] = _rescored(record, own, full, labels)
        except Damaged as error:
            study.note(error)
            del study.records[arm, seed]
        else:
            study.take(arm, seed, *done[record.id])
    if first is None:
        raise RecordError(f"{study.folder}: no finished repeat has its full predictions, which --keep-predictions full keeps")
    if len({record.data.get("test_fingerprint") for record, _ in done.values()}) > 1:
        raise RecordError(f"{study.folder}: its trials are not of the same test images")
    study.rescored = _words(labels, *first)


def _kept(study: StudyData, record: TrialRecord) -> tuple[Members, FullPredictions]:
    """Return what a trial kept of its predictions, under its own labels. Raises: Damaged where that is not all."""
    path = trial_folder(study.folder, record.id) / FILE
    try:
        full = full_predictions.read(path, record.id)
    except FileNotFoundError:
        raise Damaged(f"{path}: not there, the trial kept no full predictions") from None
    own = study.members(record)
    known = record.data.keys() >= set(OF_DATA)
    if own is None or not known or _contradicts(full, own) or full[PAIR].shape != (record.data["test"], record.data["classes"]):
        raise Damaged(f"{path}: does not fit predictions.parquet and trial.json")
    return own, full


def _rescored(record: TrialRecord, own: Members, full: FullPredictions, labels: Labels) -> tuple[TrialRecord, Members]:
    """Return a trial's record and predictions under the labels. Raises: RecordError for labels of other images."""
    labels.check(record)
    shares = labels.shares(full[PAIR].shape[1])
    members = {name: _under(member, full[name], labels.classes, shares) for name, member in own.items()}
    found = {name: scores.scores(member, full[name], shares) for name, member in members.items()}
    return _record(record, members, found), members


def _contradicts(full: FullPredictions, own: Members) -> bool:
    """Whether full predictions are not those that the others were made of."""
    if full.keys() != own.keys() or len({values.shape for values in full.values()}) > 1:
        return True
    return any(len(full[name]) != len(member.label) or not _same(full[name], member) for name, member in own.items())


def _same(logarithms: np.ndarray, member: Predictions) -> bool:
    if max(member.label.max(), member.predicted.max()) >= logarithms.shape[1]:
        return False
    of_predicted = logarithms[np.arange(len(member.predicted)), member.predicted]
    return bool(np.allclose(of_predicted, np.log(member.confidence), rtol=ROUNDING, atol=LEAST_ROUNDING))


def _under(member: Predictions, logarithms: np.ndarray, classes: np.ndarray, shares: np.ndarray) -> Predictions:
    of_label = np.exp(-scores.cross_entropy(logarithms, shares))
    return replace(member, label=classes, label_probability=of_label, scaled_confidence=None)


def _record(record: TrialRecord, members: Members, found: dict[str, dict[str, float]]) -> TrialRecord:
    """Return the record with the scores found, and without what cannot be made anew."""
    label_free = ("entropy", "mutual_information")
    test = {name: of | {key: record.test[name].get(key) for key in label_free} for name, of in found.items()}
    uncertainty = {
        name: {key: value for key, value in record.uncertainty.get(name, {}).items() if key.startswith("ood_")}
        | scores.detection(member)
        for name, member in members.items()
    }
    generalized = dict(record.generalized)
    if "test" in generalized:
        peers = [of for name, of in found.items() if name != PAIR]
        generalized["test"] = scores.diversity(generalized["test"]["disagreement"], peers, found[PAIR])
    return replace(record, test=test, uncertainty=uncertainty, generalized=generalized, **NOT_ANEW)


def _words(labels: Labels, record: TrialRecord, own: np.ndarray) -> str:
    """Say whose labels these are, how they agree with the study's ``own``, what follows from them and what does not."""
    same = 100 * float((labels.classes == own).mean())
    counts = [np.bincount(classes, minlength=record.data["classes"]) / len(own) for classes in (labels.classes, own)]
    soft = f"They are soft: {soft_labels.WORDS}. " if labels.soft else ""
    known = "as the file says" if labels.fingerprint else "which the file does not say: their order is taken on trust"
    return (
        f"SCORED ANEW under the labels in {labels.name}, which are not the study's own: {len(own):,} images, {same:.1f} % with "
        f"the study's class (in another order about {100 * counts[0] @ counts[1]:.0f} %), of the test images "
        f"{record.data['test_fingerprint']}, {known}. {soft}{WORDS}"
    )
