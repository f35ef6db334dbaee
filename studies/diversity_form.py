"""Which form of the diversity terms works best: what is measured, how strongly, how transformed, through which fusion?

One choice is changed at a time from a pair with both terms, whose weights are shares of the cross-entropy's gradient. None is
tuned, so a form that fails here may do better at a weight of its own. For choosing defaults: scores are of development images,
taken from the training set; the official test set is not used. The report draws whether each term acted.
"""

from mldiv.cli.main import main
from mldiv.study import Study

BASELINE = "no diversity"
BOTH = "both terms"
STRENGTH = {
    "parameter term alone": {"beta": 0.0},
    "feature term alone": {"alpha": 0.0},
    "alpha 0.05": {"alpha": 0.05},
    "alpha 0.5": {"alpha": 0.5},
    "beta 0.05": {"beta": 0.05},
    "beta 0.5": {"beta": 0.5},
    "both 0.1": {"alpha": 0.1, "beta": 0.1},
    "both 0.5": {"alpha": 0.5, "beta": 0.5},
    "alpha 1, beta 2": {"alpha": 1.0, "beta": 2.0},
}
PARAMETER = {
    "exp, at switch": {"param_transform": "exp"},
    "softplus, at switch": {"param_transform": "softplus"},
    "-W2": {"param_transform": "negative_sqrt", "param_normalization": "sum"},
    "-W2²": {"param_transform": "negative", "param_normalization": "mean"},
    "symmetric KL": {"param_distance": "symmetric_kl"},
    "by layer": {"param_weights": "layer"},
    "aligned by weights": {"param_alignment": "weights"},
    "aligned by activations": {"param_alignment": "activations"},
    "aligned by weights, by layer": {"param_alignment": "weights", "param_weights": "layer"},
}
FEATURE = {
    "exp, at switch": {"feature_transform": "exp"},
    "softplus, at switch": {"feature_transform": "softplus"},
    "-KL": {"feature_transform": "negative"},
    "forward": {"feature_direction": "forward"},
    "reverse": {"feature_direction": "reverse"},
    "with diagonal": {"include_diagonal": True},
    "not centered": {"center_features": False},
}
FUSION = {
    "learns the term": {"fusion_training": "diversity"},
    "learns the opposite": {"fusion_training": "adversarial"},
    "learns the task before stage two": {"fusion_training": "switch"},
    "frozen": {"fusion": "frozen"},
    "per peer": {"fusion": "per_peer"},
    "last block alone": {"fusion_blocks": "3"},
    "2 x 2 tokens a block": {"fusion_grid": 2},
}
SCHEDULE = {
    "stage two continues": {"stage_schedule": "continue"},
    "stage two continues, no diversity": {"stage_schedule": "continue", "alpha": 0.0, "beta": 0.0},
    "stage two at half the rate": {"stage_two_lr_scale": 0.5},
    "stage two at half the rate, no diversity": {"stage_two_lr_scale": 0.5, "alpha": 0.0, "beta": 0.0},
    "stage two warms up, no diversity": {"stage_two_warmup_epochs": 1.0, "alpha": 0.0, "beta": 0.0},
}
KINDS = {"": STRENGTH | SCHEDULE, "parameter: ": PARAMETER, "feature: ": FEATURE, "fusion: ": FUSION}

STUDY = Study(
    name="diversity_form",
    question="Which form of the two diversity terms makes a pair best?",
    scientific="changed choice",
    arms={BASELINE: {"alpha": 0.0, "beta": 0.0}, BOTH: {}}
    | {f"{kind}{name}": changes for kind, several in KINDS.items() for name, changes in several.items()},
    searched=(),
    baseline=BASELINE,
    settings={
        "test_split": "development",
        "ood": "none",
        "gradient_points": 1.0,
    },
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
