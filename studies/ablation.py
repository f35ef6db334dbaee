"""What does each part of the method give: mutual learning, parameter diversity, feature diversity, and both together?

The paper's ablation, every arm trained for the same epochs and tuned with the same budget. The last four arms are a 2 x 2
factorial with seeds as blocks: the main effect of each diversity term, and whether they help each other or do the same.
"""

from analysis.build import build
from mldiv.cli.main import main
from mldiv.study import Study

ALONE = {"mutual_weight": 0.0, "alpha": 0.0, "beta": 0.0}
BASELINE, PARAMETER, FEATURE, BOTH = "mutual learning", "with parameter diversity", "with feature diversity", "with both"

STUDY = Study(
    name="ablation",
    question="What do parameter diversity and feature diversity give a pair in mutual learning, alone and together?",
    scientific="method",
    arms={
        "single BNN": ALONE,
        "two single BNNs": ALONE,
        BASELINE: {"alpha": 0.0, "beta": 0.0},
        PARAMETER: {"beta": 0.0},
        FEATURE: {"alpha": 0.0},
        BOTH: {},
    },
    searched=("lr", "kl_weight", "temperature", "alpha", "beta"),
    baseline=BASELINE,
    members={"single BNN": "peers"},
    contrasts={
        "main effect of parameter diversity": {PARAMETER: 0.5, BOTH: 0.5, BASELINE: -0.5, FEATURE: -0.5},
        "main effect of feature diversity": {FEATURE: 0.5, BOTH: 0.5, BASELINE: -0.5, PARAMETER: -0.5},
        "interaction (both, less the sum of each)": {BOTH: 1.0, BASELINE: 1.0, PARAMETER: -1.0, FEATURE: -1.0},
    },
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY, build))
