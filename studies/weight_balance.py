"""How should alpha and beta be balanced, for this architecture and this data?

An Optuna search over both on a log scale on which 0 can be reached, each point trained with the same few seeds; then a
Gaussian-process response surface of validation NLL and accuracy, with the posterior of where its optimum lies. Learning rate,
kl_weight and temperature stay fixed, so that the surface is one of alpha and beta alone. The
chosen weights, the paper's (1, 2) and plain mutual learning are repeated on fresh seeds.
"""

from typing import TYPE_CHECKING

from mldiv.cli.main import main
from mldiv.study import Study

if TYPE_CHECKING:  # torch comes with it
    from mldiv.sweep.search_space import Ranges

BASELINE = "mutual learning"


def ranges() -> "Ranges":
    from mldiv.sweep.search_space import OR_ZERO  # with torch: seconds, for which --help does not wait

    return OR_ZERO


def surface() -> dict[str, tuple[float, float]]:
    from mldiv.sweep.search_space import WEIGHTS  # as above

    return WEIGHTS


STUDY = Study(
    name="weight_balance",
    question="How should the weights of parameter diversity (alpha) and feature diversity (beta) be balanced?",
    scientific="weights",
    arms={BASELINE: {"alpha": 0.0, "beta": 0.0}, "alpha 1, beta 2": {"alpha": 1.0, "beta": 2.0}, "searched": {}},
    searched=("alpha", "beta"),
    ranges=ranges,
    baseline=BASELINE,
    samples={"demo": 16, "quick": 32, "paper": 48},
    search_seeds=2,
    surface=surface,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
