"""Gather a study's finished repeats with everything that tables and figures take from them, each read once."""

from analysis.records.columns import Repeat
from analysis.records.load import Predictions, StudyData

Repeats = dict[str, dict[int, Repeat]]


def gather(study: StudyData) -> Repeats:
    """Read every finished repeat, by arm and seed; what cannot be read is named in ``study.problems``."""
    return {
        arm: {
            seed: Repeat(record, study.member(arm), study.curve(record.id), study.predictions(arm, seed))
            for seed, record in study.finished(arm).items()
        }
        for arm in study.arms
    }


def predictions(repeats: Repeats) -> dict[str, dict[int, list[Predictions]]]:
    """Return the members' predictions by arm and seed, where there are any."""
    found = {
        arm: {seed: repeat.predictions for seed, repeat in of_arm.items() if repeat.predictions is not None}
        for arm, of_arm in repeats.items()
    }
    return {arm: of_arm for arm, of_arm in found.items() if of_arm}
