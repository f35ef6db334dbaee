"""Each arm's ECE with its interval, beside where a perfectly calibrated model's would lie."""

import numpy as np
import pandas as pd

from analysis.records.effects import Repeats, stacked
from analysis.records.load import Predictions
from analysis.stats.bootstrap import Interval, two_way_statistic
from analysis.stats.calibration import ece_interval, image_eces, null_distribution

#: Seeds whose confidences stand for an arm's in the null; more would not move its range.
SEEDS = 8

WORDS = (
    "ECE, mean over seeds, with its 95 % interval over seeds and test images (of the expected ECE at so many images, its "
    "upward bias included), and the mean and the range of 95 % of the ECEs that a perfectly calibrated model with these "
    "confidences would score on one such test set."
)


def markdown(repeats: Repeats) -> list[str]:
    """The words and a table with a row per arm with predictions; nothing where no arm has any."""
    rows = []
    for arm, of_arm in repeats.items():
        found = [one.predictions for one in of_arm.values() if one.predictions]
        if found:
            low, mean, high = null_range(found)
            rows.append([arm, _percent(interval(found), found), f"{mean:.2f} [{low:.2f}, {high:.2f}]"])
    if not rows:
        return []
    frame = pd.DataFrame(rows, columns=["arm", "ECE % [95 % interval]", "if calibrated [95 % range]"])
    return [WORDS, frame.to_markdown(index=False, disable_numparse=True)]


def interval(found: list[list[Predictions]]) -> Interval | None:
    """Of the mean over seeds of the members' mean ECE; None for one seed, or test sets of different sizes."""
    if len(found) < 2 or len({len(one.label) for of_seed in found for one in of_seed}) > 1:
        return None
    members = [stacked(found, place) for place in range(len(found[0]))]
    if len(members) == 1:
        return ece_interval(*members[0])
    parts = [image_eces(*one) for one in members]
    shape = np.shape(members[0][0])
    return two_way_statistic(lambda drawn: np.mean([ece(drawn) for ece in parts], axis=0), *shape)


def null_range(found: list[list[Predictions]]) -> tuple[float, float, float]:
    """Low end, mean and high end in percent, averaged over the members of the first seeds."""
    nulls = [null_distribution(one.confidence) for of_seed in found[:SEEDS] for one in of_seed]
    low, mean, high = np.mean([(one.low, one.mean, one.high) for one in nulls], axis=0)
    return 100 * float(low), 100 * float(mean), 100 * float(high)


def _percent(one: Interval | None, found: list[list[Predictions]]) -> str:
    if one is None:
        return f"no interval (n = {len(found)})"
    return f"{100 * one.estimate:.2f} [{100 * one.low:.2f}, {100 * one.high:.2f}] ({one.seeds})"
