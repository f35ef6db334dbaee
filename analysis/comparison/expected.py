"""Put each arm's ECE with its interval beside the range in which a perfectly calibrated model's would lie."""

from collections.abc import Sequence

import numpy as np

from analysis.comparison.effects import mean_eces, stacked
from analysis.markdown import table
from analysis.records.load import Predictions
from analysis.records.repeats import Repeats
from analysis.stats.bootstrap import Interval, of_resampled
from analysis.stats.calibration import log_scale, null_distributions
from analysis.stats.smooth_calibration import NEGLIGIBLE, judge
from analysis.stats.statistics import UNDECIDED

#: Seeds whose confidences stand for an arm's in the null; more would not move its range.
NULL_SEEDS = 8

WORDS = (
    "ECE, mean over seeds, with its 95 % interval over seeds and test images (of the expected ECE at so many images, its "
    "upward bias included), and the range of 95 % of the ECEs that a perfectly calibrated model with these confidences would "
    "score on one such test set. The smooth calibration error (no bins) with the interval of that at "
    f"infinitely many images, and whether it is known to be below {100 * NEGLIGIBLE:g} %: calibrated well enough, "
    "miscalibrated, or undecided."
)

#: Of its bootstrap: each fits a width to every seed; 250 tell the interval's width within 5 %.
SMOOTH_DRAWS = 250

#: By seed, the predictions of the arm's members.
OfSeeds = Sequence[list[Predictions]]


def markdown(repeats: Repeats) -> list[str]:
    """Write the words and a table with a row per arm that has predictions; nothing where no arm has any."""
    rows = []
    for arm, of_arm in repeats.items():
        seeds = [repeat.predictions for repeat in of_arm.values() if repeat.predictions]
        if seeds:
            low, high = null_range(seeds)
            ece = [_percent(interval(seeds), len(seeds)), f"[{low:.2f}, {high:.2f}]"]
            rows.append([arm, *ece, *smooth(seeds)])
    if not rows:
        return []
    head = ["arm", "ECE % [95 % interval]", "95 % range if calibrated", "smooth error % [95 % interval]", "calibrated"]
    return [WORDS, table(head, rows)]


def interval(seeds: OfSeeds) -> Interval | None:
    """Return the interval of the mean over seeds of the members' mean ECE, in shares of 1.

    None for one seed, or test sets of different sizes.
    """
    if len(seeds) < 2 or len({len(member.label) for members in seeds for member in members}) > 1:
        return None
    found = of_resampled(mean_eces(seeds), len(seeds[0][0].label))
    return log_scale(found) if found and len(seeds[0]) == 1 else found


def smooth(seeds: OfSeeds) -> list[str]:
    """Write the smooth calibration error with its interval, and the verdict; of several members the worst one's."""
    if len({len(member.label) for members in seeds for member in members}) > 1:
        return ["no interval", UNDECIDED]
    judged = [judge(*stacked(of_member), draws=SMOOTH_DRAWS) for of_member in zip(*seeds, strict=True)]
    worst = max(judged, key=lambda found: found.interval.estimate if found.interval else 0.0)
    return [_percent(worst.interval, len(seeds)), worst.verdict]


def null_range(seeds: OfSeeds) -> tuple[float, float]:
    """Return the null's low and high end in percent, averaged over the members of the first seeds."""
    nulls = null_distributions([member.confidence for members in seeds[:NULL_SEEDS] for member in members])
    low, high = np.mean([(null.low, null.high) for null in nulls], axis=0)
    return 100 * float(low), 100 * float(high)


def _percent(ece: Interval | None, seeds: int) -> str:
    if ece is None:
        return f"no interval (n = {seeds})"
    return f"{100 * ece.estimate:.2f} [{100 * ece.low:.2f}, {100 * ece.high:.2f}] ({ece.seeds})"
