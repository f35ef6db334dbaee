"""Read scaling.jsonl: how time and memory of a step and of each loss term grow with weights and batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.figures.palette import style
from analysis.stats.growth import Growth, fit_power, fit_power_with_overhead, on_paper, upper

Line = dict[str, Any]

#: What is fitted: by which size, and the growth that the formula has.
EXPECTED = {
    ("param_distance", "weights"): "the posterior distance is a sum over weights: O(P)",
    ("kl_to_prior", "weights"): "the KL to the prior is a sum over weights: O(P)",
    ("feature_kl", "batch_size"): "the feature KL compares all images of a batch: O(B² d)",
}
TITLES = {
    "param_distance": "posterior distance", "kl_to_prior": "KL to the prior", "feature_kl": "feature KL",
    "logit_mutual": "logit mutual learning", "stage_1": "step, stage one", "stage_2": "step, stage two",
    "weights": "weights of a peer", "batch_size": "images in a batch",
}  # fmt: skip
HEAD = ("network", "width", "batch", "weights", "stage one, ms", "stage two, ms", "added", "distance, ms", "feature KL, ms",
        "state, MB", "stage one, MB", "stage two, MB")  # fmt: skip
CAPTION = (
    "Median time of a step (forward and backward of all peers, one thread or one GPU) and of each loss term alone, cut off "
    "from the networks: against the number of weights at the study's batch, and against the batch at the study's width. "
    "Dashed: a power law above a constant cost where there are five sizes or more, else a power law of the larger half."
)
PAPER_IMAGES = 1024
#: Fewest sizes for a power law above a constant cost.
LEAST_SIZES = 5
ON_PAPER = (
    f"On paper, what each term of a step would take in a pair of ViT-Huge/14 at {PAPER_IMAGES:,} images of 224 pixels (632 "
    "million weights, 257 tokens; operations and bytes counted from the formulas, nothing measured; the passes over the "
    "weights are bound by memory, the networks by arithmetic):"
)


@dataclass(frozen=True)
class Fitted:
    """The growth of a term's time with a size. x: sizes, ascending; y: seconds; growth: None for a single size."""

    term: str
    size: str
    x: np.ndarray
    y: np.ndarray
    growth: Growth | None

    @property
    def title(self) -> str:
        """The term in words."""
        return TITLES[self.term]


def along(lines: Sequence[Line], size: str) -> list[Line]:
    """Keep the lines in which ``size`` varies and nothing else: the largest such set with the first line's network."""
    fixed = "batch_size" if size == "weights" else "width"
    of_network = [line for line in lines if line["arch"] == lines[0]["arch"]]
    values = [line[fixed] for line in of_network]
    usual = max(dict.fromkeys(values), key=values.count)  # the study's own
    return sorted({line[size]: line for line in of_network if line[fixed] == usual}.values(), key=lambda line: line[size])


def fits(lines: Sequence[Line]) -> list[Fitted]:
    """Fit each of EXPECTED, and both stages' step, against weights and batch."""
    wanted = [*EXPECTED, *((stage, size) for stage in ("stage_1", "stage_2") for size in ("weights", "batch_size"))]
    return [_fitted(along(lines, size), term, size) for term, size in wanted]


def _fitted(lines: list[Line], term: str, size: str) -> Fitted:
    lines = [line for line in lines if term in line["seconds"]]  # a single network has no terms of pairs
    x = np.array([line[size] for line in lines], float)
    y = np.array([line["seconds"][term] for line in lines], float)
    if len(x) >= LEAST_SIZES:
        return Fitted(term, size, x, y, fit_power_with_overhead(x, y))
    return Fitted(term, size, x, y, fit_power(*upper(x, y)) if len(x) > 1 else None)


def panels(found: Sequence[Fitted]) -> Iterator[tuple[str, str, Callable[[Axes], None]]]:
    """Yield name, description and drawing of a panel for each size."""
    for size in ("weights", "batch_size"):
        shown = [fitted for fitted in found if fitted.size == size and len(fitted.x) > 1]
        if shown:
            yield f"growth-{size}", f"Seconds against {TITLES[size]}", partial(_draw, shown, TITLES[size])


def _draw(shown: list[Fitted], title: str, axes: Axes) -> None:
    for place, fitted in enumerate(shown):
        color, x = style(place).color, fitted.x
        axes.plot(x, 1000 * fitted.y, color=color, marker=style(place).marker, markersize=4, linestyle="none",
                  label=fitted.title)  # fmt: skip
        if fitted.growth is not None:
            x = x if len(x) >= LEAST_SIZES else upper(x, fitted.y)[0]
            axes.plot(x, [1000 * fitted.growth.at(size) for size in x], color=color, linestyle="--", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel=title, ylabel="milliseconds")
    axes.legend(fontsize=7.5, frameon=False)


def words(found: Sequence[Fitted]) -> str:
    """Say the fitted exponents in a sentence."""
    parts = []
    for fitted in found:
        growth, expected = fitted.growth, EXPECTED.get((fitted.term, fitted.size))
        if growth is not None and expected is not None:
            sure = f" [{growth.interval[0]:.2f}, {growth.interval[1]:.2f}]" if growth.interval else ""
            symbol = "P" if fitted.size == "weights" else "B"
            parts.append(f"{fitted.title} grows as {symbol}^{growth.exponent:.2f}{sure}, n = {growth.n} sizes ({expected})")
    return f"As measured, {'; '.join(parts)}." if parts else "Too few sizes for a growth law."


def rows(lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    """Yield the measured sizes, a row of the table each."""
    for line in lines:
        seconds, moved = line["seconds"], line["bytes"]
        yield (
            line["arch"], f"{line['width']:g}", f"{line['batch_size']}", f"{line['weights']:,}",
            f"{1000 * seconds['stage_1']:.1f}", f"{1000 * seconds['stage_2']:.1f}",
            f"{100 * (seconds['stage_2'] / seconds['stage_1'] - 1):+.0f} %", *(
                f"{1000 * seconds[name]:.2f}" if name in seconds else "-" for name in ("param_distance", "feature_kl")
            ), *(f"{moved[name] / 1e6:.1f}" for name in ("state", "stage_1", "stage_2")),
        )  # fmt: skip


def huge() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows of the table for ViT-Huge."""
    costs = on_paper(PAPER_IMAGES)
    share = costs / costs.sum()
    head = ("term", "operations", "share", "bytes moved", "share")
    return head, [
        (str(term), f"{cost.operations:.2g}", f"{part.operations:.2%}", f"{cost.bytes:.2g}", f"{part.bytes:.1%}")
        for (term, cost), (_, part) in zip(costs.iterrows(), share.iterrows(), strict=True)
    ]


def huge_words() -> str:
    """Say the shares in a sentence."""
    operations = on_paper(PAPER_IMAGES).operations
    share = operations / operations.sum()
    return (
        f"On paper, in a pair of ViT-Huge/14 at {PAPER_IMAGES:,} images, the posterior distance takes "
        f"{share['posterior distance']:.1e} and the feature KL {share['feature KL']:.1e} of a step's operations."
    )
