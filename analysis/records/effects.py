"""What differs, by how much, how surely: arms against the baseline, and contrasts of several arms, paired by seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis.records.columns import Repeat, mean_over_members
from analysis.records.load import Predictions
from analysis.stats.bootstrap import two_way, two_way_statistic
from analysis.stats.calibration import image_eces
from analysis.stats.statistics import Difference, contrast, difference, holm
from mldiv.records import JUDGED


@dataclass(frozen=True)
class Compared:
    """A metric that is compared: title, unit for a sentence, factor and digits for print, whether more is better, and its
    values per image [images] (None: it is a mean over images in no way)."""

    title: str
    unit: str
    factor: float
    digits: int
    more: bool
    per_image: Callable[[Predictions], np.ndarray] | None


COMPARED: dict[str, Compared] = {
    "nll": Compared("NLL", "", 1.0, 4, False, lambda one: one.nll),
    "accuracy": Compared("accuracy", " in percentage points", 100.0, 2, True, lambda one: one.correct.astype(float)),
    "ece": Compared("ECE", " in percentage points", 100.0, 2, False, None),
}

#: By arm, its finished repeats by seed.
Repeats = Mapping[str, Mapping[int, Repeat]]
#: By metric and name.
Effects = dict[str, dict[str, Difference]]


def differences(repeats: Repeats, baseline: str, arms: list[str]) -> Effects:
    """Each arm less the baseline, in printed units, with Holm's correction over the arms; arms without pairs are left out."""
    return {
        metric: _family(repeats, metric, {arm: {arm: 1.0, baseline: -1.0} for arm in arms if arm != baseline})
        for metric in COMPARED
    }


def contrasts(repeats: Repeats, weights: Mapping[str, Mapping[str, float]]) -> Effects:
    """Each contrast (name -> arms' weights) in printed units, with Holm's correction over the contrasts."""
    return {metric: _family(repeats, metric, weights) for metric in COMPARED}


def _family(repeats: Repeats, metric: str, family: Mapping[str, Mapping[str, float]]) -> dict[str, Difference]:
    found = {name: one for name, weights in family.items() if (one := _effect(repeats, metric, weights)) is not None}
    adjusted = holm([one.p for one in found.values()])
    return {name: replace(one, adjusted=p) for (name, one), p in zip(found.items(), adjusted, strict=True)}


def _effect(repeats: Repeats, metric: str, weights: Mapping[str, float]) -> Difference | None:
    """The contrast over the seeds that all its arms finished with as many epochs; None when there is none."""
    compared = COMPARED[metric]
    scores = {arm: _scores(repeats.get(arm, {}), metric) for arm in weights}
    per_seed = contrast(scores, weights)
    seeds = [seed for seed in per_seed if len({repeats[arm][seed].record.epochs for arm in weights}) == 1]
    if not seeds:
        return None
    one = difference([compared.factor * per_seed[seed] for seed in seeds])
    interval = _interval(repeats, metric, weights, seeds)
    return one if interval is None else replace(one, interval=interval[:2], images=interval[2])


def _scores(repeats: Mapping[int, Repeat], metric: str) -> dict[int, float]:
    found = {seed: mean_over_members(one.record.test, one.member, metric) for seed, one in repeats.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _interval(repeats: Repeats, metric: str, weights: Mapping[str, float], seeds: list[int]) -> tuple[float, float, int] | None:
    """The interval over seeds and test images, and the number of images; None where predictions are missing."""
    predictions = {arm: [repeats[arm][seed].predictions or [] for seed in seeds] for arm in weights}
    sizes = {len(one.label) for of_arm in predictions.values() for of_seed in of_arm for one in of_seed}
    if len(sizes) != 1 or any(not of_seed for of_arm in predictions.values() for of_seed in of_arm):
        return None
    compared, images = COMPARED[metric], sizes.pop()
    if compared.per_image is not None:
        values = np.zeros((len(seeds), images))
        for arm, weight in weights.items():
            for row, of_seed in enumerate(predictions[arm]):
                values[row] += weight * np.mean([compared.per_image(one) for one in of_seed], axis=0)
        found = two_way(values) if np.isfinite(values).all() else None
    else:
        parts = [
            (weight / len(JUDGED[repeats[arm][seeds[0]].member]), image_eces(*stacked(predictions[arm], place)))
            for arm, weight in weights.items()
            for place in range(len(predictions[arm][0]))
        ]
        found = two_way_statistic(
            lambda drawn: np.sum([weight * ece(drawn) for weight, ece in parts], axis=0), len(seeds), images
        )
    return None if found is None else (compared.factor * found.low, compared.factor * found.high, images)


def stacked(of_arm: list[list[Predictions]], place: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and correctness [seeds, images] of a member."""
    return (
        np.stack([of_seed[place].confidence for of_seed in of_arm]),
        np.stack([of_seed[place].correct for of_seed in of_arm]),
    )
