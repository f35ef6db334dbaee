"""Which similarity kernel in Eq. (14) makes a pair of Bayesian networks teach each other best?

Every kernel gets the same Optuna budget for its nuisance settings, its own parameter included where it has one; then its
choice is repeated on the same seeds as the baseline, plain mutual learning, which trains for the same epochs and is tuned with
the same budget.
"""

from typing import TYPE_CHECKING

from mldiv.cli.main import main
from mldiv.study import Study

if TYPE_CHECKING:  # torch comes with it
    from mldiv.config import TrialConfig

BASELINE = "mutual learning"


def arms(base: "TrialConfig") -> dict[str, dict]:
    from mldiv.method.kernels import KERNELS  # with torch: seconds, for which --help does not wait

    return {BASELINE: {"alpha": 0.0, "beta": 0.0}} | {kernel: {"kernel": kernel} for kernel in KERNELS}


STUDY = Study(
    name="kernel_sweep",
    question="Which similarity kernel in Eq. (14) makes a pair of Bayesian networks teach each other best?",
    scientific="kernel",
    arms=arms,
    searched=("lr", "kl_weight", "temperature", "alpha", "beta", "kernel_*", "switch_epoch"),
    baseline=BASELINE,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
