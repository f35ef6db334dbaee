"""How long `python -m analysis` takes for a large study, and how much memory:

    python benchmarks/analysis.py [--out benchmarks/analysis.md]

10,000 trials: 20 arms, each with 100 searched trials and 400 repeats of 12 epochs and 200 test images, made up.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import caption, table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers.synthetic_records import make, write

from mldiv.records import study_files
from mldiv.records.contents import Assignment

ARMS, SEEDS, SEARCHED = 20, 400, 100


def write_study(folder: Path) -> int:
    """Made-up records; the number of trials."""
    generator = np.random.default_rng(0)
    arms = {f"arm {place}": list(0.5 + 0.02 * generator.standard_normal(SEEDS)) for place in range(ARMS)}
    make(folder, arms)
    items = study_files.read_assignments(folder)
    for place, arm in enumerate(arms):
        for number in range(SEARCHED):
            trial = f"s{place:02d}{number:03d}"
            write(folder, trial, 0.5, 0.9, 0, 0, alpha=float(generator.uniform()))
            items.append(Assignment(arm, "search", 0, trial))
    study_files.write_assignments(folder, items)
    return len(items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        trials = write_study(Path(name))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "analysis", name], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    rows = [[f"{trials:,}", f"{ARMS} arms, {SEEDS} seeds, {SEARCHED} searched", f"{seconds:.0f} s", f"{memory:.2f} GiB"]]
    text = table(["trials", "design", "wall time", "peak memory"], rows)
    what = "All tables, figures and the report of one made-up study, 1 run, its files just written."
    words = caption(what, 1, ["numpy", "matplotlib"])
    flags.out.write_text(f"# Analysis of a large study\n\n{words}\n\n{text}\n")
    print(flags.out.read_text())


if __name__ == "__main__":
    main()
