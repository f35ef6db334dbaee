"""Which similarity kernel in Eq. (14) makes a pair of Bayesian networks teach each other best?

Every kernel gets the same Optuna budget for its nuisance settings, its own parameter included where it has one; then its
choice is repeated on the same seeds as the baseline, plain mutual learning, which trains for the same epochs and is tuned with
the same budget.
"""

from analysis.build import build, undecided
from mldiv.cli.main import main
from mldiv.method.kernels import KERNELS
from mldiv.study import Study
from mldiv.sweep.search_space import KERNELS_OWN

BASELINE = "mutual learning"

STUDY = Study(
    name="kernel_sweep",
    question="Which similarity kernel in Eq. (14) makes a pair of Bayesian networks teach each other best?",
    scientific="kernel",
    arms=lambda config: {BASELINE: {"alpha": 0.0, "beta": 0.0}} | {kernel: {"kernel": kernel} for kernel in KERNELS},
    searched=("lr", "kl_weight", "temperature", "alpha", "beta", KERNELS_OWN, "switch_epoch"),
    baseline=BASELINE,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY, build, undecided=undecided))
