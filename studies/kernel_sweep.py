"""Which similarity kernel in Eq. (14) makes a pair of Bayesian networks teach each other best?

Every kernel gets the same Optuna budget for its nuisance settings, its own parameter included where it has one; then its
choice is repeated on the same seeds as the baseline, plain mutual learning, which trains for the same epochs and is tuned with
the same budget. What a kernel adds to the baseline is both terms together (with `--set alpha=0` the feature term alone); which
kernel is better the contrasts tell, each kernel in place of the paper's.
"""

from typing import TYPE_CHECKING

from mldiv.cli.main import main
from mldiv.study import Study

if TYPE_CHECKING:  # torch comes with it
    from mldiv.config import TrialConfig

BASELINE = "mutual learning"
PAPERS = "cosine"


def arms(base: "TrialConfig") -> dict[str, dict]:
    from mldiv.method.kernels import KERNELS  # with torch: seconds, for which --help does not wait

    return {BASELINE: {"alpha": 0.0, "beta": 0.0}} | {kernel: {"kernel": kernel} for kernel in KERNELS}


def contrasts(names: list[str]) -> dict[str, dict[str, float]]:
    """Return each kernel in place of the paper's, where that is among the arms."""
    kernels = [name for name in names if name not in (BASELINE, PAPERS) and PAPERS in names]
    return {f"{kernel} instead of {PAPERS}": {kernel: 1.0, PAPERS: -1.0} for kernel in kernels}


STUDY = Study(
    name="kernel_sweep",
    question="Which similarity kernel in Eq. (14) makes a pair of Bayesian networks teach each other best?",
    scientific="kernel",
    arms=arms,
    searched=("lr", "kl_weight", "temperature", "alpha", "beta", "kernel_*", "switch_epoch"),
    baseline=BASELINE,
    contrasts=contrasts,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
