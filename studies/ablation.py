"""What does each part of the method give: mutual learning, parameter diversity, feature diversity, and both together?

The paper's ablation, every arm trained for the same epochs and tuned with the same budget. Four arms are a 2 x 2 factorial with
seeds as blocks: the main effect of each diversity term, and whether they help each other or do the same.

Is it the method, or is it two networks? Beside a single Bayesian network and two that never meet stand their deterministic
twins, and what else the arithmetic of a pair buys: one wider network, one that a finished teacher taught, at twice the cost
four peers, and at four times an ensemble, by which every arm's worth in independent networks is told. Trials of fewer than 20
epochs (preset demo) have of these only the two deterministic pairs.
"""

from typing import TYPE_CHECKING

from mldiv.cli.main import main
from mldiv.study import Study

if TYPE_CHECKING:  # torch comes with it
    from mldiv.config import TrialConfig

ALONE = {"mutual_weight": 0.0, "alpha": 0.0, "beta": 0.0}
PLAIN = {"alpha": 0.0, "beta": 0.0}
BASELINE, PARAMETER, FEATURE, BOTH = "mutual learning", "with parameter diversity", "with feature diversity", "with both"
APART, TWINS, TAUGHT_TWINS = "two single BNNs", "two deterministic networks", "deterministic mutual learning"
FEW_EPOCHS = 20

#: What no difference to the baseline says; called as in the study of budgets where that has the same.
CONTRASTS = {
    "main effect of parameter diversity": {PARAMETER: 0.5, BOTH: 0.5, BASELINE: -0.5, FEATURE: -0.5},
    "main effect of feature diversity": {FEATURE: 0.5, BOTH: 0.5, BASELINE: -0.5, PARAMETER: -0.5},
    "interaction (both, less the sum of each)": {BOTH: 1.0, BASELINE: 1.0, PARAMETER: -1.0, FEATURE: -1.0},
    "feature diversity, not parameter diversity": {FEATURE: 1.0, PARAMETER: -1.0},
    "mutual learning of deterministic networks": {TAUGHT_TWINS: 1.0, TWINS: -1.0},
    "a posterior": {APART: 1.0, TWINS: -1.0},
}

#: By which the tables tell how many independent networks every arm is worth.
ENSEMBLE = "eight deterministic networks"

#: The width at which a network of convolutions takes twice the arithmetic, which grows with its square.
TWICE = 2**0.5


def arms(base: "TrialConfig") -> dict[str, dict]:
    bayesian = {
        "single BNN": ALONE,
        APART: ALONE,
        BASELINE: PLAIN,
        PARAMETER: {"beta": 0.0},
        FEATURE: {"alpha": 0.0},
        BOTH: {},
    }
    twins = {TWINS: ALONE, TAUGHT_TWINS: PLAIN}
    if base.epochs >= FEW_EPOCHS:
        if base.arch != "resnet18":  # it has one width
            twins["one deterministic network, twice the arithmetic"] = ALONE | {"peers": 1, "width": base.width * TWICE}
        twins[ENSEMBLE] = ALONE | {"peers": 8}
        twins["one deterministic network, taught by a finished one"] = PLAIN | {"peers": 1, "teacher": "pretrained"}
    twins = {name: changes | {"posterior": "deterministic"} for name, changes in twins.items() if base.bayesian}
    four = {"four peers, with both": {"peers": 4}} if base.epochs >= FEW_EPOCHS and base.peers != 4 else {}
    return bayesian | twins | four


def contrasts(names: list[str]) -> dict[str, dict[str, float]]:
    """Return the contrasts of which all arms are there."""
    return {name: weights for name, weights in CONTRASTS.items() if set(weights) <= set(names)}


STUDY = Study(
    name="ablation",
    question="What do parameter diversity and feature diversity give a pair in mutual learning, alone and together?",
    scientific="method",
    arms=arms,
    searched=("lr", "kl_weight", "temperature", "alpha", "beta"),
    baseline=BASELINE,
    members={"single BNN": "peers"},
    contrasts=contrasts,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
