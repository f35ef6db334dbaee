"""Which recipe trains a pair best: sigma's start, weights of the KL and of mutual learning, temperature, optimiser, schedule?

One setting is changed at a time, in plain mutual learning: the baseline is tuned for its own sake, before any diversity term.
For choosing defaults: scores are of development images, taken from the training set; the official test set
is not used. Learning rate, schedule, clipping and optimiser act on the second peer's pretraining too; AdamW needs another rate.
"""

from typing import TYPE_CHECKING

from mldiv.cli.main import main
from mldiv.study import Study

if TYPE_CHECKING:  # torch comes with it
    from mldiv.config import TrialConfig

BASELINE = "defaults"


#: What makes of a posterior that is all but a point one that matters.
POSTERIOR = {
    "means decay": {"mean_weight_decay": 5e-4},
    "prior of 0.32": {"prior_mode": "absolute", "prior_std": 0.32},
    "prior of 1": {"prior_mode": "absolute"},
    "prior of each layer's size": {"prior_mode": "relative"},
    "prior of each layer's size, KL 0.3": {"prior_mode": "relative", "kl_weight": 0.3},
    "prior of each layer's size, KL 1": {"prior_mode": "relative", "kl_weight": 1.0},
    "sigma of each weight's size": {"sigma_mode": "weight", "initial_sigma": 0.1},
    "sigma 0.1, rho x 100, means decay": {"initial_sigma": 0.1, "rho_lr_scale": 100.0, "mean_weight_decay": 5e-4},
    "two samples a step": {"train_samples": 2},
    "statistics of each sample": {"batchnorm_batches": 8},
    "no batch norm": {"arch": "resnet8_frn"},
    "deterministic": {"posterior": "deterministic"},
}
#: How the two peers start, and stage two.
START = {
    "warm-up": {"warmup_epochs": 1.0},
    "pretrained peer warms up": {"pretrained_warmup_epochs": 2.0},
    "stage two continues": {"stage_schedule": "continue"},
}


def arms(base: "TrialConfig") -> dict[str, dict]:
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
    adamw = {f"adamw, lr {lr:g}": {"optimizer": "adamw", "lr": lr} for lr in (1e-3, 3e-3)}
    known = [base, *(base.replace(**changes) for changes in found.values())]
    several = {name: changes for name, changes in (adamw | POSTERIOR | START).items() if base.replace(**changes) not in known}
    return {BASELINE: {}} | found | several


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
    raise SystemExit(main(STUDY))
