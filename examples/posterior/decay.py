"""Is a prior's pull a stronger weight decay, one that spares batch norm, or one that differs by layer?

Pairs that never meet, without noise: with a prior, which pulls each layer by its own size and neither batch norm nor biases;
with the weight decay of all parameters that a search chose; with one of the weights alone, as strong as the prior's pull is in
the middle: its weight, 0.3, over 5,625 images and each layer's mean square, 0.002 to 0.008 in a ResNet-8 of half the width.
"""

from mldiv.study import Study

ALONE = {"alpha": 0.0, "beta": 0.0, "mutual_weight": 0.0}
SURE = ALONE | {"posterior": "deterministic"}
#: Sigma is a millionth of a layer's root mean square, and stays there; their pretrained peer has the default decay.
NO_NOISE = ALONE | {"weight_decay": 5e-4, "initial_sigma": 1e-6, "rho_lr_scale": 1e-6}

STUDY = Study(
    name="decay",
    question="What of a prior's pull do deterministic networks lack: its strength, that it spares batch norm, or that it "
    "differs by layer?",
    scientific="how weights decay",
    arms={
        "prior": NO_NOISE | {"kl_weight": 0.3},
        "default decay": SURE | {"weight_decay": 5e-4},
        "decay of all": SURE | {"weight_decay": 0.0026938830192854116},
        "decay of weights": NO_NOISE | {"kl_weight": 0.0, "mean_weight_decay": 0.004},
    },
    searched=(),
    baseline="prior",
    contrasts={
        "decay of weights, not the default": {"decay of weights": 1.0, "default decay": -1.0},
        "sparing batch norm": {"decay of weights": 1.0, "decay of all": -1.0},
    },
)
