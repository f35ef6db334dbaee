"""Compare arms with the baseline, and contrast several arms with each other: paired by seed, with intervals and tests."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from analysis.records.columns import COLUMNS, Value, mean_over_members
from analysis.records.load import Predictions
from analysis.records.repeats import Repeats
from analysis.stats.bootstrap import Interval, of_resampled, resampled, two_way
from analysis.stats.calibration import image_eces
from analysis.stats.statistics import BETTER, UNDECIDED, WORSE, Difference, contrast, difference, holm
from mldiv.records.contents import TrialRecord


@dataclass(frozen=True)
class Compared:
    """A metric that arms are compared by.

    title, unit: as a sentence names them; factor, digits: for print; more: whether a higher score is better; per_image: its
    value of every image [images], None where it is no mean over images.
    """

    title: str
    unit: str
    factor: float
    digits: int
    more: bool
    per_image: Callable[[Predictions], np.ndarray] | None


COMPARED: dict[str, Compared] = {
    "nll": Compared("NLL", "", 1.0, 4, False, lambda predictions: predictions.nll),
    "accuracy": Compared("accuracy", " in percentage points", 100.0, 2, True, lambda predictions: predictions.correct),
    "ece": Compared("ECE", " in percentage points", 100.0, 2, False, None),
}


@dataclass(frozen=True)
class Looks:
    """The looks that a study which adds seeds as needed has taken.

    taken: the seeds of each, a look's among those of the next; level: of each look's intervals; margins: by metric, the
    smallest difference that matters. With level LEVEL over the number of planned looks, over all of them together a verdict is
    wrong at most as often as a single look's at LEVEL, however the looks depend on each other (Bonferroni). The levels of
    Pocock and of O'Brien and Fleming (spent as by Lan and DeMets 1983) with t quantiles are not enough where seeds are few and
    vary more than images: of 80,000 comparisons without a difference, looked at with 3, 5, 8 and 12 seeds, 5.8 % and 5.3 % came
    out as better or worse, here 4.3 %.
    """

    taken: Sequence[Sequence[int]]
    level: float
    margins: Mapping[str, float]


#: By arm, how much it counts.
Weights = Mapping[str, float]
#: By arm and seed, the predictions of the arm's members.
OfArms = Mapping[str, Sequence[list[Predictions]]]
#: By metric and name.
Effects = Mapping[str, Mapping[str, Difference]]


def differences(
    repeats: Repeats, baseline: str, arms: list[str], metrics: Iterable[str] = COMPARED, looks: Looks | None = None
) -> Effects:  # fmt: skip
    """Subtract the baseline's scores from each arm's, in printed units, with Holm's correction over the arms.

    metrics: of COMPARED; looks: judge at each, the first that decides. Arms that share no seed with the baseline are left out.
    """
    return contrasts(repeats, _to_baseline(baseline, arms), metrics, looks)


def _to_baseline(baseline: str, arms: Sequence[str]) -> dict[str, Weights]:
    return {arm: {arm: 1.0, baseline: -1.0} for arm in arms if arm != baseline}


def contrasts(
    repeats: Repeats, family: Mapping[str, Weights], metrics: Iterable[str] = COMPARED, looks: Looks | None = None
) -> Effects:  # fmt: skip
    """Add up arms' scores with the weights of each contrast, in printed units, with Holm's correction over the contrasts."""
    return {metric: _corrected(repeats, metric, family, looks) for metric in metrics}


def after_scaling(repeats: Repeats, baseline: str, arms: Sequence[str]) -> Effects:
    """Subtract the baseline's NLL from each arm's, each network's probabilities scaled by a temperature: nats.

    Temperatures are fitted on validation images, one for a network, one for the pair: what is left is no matter of being too
    sure or not sure enough. Intervals hold over seeds alone, for scaled probabilities are in no record. Arms of which a record
    has no temperature are left out. Reference: Ashukha et al. (ICLR 2020).
    """
    return {"nll": of_columns(repeats, baseline, arms, ["scaled_nll"]).get("scaled_nll", {})}


def of_columns(repeats: Repeats, baseline: str, arms: Sequence[str], names: Iterable[str]) -> Effects:
    """Subtract the baseline's value from each arm's in columns of the tables, with Holm's correction over the arms of each.

    names: of COLUMNS, in whose printed units the differences are. Intervals hold over seeds alone. Left out: an arm without a
    value on a seed of the baseline, and a column without any.
    """
    return contrasts_of_columns(repeats, _to_baseline(baseline, arms), names)


def contrasts_of_columns(repeats: Repeats, family: Mapping[str, Weights], names: Iterable[str]) -> Effects:
    """Add up arms' values in columns of the tables with the weights of each contrast, otherwise as `of_columns`."""
    found = {}
    for name in names:
        column = COLUMNS[name]
        per_seed = {title: _per_seed(repeats, weights, column.value) for title, weights in family.items()}
        found[name] = _holm(
            {title: difference([column.factor * value for value in of.values()]) for title, of in per_seed.items() if of}
        )
    return {name: effects for name, effects in found.items() if effects}


