"""Which form of the diversity terms works best: what is measured, how it is transformed and normalised, through which fusion?

One form is changed at a time, with both terms on at the paper's weights; two unbounded forms also at a tenth of theirs. None
is tuned, so a form that fails here may do better at a weight of its own. For choosing defaults: scores are of development
images, taken from the training set; the official test set is not used.
"""

from analysis.build import build
from mldiv.cli.main import main
from mldiv.study import Study

BASELINE = "defaults"
PARAMETER = {
    "exp, mean": {"param_transform": "exp", "param_normalization": "mean"},
    "softplus, at switch": {"param_transform": "softplus"},
    "softplus, mean": {"param_transform": "softplus", "param_normalization": "mean"},
    "-log": {"param_transform": "negative_log"},
    "-log, alpha 0.1": {"param_transform": "negative_log", "alpha": 0.1},
    "-W2": {"param_transform": "negative_sqrt", "param_normalization": "sum"},
    "-W2, alpha 0.1": {"param_transform": "negative_sqrt", "param_normalization": "sum", "alpha": 0.1},
    "-W2², mean": {"param_transform": "negative", "param_normalization": "mean"},
    "symmetric KL, exp, at switch": {"param_distance": "symmetric_kl"},
}
FEATURE = {
    "softplus, at switch": {"feature_transform": "softplus"},
    "-log": {"feature_transform": "negative_log"},
    "-log, beta 0.1": {"feature_transform": "negative_log", "beta": 0.1},
    "-KL": {"feature_transform": "negative", "feature_normalization": "sum"},
    "-KL, sum": {"feature_transform": "negative", "feature_normalization": "sum", "feature_reduction": "sum"},
    "-KL, mean": {"feature_transform": "negative", "feature_normalization": "sum", "feature_reduction": "mean"},
    "exp, not normalised": {"feature_normalization": "sum"},
    "forward": {"feature_direction": "forward"},
    "reverse": {"feature_direction": "reverse"},
    "with diagonal": {"include_diagonal": True},
    "not centered": {"center_features": False},
    "fusion per peer": {"fusion": "per_peer"},
    "none": {"beta": 0.0},
    "fusion frozen": {"fusion": "frozen"},
    "fusion frozen, beta 0.2": {"fusion": "frozen", "beta": 0.2},
    "fusion frozen, beta 0.02": {"fusion": "frozen", "beta": 0.02},
    "fusion lr x 0.1": {"fusion_lr_scale": 0.1},
    "fusion lr x 0.01": {"fusion_lr_scale": 0.01},
    "fusion lr x 0.01, beta 0.2": {"fusion_lr_scale": 0.01, "beta": 0.2},
}

STUDY = Study(
    name="diversity_form",
    question="Which form of the two diversity terms makes a pair best?",
    scientific="changed choice",
    arms={BASELINE: {}, "no diversity": {"alpha": 0.0, "beta": 0.0}}
    | {f"parameter: {name}": changes for name, changes in PARAMETER.items()}
    | {f"feature: {name}": changes for name, changes in FEATURE.items()},
    searched=(),
    baseline=BASELINE,
    settings={"test_split": "development", "ood": "none"},
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY, build))
