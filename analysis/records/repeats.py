"""Gather a study's finished repeats with everything that tables and figures take from them, each read once."""

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.records.load import Curve, Predictions, StudyData
from mldiv.records import TrialRecord


@dataclass(frozen=True)
class Repeat:
    """A finished repeat: its record, whose predictions it is judged by ("pair" or "peers"), its epochs, its predictions.

    curve, predictions: None where they cannot be read.
    """

    record: TrialRecord
    member: str
    curve: Curve | None
    predictions: list[Predictions] | None


#: By arm and seed.
Repeats = dict[str, dict[int, Repeat]]
#: By seed, and by arm and seed, the predictions of the arm's members.
BySeed = Mapping[int, list[Predictions]]
ByArm = Mapping[str, BySeed]


def gather(study: StudyData) -> Repeats:
    """Read every finished repeat; what cannot be read is named in ``study.problems``."""
    return {
        arm: {
            seed: Repeat(record, study.member(arm), study.curve(record.id), study.predictions(arm, seed))
            for seed, record in study.finished(arm).items()
        }
        for arm in study.arms
    }


def predictions(repeats: Repeats) -> ByArm:
    """Return the members' predictions, where there are any."""
    found = {
        arm: {seed: repeat.predictions for seed, repeat in of_arm.items() if repeat.predictions is not None}
        for arm, of_arm in repeats.items()
    }
    return {arm: of_arm for arm, of_arm in found.items() if of_arm}