def verdict(effect: Difference, metric: str, margin: float, contrast: bool = False) -> str:
    """Return the verdict of an arm; of a contrast, which nobody trains, on which side of 0 it lies."""
    found = effect.verdict(margin, COMPARED[metric].more)
    if not contrast or found not in (BETTER, WORSE):
        return found
    return "above 0" if effect.mean > 0 else "below 0"


def _corrected(repeats: Repeats, metric: str, family: Mapping[str, Weights], looks: Looks | None) -> dict[str, Difference]:
    found = {name: _at_looks(repeats, metric, weights, looks) for name, weights in family.items()}
    return _holm({name: effect for name, effect in found.items() if effect is not None})


def _holm(effects: Mapping[str, Difference]) -> dict[str, Difference]:
    adjusted = holm([effect.p for effect in effects.values()])
    return {name: replace(effect, adjusted=p) for (name, effect), p in zip(effects.items(), adjusted, strict=True)}


def _at_looks(repeats: Repeats, metric: str, weights: Weights, looks: Looks | None) -> Difference | None:
    """Return the contrast at the first look that decides it, else at the last."""
    if looks is None:
        return _effect(repeats, metric, weights)
    effect = None
    for seeds in looks.taken:
        of_look = {arm: {seed: repeats[arm][seed] for seed in seeds if seed in repeats.get(arm, {})} for arm in weights}
        if (effect := _effect(of_look, metric, weights)) is not None:
            effect = replace(effect, level=looks.level)
            if effect.verdict(looks.margins[metric], COMPARED[metric].more) != UNDECIDED:
                return effect
    return effect


def _effect(repeats: Repeats, metric: str, weights: Weights) -> Difference | None:
    """Return the contrast over the seeds that `_per_seed` gives; None when there is none."""
    if not (
        per_seed := _per_seed(repeats, weights, lambda repeat: mean_over_members(repeat.record.test, repeat.member, metric))
    ):
        return None
    factor = COMPARED[metric].factor
    effect = difference([factor * value for value in per_seed.values()])
    predicted = {arm: [repeats[arm][seed].predictions or [] for seed in per_seed] for arm in weights}
    interval = _interval(predicted, metric, weights)
    if interval is None:
        return effect
    errors = factor * interval.standard_error, interval.df, factor * interval.images_error
    return Difference(effect.mean, effect.n, *errors, images=interval.images)


def epochs_short(record: TrialRecord) -> int:
    """Return how many epochs a trial fell short of what it was to train: 0 unless it was stopped early."""
    return record.config["epochs"] - record.epochs


def _per_seed(repeats: Repeats, weights: Weights, value: Value) -> dict[int, float]:
    """Return the contrast of every seed on which all its arms have a value and fell as far short of their epochs."""
    scores = {}
    for arm in weights:
        every = {seed: value(repeat) for seed, repeat in repeats.get(arm, {}).items()}
        scores[arm] = {seed: score for seed, score in every.items() if score is not None}
    found = contrast(scores, weights).items()
    return {seed: value for seed, value in found if len({epochs_short(repeats[arm][seed].record) for arm in weights}) == 1}


def _interval(predictions: OfArms, metric: str, weights: Weights) -> Interval | None:
    """Return the interval over seeds and test images; None where predictions are missing or of unequally many images."""
    of_seeds = [members for of_arm in predictions.values() for members in of_arm]
    images = {len(member.label) for members in of_seeds for member in members}
    if len(images) != 1 or not all(of_seeds) or len(next(iter(predictions.values()))) < 2:
        return None
    per_image = COMPARED[metric].per_image
    if per_image is None:
        eces = np.sum([weight * mean_eces(predictions[arm]) for arm, weight in weights.items()], axis=0)
        return of_resampled(eces, images.pop())
    values = _contrast_per_image(predictions, weights, per_image)
    return two_way(values) if np.isfinite(values).all() else None


def _contrast_per_image(predictions: OfArms, weights: Weights, per_image: Callable[[Predictions], np.ndarray]) -> np.ndarray:
    """Return the contrast of every seed and image, [seeds, images]; an arm's score is the mean of its members'."""
    arms = [
        weight * np.array([np.mean([per_image(member) for member in members], axis=0) for members in predictions[arm]])
        for arm, weight in weights.items()
    ]
    return np.sum(arms, axis=0)


def mean_eces(of_seeds: Sequence[list[Predictions]]) -> np.ndarray:
    """Return the mean of the members' ECEs, which may be more in one seed than in another, as `resampled_eces`."""
    counts = [len(members) for members in of_seeds]
    every = resampled_eces(tuple(member for members in of_seeds for member in members))
    return np.add.reduceat(every, np.cumsum([0, *counts[:-1]]), axis=1) / counts


@lru_cache(maxsize=32)  # an arm is compared with several others
def resampled_eces(seeds: tuple[Predictions, ...]) -> np.ndarray:
    """Return each one's ECE of the sample and of resamples of its images, [1 + draws, seeds], as `bootstrap.resampled`."""
    return resampled(image_eces(*stacked(seeds)), len(seeds[0].label))


def stacked(seeds: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray]:
    """Stack a member's confidence and correctness over seeds, [seeds, images] each."""
    return np.stack([seed.confidence for seed in seeds]), np.stack([seed.correct for seed in seeds])
