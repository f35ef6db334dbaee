"""Which recipe trains a pair best: sigma's start, weights of the KL and of mutual learning, temperature, optimiser, schedule?

One setting is changed at a time, in plain mutual learning: the baseline is tuned for its own sake, before any diversity term.
For choosing defaults: scores are of development images, taken from the training set; the official test set
is not used. Learning rate, schedule, clipping and optimiser act on the second peer's pretraining too; AdamW needs another rate.
"""

from analysis.build import build
from mldiv.cli.main import main
from mldiv.config import TrialConfig
from mldiv.study import Study

BASELINE = "defaults"


def arms(base: TrialConfig) -> dict[str, dict]:
    changed: dict[str, list] = {
        "initial_sigma": [0.01, 0.03, 0.1, 0.3],
        "kl_weight": [0.0, 0.01, 0.1, 1.0],
        "mutual_weight": [0.0, 0.1, 0.3, 1.0],
        "temperature": [1.0, 3.0, 6.0],
        "lr": [base.lr / 2, base.lr, base.lr * 2],
        "schedule": ["cosine", "step", "constant"],
        "rho_lr_scale": [1.0, 100.0],
        "clip_norm": [0.0, 5.0],
    }
    found = {
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}": {name: value}
        for name, values in changed.items()
        for value in values
        if value != getattr(base, name)
    }
    found |= {f"adamw, lr {lr:g}": {"optimizer": "adamw", "lr": lr} for lr in (1e-3, 3e-3)}
    return {BASELINE: {}} | found


STUDY = Study(
    name="recipe",
    question="Which start of sigma, weights of KL and mutual learning, temperature, optimiser and schedule train a pair best?",
    scientific="changed setting",
    arms=arms,
    searched=(),
    baseline=BASELINE,
    settings={"alpha": 0.0, "beta": 0.0, "test_split": "development", "ood": "none"},
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY, build))
