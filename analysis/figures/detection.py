"""Draw uncertainty as a detector of errors: risk-coverage curves from the predictions."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from analysis.figures import html, svg
from analysis.figures.curves import BAND_ARMS, Mean, counted, line
from analysis.figures.palette import Style
from analysis.records.load import Predictions
from analysis.records.repeats import ByArm

UNCERTAINTIES = {"entropy": "entropy", "mutual_information": "mutual information"}
#: Shares of the test images that are kept.
COVERAGE = np.linspace(0.01, 1, 100)


def risk(uncertainty: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return the risk [images]: entry k - 1 is the share of errors among the k predictions of least uncertainty.

    uncertainty, correct: [images]. Equally uncertain predictions enter in no particular order: each counts as their mean.
    """
    order = np.argsort(uncertainty, kind="stable")
    values, wrong = uncertainty[order], 1.0 - correct[order]
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    sizes = np.diff(np.append(starts, len(values)))
    fair = np.repeat(np.add.reduceat(wrong, starts) / sizes, sizes)
    return np.cumsum(fair) / np.arange(1, len(fair) + 1)


def at_coverage(risks: np.ndarray) -> np.ndarray:
    """Return the risk when each share in COVERAGE of the images, rounded up to a whole image, is kept: [100]."""
    return risks[np.ceil(COVERAGE * len(risks) - 1e-9).astype(int).clip(1) - 1]


def risk_coverage(by_seed: Mapping[int, Sequence[Predictions]], uncertainty: str) -> Mean:
    """Average the risk over seeds, at COVERAGE, both in percent; a seed's risk is the mean of its members'."""
    rows = [
        np.mean([at_coverage(risk(getattr(member, uncertainty), member.correct)) for member in members], axis=0)
        for members in by_seed.values()
    ]
    table = 100 * np.array(rows)
    error = table.std(0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.full(len(COVERAGE), np.nan)
    return Mean(100 * COVERAGE, table.mean(0), error)


def panels(predictions: ByArm, styles: Mapping[str, Style]) -> Markup:
    """Draw risk-coverage curves by either uncertainty, on one scale; empty when no arm has predictions."""
    arms = [arm for arm in styles if predictions.get(arm) and _whole(predictions[arm])]
    if not arms:
        return Markup("")
    found = {name: {arm: risk_coverage(predictions[arm], name) for arm in arms} for name in UNCERTAINTIES}
    top = 1.05 * max(float(mean.mean.max()) for by_arm in found.values() for mean in by_arm.values()) or 1.0
    drawn = [_panel(name, by_arm, styles, top) for name, by_arm in found.items()]
    seeds = [len(predictions[arm]) for arm in arms]
    images = len(next(iter(predictions[arms[0]].values()))[0].label)
    band = " with one standard error either way as a band" if len(arms) <= BAND_ARMS and max(seeds) > 1 else ""
    caption = (
        "Risk-coverage curves: error rate among the share of test images that is kept when the most uncertain ones are left "
        f"out, by entropy of the prediction and by mutual information of prediction and weights. {images:,} test images; "
        f"mean over {counted(seeds)} seeds per arm{band}. A curve that falls steeply to the left means: uncertainty knows the "
        "errors."
    )
    return html.figure(drawn, caption, html.legend({arm: styles[arm] for arm in arms}))


def _whole(by_seed: Mapping[int, Sequence[Predictions]]) -> bool:
    """Whether every prediction has its uncertainties, which a compact copy leaves out."""
    return all(getattr(member, name) is not None for of in by_seed.values() for member in of for name in UNCERTAINTIES)


def _panel(name: str, by_arm: Mapping[str, Mean], styles: Mapping[str, Style], top: float) -> Markup:
    def draw(axes: Axes) -> None:
        for arm, mean in by_arm.items():
            line(axes, mean.epoch, mean.mean, mean.error, styles[arm], len(by_arm))
        axes.set(xlim=(0, 100), ylim=(0, top), xlabel="coverage: test images kept (%)")
        axes.set_title(f"Errors among the kept (%), by {UNCERTAINTIES[name]}")

    return svg.panel(f"risk-{name}", f"Error rate against coverage by {UNCERTAINTIES[name]}, {len(by_arm)} arms", draw)
