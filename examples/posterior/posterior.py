"""Do Bayesian networks lead deterministic ones by their posterior, or by how their weights decay? Of pairs that never meet.

A prior pulls the means to zero, layer by layer, as weight decay does. So a Bayesian network can be better than a deterministic
one whose weight decay nobody searched. Here both are searched with the same budget, and one arm has the prior without noise.
"""

from mldiv.settings.setting import Log
from mldiv.study import Study

ALONE = {"alpha": 0.0, "beta": 0.0, "mutual_weight": 0.0}
SURE = ALONE | {"posterior": "deterministic"}
#: No Bayesian arm is searched over the decay of deterministic networks; searched ones are judged by eight weight samples.
BAYESIAN = ALONE | {"weight_decay": 5e-4}
PRIOR, DECAY, SEARCHED = {"kl_weight": 0.3}, {"weight_decay": 5e-4}, {"validation_samples": 8}
#: Sigma is a millionth of a layer's root mean square, and stays there.
NO_NOISE = {"initial_sigma": 1e-6, "rho_lr_scale": 1e-6}

STUDY = Study(
    name="posterior",
    question="Do Bayesian networks that never meet lead deterministic ones by their posterior, or by how their weights decay?",
    scientific="posterior and decay",
    arms={
        "deterministic": SURE | DECAY,
        "Bayesian": BAYESIAN | PRIOR,
        "Bayesian, no noise": BAYESIAN | PRIOR | NO_NOISE,
        "deterministic, decay searched": SURE,
        "Bayesian, prior searched": BAYESIAN | SEARCHED,
    },
    searched=("weight_decay", "kl_weight"),
    ranges={"weight_decay": Log(1e-4, 1e-2), "kl_weight": Log(0.03, 3.0)},
    samples={"small": 6},
    search_seeds=2,
    baseline="deterministic",
    contrasts={
        "a posterior, both searched": {"Bayesian, prior searched": 1.0, "deterministic, decay searched": -1.0},
        "the noise": {"Bayesian": 1.0, "Bayesian, no noise": -1.0},
        "a searched decay, not a prior without noise": {"deterministic, decay searched": 1.0, "Bayesian, no noise": -1.0},
    },
)
