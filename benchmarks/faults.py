"""Nothing is lost when processes and machines are:

    python benchmarks/faults.py [--seeds 20] [--kills 10] [--out benchmarks/faults.md]

For each seed, a sweep of six trials on Ray nodes of one processor each, while a worker, a trial's actor, a node without warning
and a node after a spot machine's warning are taken at random moments; then a search's command whose driver is killed (kill -9)
at random moments. Every trial must be there once, with numbers and weights equal to the last bit to those of the same sweep
undisturbed; anything else is printed and not counted.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from timing import caption, table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers import chaos

NODES = 2
DEATHS = 4


def sweeps(seeds: int, folder: Path) -> list[str]:
    """A table row of all seeds together."""
    chaos.undisturbed(chaos.CONFIG, folder / "undisturbed")
    taken: Counter[str] = Counter()
    restarts, equal, began = 0, 0, time.monotonic()
    with chaos.nodes(NODES) as cluster:
        for seed in range(1, seeds + 1):
            taken.update(chaos.sweep(cluster, chaos.CONFIG, folder / str(seed), seed, DEATHS))
            try:
                restarts += chaos.assert_equal(folder / str(seed), folder / "undisturbed")
                equal += 1
            except AssertionError as difference:
                print(f"seed {seed}: {difference}", flush=True)
            print(
                f"seed {seed}: {dict(taken)} so far, {restarts} restarts recorded, {time.monotonic() - began:.0f} s", flush=True
            )
    what = ", ".join(f"{count} {kind}s" for kind, count in sorted(taken.items()))
    return [f"sweep on {NODES} nodes", str(seeds), what, f"{equal} of {seeds} sweeps", f"{restarts}"]


def driver(kills: int, folder: Path) -> list[str]:
    """A table row."""
    assert chaos.start(folder / "quiet").wait() == 0
    killed = chaos.kill_driver(folder / "killed", seed=1, times=kills)
    restarts = chaos.assert_equal(folder / "killed", folder / "quiet")
    assert chaos.history(folder / "killed") == chaos.history(folder / "quiet"), "Optuna's history differs"
    trials = len(list((folder / "killed" / "trials").iterdir()))
    return ["search's command", "1", f"{killed} drivers (kill -9)", f"1 of 1, {trials} trials", f"{restarts}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [driver(flags.kills, Path(folder))] if flags.kills else []
        rows += [sweeps(flags.seeds, Path(folder))] if flags.seeds else []
    text = table(("what runs", "seeds", "taken away", "as if undisturbed", "restarts in the records"), rows)
    said = caption(
        "Sweeps whose trials, each there once, have the numbers and weights of the same sweep undisturbed, to the last bit; "
        "moments and kinds drawn by seed; Optuna's history of the killed command equals the quiet one's. A trial of the sweeps "
        "may lose its group ten times between two epochs, elsewhere three times: deaths come faster here than groups start.",
        1, ("ray", "optuna"),
    )  # fmt: skip
    flags.out.write_text(f"# Deaths\n\n{said}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
