"""Draw the pair of benchmarks/yardstick_pair.py beside public logs of mutual learning, at the same share of each training.

One cosine over each training's length gives both the same rate at the same share of it. The logs: github.com/yukiharada1228/
deep-mutual-learning, commit 2bdfc1e, examples/CIFAR100/runs (MIT licence), whose accuracies on training images, as they came
by, and on test images after every epoch are kept in docs/results/yardsticks/public_logs.csv: ResNet-32 and WRN-28-2 for 200
epochs each alone, the two in mutual learning, and two of each in mutual learning; one run each.

    python -m benchmarks.yardstick_curves       writes docs/results/yardsticks/curves.png and prints the page's table
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.compact.copy import load
from analysis.figures import curves, svg
from analysis.figures.palette import COLORS
from analysis.records.load import of_peers
from benchmarks.timing import table
from benchmarks.yardstick_pair import APART, MUTUAL

PLACE = Path(__file__).resolve().parents[1] / "docs" / "results" / "yardsticks"
#: Ends of the parts of a training over which accuracies are averaged, as shares of its epochs.
PARTS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
#: Of the picture, in points.
SIZE = (265.0, 620.0)
BLUE, RED, GREEN, GREY = COLORS[1], COLORS[2], COLORS[3], COLORS[0]

#: By network, the accuracy in percent after every epoch, alone and in mutual learning, [2, epochs].
Runs = dict[str, np.ndarray]


def public(split: str = "test") -> Runs:
    """Accuracies of the public runs; split: test, or train."""
    logs = pd.read_csv(PLACE / "public_logs.csv")
    columns = {"ResNet-32": "resnet32", "WRN-28-2": "wrn28_2"}
    return {name: logs[[f"alone_{column}_{split}", f"pair_{column}_{split}"]].to_numpy().T for name, column in columns.items()}


def ours() -> Runs:
    """Validation accuracies here: mean of the two peers, and of each seed the peer that is the better one at the end."""
    found = curves.read(load(PLACE / "pair"))
    peers = np.array([[100 * np.stack(of_peers(curve.values, "accuracy")) for curve in found[arm]] for arm in (APART, MUTUAL)])
    better = np.take_along_axis(peers, peers[..., -1:].argmax(2, keepdims=True), 2)
    return {"mean of the two": peers.mean((1, 2)), "the better of the two": better.mean((1, 2))}


def parts(values: np.ndarray) -> list[float]:
    """Average over the parts of a training; an epoch belongs to the part in which it ends."""
    done = np.arange(1, len(values) + 1) / len(values)
    return [float(values[(done > low + 1e-9) & (done <= high + 1e-9)].mean()) for low, high in pairwise(PARTS)]


def rows() -> tuple[list[str], list[list[str]]]:
    """Write the page's table: by part of the training, accuracy alone and what mutual learning adds to it, in points."""
    titles, columns = ["training done"], [[f"{100 * low:.0f} to {100 * high:.0f} %" for low, high in pairwise(PARTS)]]
    for whose, runs in (("public", public()), ("here", ours())):
        for name, (alone, mutual) in runs.items():
            titles += [f"{whose}, {name}, alone", "mutual learning adds"]
            columns += [[f"{value:.1f} %" for value in parts(alone)], [f"{value:+.1f}" for value in parts(mutual - alone)]]
    return titles, [list(row) for row in zip(*columns, strict=True)]


def draw() -> None:
    logs, own = public(), ours()
    with svg.style():
        figure = svg.canvas(*SIZE, dpi=130, facecolor="white")
        left, right = figure.subplots(1, 2)
        _accuracies(left, *logs["ResNet-32"], BLUE, "public ResNet-32, 200 epochs, test")
        _accuracies(left, *own["mean of the two"], RED, "two ResNet-32 here, 30 epochs, validation")
        left.plot([], [], color=GREY, linestyle="--", label="dashed: alone; solid: in mutual learning")
        left.set_title("Accuracy (%)")
        _gain(right, *logs["ResNet-32"], BLUE, "public ResNet-32")
        _gain(right, *logs["WRN-28-2"], GREEN, "public WRN-28-2")
        _gain(right, *own["mean of the two"], RED, "here, mean of the two")
        _gain(right, *own["the better of the two"], RED, "here, the better of the two", ":")
        right.axhline(0, color=svg.INK, linewidth=0.8)
        right.set_title("What mutual learning adds (points)")
        for axes in (left, right):
            axes.set_xlabel("share of the training done (%)")
            axes.legend(fontsize=8, frameon=False)
        svg.files(figure, PLACE, "curves")
    (PLACE / "curves.pdf").unlink()


def _accuracies(axes: Axes, alone: np.ndarray, mutual: np.ndarray, color: str, name: str) -> None:
    done = 100 * np.arange(1, len(alone) + 1) / len(alone)
    axes.plot(done, alone, color=color, linestyle="--", linewidth=1)
    axes.plot(done, mutual, color=color, linewidth=1, label=name)


def _gain(axes: Axes, alone: np.ndarray, mutual: np.ndarray, color: str, name: str, line: str = "-") -> None:
    steps = parts(mutual - alone)
    axes.stairs(steps, [100 * share for share in PARTS], baseline=None, color=color, linestyle=line, linewidth=1.4, label=name)


if __name__ == "__main__":
    draw()
    print(table(*rows()))
