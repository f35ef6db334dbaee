"""Gather a study's finished repeats with everything that tables and figures take from them, each read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.records.load import Curve, Predictions, StudyData
from mldiv.records.contents import TrialRecord, scored_by
from mldiv.records.study_files import trial_folder


@dataclass(frozen=True)
class Repeat:
    """A finished repeat: its record, whose predictions it is judged by ("pair" or "peers"), its epochs, its predictions.

    curve, predictions: None where they cannot be read; folder: the trial's, for a column that needs more of what lies there.
    """

    record: TrialRecord
    member: str
    curve: Curve | None
    predictions: list[Predictions] | None
    folder: Path | None = None


#: By arm and seed.
Repeats = dict[str, dict[int, Repeat]]
#: By seed, and by arm and seed, the predictions of the arm's members.
BySeed = Mapping[int, list[Predictions]]
ByArm = Mapping[str, BySeed]


#: Of a pair's peers, the one with the lowest NLL on validation data.
STRONGER = "the stronger"


def gather(study: StudyData, whose: str | None = None) -> Repeats:
    """Read every finished repeat; what cannot be read is named in ``study.problems``.

    whose: judge every arm by "peers", by a peer's name or by STRONGER instead of by what the study says of it; repeats without
    such a peer are left out.
    """
    found: Repeats = {}
    for arm in study.arms:
        members = {seed: _member(study, arm, record, whose) for seed, record in study.finished(arm).items()}
        found[arm] = {
            seed: Repeat(study.records[arm, seed], member, study.curve(study.records[arm, seed].id),
                         study.predictions(arm, seed, member), trial_folder(study.folder, study.records[arm, seed].id))
            for seed, member in members.items() if member is not None
        }  # fmt: skip
    return found


def _member(study: StudyData, arm: str, record: TrialRecord, whose: str | None) -> str | None:
    if whose is None:
        return study.member(arm)
    peers = scored_by("peers", record.test)
    if whose == STRONGER:
        nll = {peer: record.validation.get(peer, {}).get("nll") for peer in peers}
        known = {peer: value for peer, value in nll.items() if value is not None}
        return min(known, key=known.__getitem__) if len(known) == len(nll) else None
    return whose if whose == "peers" or whose in peers else None


def predictions(repeats: Repeats) -> ByArm:
    """Return the members' predictions, where there are any."""
    found = {
        arm: {seed: repeat.predictions for seed, repeat in of_arm.items() if repeat.predictions is not None}
        for arm, of_arm in repeats.items()
    }
    return {arm: of_arm for arm, of_arm in found.items() if of_arm}
