"""Do float32 and bf16 conclude the same? Plain mutual learning and the diversity terms, trained in both precisions:

    python benchmarks/precision.py [--data digits] [--data-root DIR] [--seeds 3] [--out benchmarks/precision.md]

The demo's size and settings; the same batches and weight noise in both. A table of the final scores and of the difference that
the diversity terms make, and a picture of the loss curves (docs/precision.png).
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import matplotlib
import torch
from timing import Load, caption, table

from mldiv.presets import configure
from mldiv.records import checked_files
from mldiv.records.contents import TrialRecord
from mldiv.storage.cache import Store
from mldiv.training.fit import fit

matplotlib.use("Agg")
from matplotlib import pyplot

ARMS = {"mutual learning": {"alpha": 0.0, "beta": 0.0}, "both diversity terms": {}}
PRECISIONS = ("float32", "bf16")
COLORS = {"mutual learning": "#555555", "both diversity terms": "#0072B2"}
STYLES = {"float32": "-", "bf16": "--"}

Run = tuple[TrialRecord, list[dict]]


def train(flags: argparse.Namespace, folder: Path) -> dict[tuple[str, str], list[Run]]:
    """By precision and arm, each seed's record and lines."""
    base = configure("demo", {"data": flags.data, "data_root": flags.data_root, "arch": flags.arch})
    found: dict[tuple[str, str], list[Run]] = {}
    for precision in PRECISIONS:
        for arm, changes in ARMS.items():
            for seed in range(1, flags.seeds + 1):
                config = base.replace(precision=precision, channels_last=True, seed=seed, **changes)
                record = fit(config, folder / config.id, store=Store(folder / "store"))
                lines = list(checked_files.read_lines(folder / config.id / "metrics.jsonl"))
                found.setdefault((precision, arm), []).append((record, lines))
                print(f"{precision}, {arm}, seed {seed}: NLL {record.test['pair']['nll']:.4f}", flush=True)
    return found


def rows(found: dict[tuple[str, str], list[Run]]) -> list[list[str]]:
    nll = {key: [record.test["pair"]["nll"] for record, _ in runs] for key, runs in found.items()}
    accuracy = {key: [100 * record.test["pair"]["accuracy"] for record, _ in runs] for key, runs in found.items()}
    plain, diverse = ARMS
    made = []
    for precision in PRECISIONS:
        pairs = zip(nll[precision, diverse], nll[precision, plain], strict=True)
        differences = [with_terms - without for with_terms, without in pairs]
        n = len(differences)
        error = f" ± {statistics.stdev(differences) / n**0.5:.4f}" if n > 1 else ""
        made.append(
            [
                precision,
                *(f"{statistics.mean(nll[precision, arm]):.4f}" for arm in ARMS),
                f"{statistics.mean(differences):+.4f}{error}",
                *(f"{statistics.mean(accuracy[precision, arm]):.2f}" for arm in ARMS),
            ]
        )
    return made


def draw(found: dict[tuple[str, str], list[Run]], switch: int, path: Path) -> None:
    """Training loss (cross-entropy of peer 1) and validation NLL of the pair over epochs, one line per seed."""
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    panels = [
        ("training cross-entropy, peer 1", lambda line: line["train"]["nll_1"]),
        ("validation NLL, pair", lambda line: line["validation"]["pair"]["nll"]),
    ]
    for axis, (title, value) in zip(axes, panels, strict=True):
        for (precision, arm), runs in found.items():
            for number, (_, lines) in enumerate(runs):
                label = f"{arm}, {precision}" if number == 0 else None
                epochs, values = [line["epoch"] + 1 for line in lines], [value(line) for line in lines]
                axis.plot(epochs, values, STYLES[precision], color=COLORS[arm], linewidth=1, label=label)
        axis.axvline(switch + 0.5, color="#999999", linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel="epoch", yscale="log")
        axis.title.set_fontsize(10)
        axis.set_yticks([tick for tick in (0.1, 0.2, 0.5, 1, 2, 5) if axis.get_ylim()[0] <= tick <= axis.get_ylim()[1]])
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    axes[1].legend(fontsize=7, frameon=False)
    axes[0].annotate("switch", (switch + 0.6, axes[0].get_ylim()[1]), va="top", fontsize=7, color="#777777")
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--arch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent.parent / "docs" / "precision.png")
    flags = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    load = Load()
    with tempfile.TemporaryDirectory() as folder:
        found = train(flags, Path(folder))
    draw(found, configure("demo", {}).switch_epoch, flags.picture)
    head = ["precision", *(f"NLL, {arm}" for arm in ARMS), "difference in NLL", *(f"accuracy %, {arm}" for arm in ARMS)]
    what = (
        f"Two precisions on {flags.data}, the demo's size, channels_last; test scores of the pair, "
        f"means of {flags.seeds} seeds, differences paired by seed, ± standard error."
    )
    flags.out.write_text(f"{caption(what, threads, [], load)}\n\n{table(head, rows(found))}\n")
    print(flags.out.read_text())


if __name__ == "__main__":
    main()
