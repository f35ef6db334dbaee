"""How many independent networks an arm is worth: the deep-ensemble equivalent (Ashukha et al., ICLR 2020)."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from analysis.markdown import table
from analysis.records.columns import mean_over_members
from analysis.records.load import StudyData
from analysis.stats.statistics import Difference
from mldiv.records.contents import TrialRecord

#: With fewer networks an ensemble's curve says nothing.
LEAST_NETWORKS = 3

WORDS = (
    "Worth in independent networks: the size of an ensemble of deterministic networks, each trained alone, whose calibrated "
    "NLL (after a temperature fitted on validation data) is the arm's; straight lines between sizes, on the mean over shared "
    "seeds, with its 95 % interval over seeds (jackknife). The ensemble is arm {arm}."
)


def ensemble(study: StudyData) -> str | None:
    """Name the arm of the most deterministic networks that never meet, LEAST_NETWORKS at least; None where there is none."""
    sizes = {
        arm: min(len(record.ensembles) for record in of_arm)
        for arm in study.arms
        if (of_arm := list(study.finished(arm).values())) and all(_independent(record) for record in of_arm)
    }
    arm = max(sizes, key=lambda name: sizes[name], default=None)
    return arm if arm is not None and sizes[arm] >= LEAST_NETWORKS else None


def _independent(record: TrialRecord) -> bool:
    config = record.config
    apart = config.get("posterior") == "deterministic" and config.get("mutual_weight") == 0
    return apart and config.get("alpha") == config.get("beta") == 0


def equivalent(nll: float, curve: np.ndarray) -> float:
    """Return the ensemble's size at which its calibrated NLL, ``curve`` [sizes] of 1, 2, ... networks, first is ``nll``.

    0 where it is worse than one network, infinite where it is better than all.
    """
    if nll > curve[0]:
        return 0.0
    for size, (before, after) in enumerate(pairwise(curve), 1):
        if after <= nll:
            return size + (before - nll) / (before - after) if before > after else float(size)
    return float(len(curve)) if nll == curve[-1] else np.inf


def worth(nll: Sequence[float], curves: np.ndarray) -> tuple[float, tuple[float, float] | None]:
    """Return an arm's deep-ensemble equivalent, and its interval by the jackknife over seeds.

    nll: calibrated, [seeds]; curves: [seeds, sizes]. None for the interval with one seed, or where the equivalent lies beyond
    either end of the curve with some seed left out.
    """
    seeds, table = len(nll), np.column_stack([nll, curves])  # one sum for all: a mean of the same numbers is the same

    def of(chosen: np.ndarray) -> float:
        mean = table[chosen].mean(0)
        return equivalent(float(mean[0]), mean[1:])

    found = of(np.arange(seeds))
    if seeds < 2:
        return found, None
    without = np.array([of(np.arange(seeds) != seed) for seed in range(seeds)])
    if not np.isfinite([found, *without]).all() or not min(found, *without):
        return found, None
    error = float(np.sqrt((seeds - 1) / seeds * np.square(without - without.mean()).sum()))
    low, high = Difference(found, seeds, error, seeds - 1.0).interval or (found, found)
    return found, (max(low, 0.0), high)


def _curve(record: TrialRecord, most: int) -> np.ndarray:
    """Return the calibrated NLL of 1, 2, ... networks; NaN where a record has none."""
    return np.array([record.ensembles.get(str(size), {}).get("scaled_nll") for size in range(1, most + 1)], float)


def markdown(study: StudyData) -> list[str]:
    """Write the words and a table with a row per arm that shares seeds with the ensemble; nothing where there is none."""
    if (name := ensemble(study)) is None:
        return []
    networks = study.finished(name)
    most = min(len(record.ensembles) for record in networks.values())
    rows = []
    for arm in study.arms:
        found = {seed: mean_over_members(record.test_scaled, study.member(arm), "nll") for seed, record in
                 study.finished(arm).items() if seed in networks}  # fmt: skip
        curves = {seed: _curve(networks[seed], most) for seed in found}
        nll = {seed: value for seed, value in found.items() if value is not None and np.isfinite(curves[seed]).all()}
        if nll:
            rows.append([arm, _cell(*worth(list(nll.values()), np.array([curves[seed] for seed in nll])), most), len(nll)])
    head = ["arm", "independent networks [95 % interval]", "n"]
    return [WORDS.format(arm=name), table(head, rows)]


def _cell(size: float, interval: tuple[float, float] | None, most: int) -> str:
    if not size:
        return "less than 1"
    if not np.isfinite(size):
        return f"more than {most}"
    return f"{size:.2f}" if interval is None else f"{size:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
