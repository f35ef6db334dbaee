"""Does the parameter term help since the peers grow apart, or as any push on the weights would? Studies with its placebos.

They are no distances (`mldiv check-plugin` says so): each pushes as hard as the distance of the peers, `alpha` being a share of
the cross-entropy's gradient, but towards nothing that the other peer knows.
"""

from mldiv.method.losses import PARAM_DISTANCES, Distance, squared_w2
from mldiv.settings.setting import Log
from mldiv.study import STUDIES, Study

PLACES = 101  # coprime to kernels' 9 weights: mostly the same layer's weight of another channel and position


def shuffled(mean, sigma, peer_mean, peer_sigma):
    """W2² to the peer's posterior moved on by some places: as large, and of no corresponding weight."""
    return squared_w2(mean, sigma, peer_mean.roll(PLACES), peer_sigma.roll(PLACES))


def from_zero(mean, sigma, peer_mean, peer_sigma):
    """The squared length of the own means: weight decay the other way round."""
    return mean.square().sum()


#: Weights of the classifier, a peer's last: of 32 features and a bias for each of 100 classes.
CLASSIFIER = 33 * 100


def of_classifier(mean, sigma, peer_mean, peer_sigma):
    """W2² of the classifiers alone."""
    return squared_w2(*(part[-CLASSIFIER:] for part in (mean, sigma, peer_mean, peer_sigma)))


def of_others(mean, sigma, peer_mean, peer_sigma):
    """W2² of all weights but the classifier's."""
    return squared_w2(*(part[:-CLASSIFIER] for part in (mean, sigma, peer_mean, peer_sigma)))


def classifier_from_zero(mean, sigma, peer_mean, peer_sigma):
    """The squared length of the classifier's means."""
    return mean[-CLASSIFIER:].square().sum()


def others_from_zero(mean, sigma, peer_mean, peer_sigma):
    """The squared length of all other means."""
    return mean[:-CLASSIFIER].square().sum()


#: What the prior takes from a mean in a step: 0.3 of the KL to N(0, 0.1²), per each of 10,000 images.
PULL = 0.3 / 10_000 / 0.1**2
#: As strong as a share of 0.2 was in `elsewhere_prior`, by the mean over its seeds: six times the pull at the switch.
STRENGTH = 1.6


def undo(mean, sigma, peer_mean, peer_sigma):
    """What the prior adds to the loss by the means, no more: subtracted, it ends the pull and leaves the noise."""
    return PULL / 2 * mean.square().sum()


def undo_and_push(mean, sigma, peer_mean, peer_sigma):
    """The same, and the logarithm by which `from_zero` pushes."""
    return undo(mean, sigma, peer_mean, peer_sigma) + STRENGTH * mean.square().sum().log()


PARAM_DISTANCES["undo"] = Distance(undo, symmetric=False)
PARAM_DISTANCES["undo_and_push"] = Distance(undo_and_push, symmetric=False)
PARAM_DISTANCES["shuffled"] = Distance(shuffled, symmetric=False)
PARAM_DISTANCES["from_zero"] = Distance(from_zero, symmetric=False)
PARAM_DISTANCES["w2_classifier"] = Distance(of_classifier, symmetric=True)
PARAM_DISTANCES["w2_others"] = Distance(of_others, symmetric=True)
PARAM_DISTANCES["from_zero_classifier"] = Distance(classifier_from_zero, symmetric=False)
PARAM_DISTANCES["from_zero_others"] = Distance(others_from_zero, symmetric=False)

BASELINE, APART, ZERO, FEATURES = "mutual learning", "apart from the peer", "away from zero", "apart by features"
HALF, BOTH = "half the rate", "both terms"
STUDIES["placebo"] = Study(
    name="placebo",
    question="Does the parameter term help since the peers grow apart, or as any push on their weights would?",
    scientific="push",
    arms={
        BASELINE: {"alpha": 0.0, "beta": 0.0},
        APART: {"beta": 0.0},
        "apart by directions": {"beta": 0.0, "param_weights": "layer"},
        "apart from a shuffled peer": {"beta": 0.0, "param_distance": "shuffled"},
        ZERO: {"beta": 0.0, "param_distance": "from_zero"},
        "a third of the prior's weight": {"alpha": 0.0, "beta": 0.0, "kl_weight": 0.1},
        HALF: {"alpha": 0.0, "beta": 0.0, "stage_two_lr_scale": 0.5},
        "a quarter of the rate": {"alpha": 0.0, "beta": 0.0, "stage_two_lr_scale": 0.25},
        "apart at half the rate": {"beta": 0.0, "stage_two_lr_scale": 0.5},
        "away from zero at half the rate": {"beta": 0.0, "param_distance": "from_zero", "stage_two_lr_scale": 0.5},
        FEATURES: {"alpha": 0.0},
        BOTH: {},
        "both terms at half the rate": {"stage_two_lr_scale": 0.5},
    },
    searched=(),
    baseline=BASELINE,
    contrasts={
        "the peer, not a weaker prior": {APART: 1.0, "a third of the prior's weight": -1.0},
        "the peer, not a shuffled one": {APART: 1.0, "apart from a shuffled peer": -1.0},
        "the peer, not zero": {APART: 1.0, ZERO: -1.0},
        "the peer, not a lower rate": {APART: 1.0, HALF: -1.0},
        "the peer, at half the rate": {"apart at half the rate": 1.0, HALF: -1.0},
        "zero, at half the rate": {"away from zero at half the rate": 1.0, HALF: -1.0},
        "both terms, at half the rate": {"both terms at half the rate": 1.0, HALF: -1.0},
        "the features, not zero": {FEATURES: 1.0, ZERO: -1.0},
        "the features, not a lower rate": {FEATURES: 1.0, HALF: -1.0},
    },
)


SHARE = Log(0.01, 0.32)

STUDIES["placebo_tuned"] = Study(
    name="placebo_tuned",
    question="Does a push help a pair whose rate in stage two, and the push's share, are searched with the same budget?",
    scientific="push",
    arms={
        BASELINE: {"alpha": 0.0, "beta": 0.0},
        APART: {"beta": 0.0},
        ZERO: {"beta": 0.0, "param_distance": "from_zero"},
        BOTH: {},
    },
    searched=("stage_two_lr_scale", "alpha", "beta"),
    ranges={"stage_two_lr_scale": Log(0.125, 2.0), "alpha": SHARE, "beta": SHARE},
    search_seeds=2,
    baseline=BASELINE,
    contrasts={
        "the peer, not zero": {APART: 1.0, ZERO: -1.0},
        "both terms, not zero": {BOTH: 1.0, ZERO: -1.0},
    },
)

RATES = {1.0: "the whole rate", 0.5: "half the rate", 0.25: "a quarter of the rate"}
PUSHES = {APART: {}, ZERO: {"param_distance": "from_zero"}}
SHARES = (0.034, 0.1)
STILL = {rate: f"no push, {words}" for rate, words in RATES.items()}
PUSHED = {(push, share, rate): f"{push}, {share}, {RATES[rate]}" for push in PUSHES for share in SHARES for rate in RATES}

STUDIES["placebo_rates"] = Study(
    name="placebo_rates",
    question="What does a push on the weights add at each rate of stage two, and at a larger share?",
    scientific="push",
    arms={name: {"alpha": 0.0, "beta": 0.0, "stage_two_lr_scale": rate} for rate, name in STILL.items()}
    | {
        name: {"alpha": share, "beta": 0.0, "stage_two_lr_scale": rate} | PUSHES[push]
        for (push, share, rate), name in PUSHED.items()
    },
    searched=(),
    baseline=STILL[1.0],
    contrasts={f"{name}: adds": {name: 1.0, STILL[rate]: -1.0} for (_, _, rate), name in PUSHED.items() if rate < 1}
    | {
        f"the peer, not zero, {share}, {RATES[rate]}": {PUSHED[APART, share, rate]: 1.0, PUSHED[ZERO, share, rate]: -1.0}
        for share in SHARES
        for rate in RATES
    },
)

NONE, SURE, SURE_ZERO = "no push", "deterministic, no push", "deterministic, away from zero"
CERTAIN = {"posterior": "deterministic", "beta": 0.0}

STUDIES["placebo_parts"] = Study(
    name="placebo_parts",
    question="Which weights' push gains: the classifier's, or all others'? Is it their noise that becomes relatively smaller?",
    scientific="push",
    arms={
        NONE: {"alpha": 0.0, "beta": 0.0},
        APART: {"alpha": 0.034, "beta": 0.0},
        ZERO: {"alpha": 0.034, "beta": 0.0, "param_distance": "from_zero"},
        # as hard as these weights are pushed in the two arms above, by the parts of the lengths at the switch
        f"{APART}, classifier": {"alpha": 0.0265, "beta": 0.0, "param_distance": "w2_classifier"},
        f"{APART}, all others": {"alpha": 0.0213, "beta": 0.0, "param_distance": "w2_others"},
        f"{ZERO}, classifier": {"alpha": 0.0255, "beta": 0.0, "param_distance": "from_zero_classifier"},
        f"{ZERO}, all others": {"alpha": 0.0225, "beta": 0.0, "param_distance": "from_zero_others"},
        SURE: CERTAIN | {"alpha": 0.0},
        "deterministic, apart from the peer": CERTAIN | {"alpha": 0.034},
        SURE_ZERO: CERTAIN | {"alpha": 0.034, "param_distance": "from_zero"},
        "a third of the prior's weight": {"alpha": 0.0, "beta": 0.0, "kl_weight": 0.1},
    },
    searched=(),
    baseline=NONE,
    contrasts={
        "deterministic, the peer": {"deterministic, apart from the peer": 1.0, SURE: -1.0},
        "deterministic, zero": {SURE_ZERO: 1.0, SURE: -1.0},
        "apart, classifier less all others": {f"{APART}, classifier": 1.0, f"{APART}, all others": -1.0},
        "zero, classifier less all others": {f"{ZERO}, classifier": 1.0, f"{ZERO}, all others": -1.0},
    },
)

THIRD, TENTH = "a third of the prior's weight", "a tenth of the prior's weight"

STUDIES["placebo_prior"] = Study(
    name="placebo_prior",
    question="Does a push still gain where the prior weighs less?",
    scientific="push",
    arms={
        THIRD: {"alpha": 0.0, "beta": 0.0, "kl_weight": 0.1},
        f"{APART}, {THIRD}": {"alpha": 0.034, "beta": 0.0, "kl_weight": 0.1},
        f"{ZERO}, {THIRD}": {"alpha": 0.034, "beta": 0.0, "kl_weight": 0.1, "param_distance": "from_zero"},
        NONE: {"alpha": 0.0, "beta": 0.0},
        f"{APART}, the whole prior": {"alpha": 0.034, "beta": 0.0},
        TENTH: {"alpha": 0.0, "beta": 0.0, "kl_weight": 0.03},
    },
    searched=(),
    baseline=THIRD,
    contrasts={"apart, under the whole prior": {f"{APART}, the whole prior": 1.0, NONE: -1.0}},
)

#: Of the noise nothing is left and the prior's pull on the means stays as it was, or the pull goes and the noise stays.
NO_NOISE = {"beta": 0.0, "initial_sigma": 1e-6, "rho_lr_scale": 1e-6}
NO_PULL = {"beta": 0.0, "prior_std": 1000.0}
AWAY = {"alpha": 0.034, "param_distance": "from_zero"}

STUDIES["placebo_noise"] = Study(
    name="placebo_noise",
    question="Does a push gain against the noise of the weights, or against the prior's pull of the means to zero?",
    scientific="push",
    arms={
        NONE: {"alpha": 0.0, "beta": 0.0},
        APART: {"alpha": 0.034, "beta": 0.0},
        ZERO: AWAY | {"beta": 0.0},
        "no noise": NO_NOISE | {"alpha": 0.0},
        f"{APART}, no noise": NO_NOISE | {"alpha": 0.034},
        f"{ZERO}, no noise": NO_NOISE | AWAY,
        "no pull": NO_PULL | {"alpha": 0.0},
        f"{APART}, no pull": NO_PULL | {"alpha": 0.034},
        f"{ZERO}, no pull": NO_PULL | AWAY,
        SURE: CERTAIN | {"alpha": 0.0},
        "deterministic, apart from the peer": CERTAIN | {"alpha": 0.034},
        SURE_ZERO: CERTAIN | AWAY,
    },
    searched=(),
    baseline=NONE,
    contrasts={
        f"{words}, without {lacking}": {f"{push}, no {lacking}": 1.0, f"no {lacking}": -1.0}
        for lacking in ("noise", "pull")
        for push, words in ((APART, "the peer"), (ZERO, "zero"))
    }
    | {
        f"{words}, what {lacking} does to it": {push: 1.0, NONE: -1.0, f"{push}, no {lacking}": -1.0, f"no {lacking}": 1.0}
        for lacking in ("noise", "pull")
        for push, words in ((APART, "the peer"), (ZERO, "zero"))
    },
)

GENTLE, GENTLE_SOFT = "weight 0.3", "weight 0.3, T 4"
TAUGHT = {"beta": 0.0, "mutual_weight": 0.3}

STUDIES["placebo_teaching"] = Study(
    name="placebo_teaching",
    question="Does a pair gain by mutual learning at a smaller weight, and by a push there?",
    scientific="teaching and push",
    arms={
        "weight 1": {"alpha": 0.0, "beta": 0.0},
        "never": {"alpha": 0.0, "beta": 0.0, "mutual_weight": 0.0},
        GENTLE: TAUGHT | {"alpha": 0.0},
        f"{APART}, {GENTLE}": TAUGHT | {"alpha": 0.034},
        f"{ZERO}, {GENTLE}": TAUGHT | AWAY,
        GENTLE_SOFT: TAUGHT | {"alpha": 0.0, "temperature": 4.0},
    },
    searched=(),
    baseline="never",
    contrasts={
        f"the peer, at {GENTLE}": {f"{APART}, {GENTLE}": 1.0, GENTLE: -1.0},
        f"zero, at {GENTLE}": {f"{ZERO}, {GENTLE}": 1.0, GENTLE: -1.0},
        f"{GENTLE} instead of 1": {GENTLE: 1.0, "weight 1": -1.0},
    },
)

#: Asked first, over seeds, each Holm-corrected over the seven differences to mutual learning: NLL on corrupted images (mean of
#: five severities), and the AUROC by which entropy tells the first set of other images. Then whether a term's cost in NLL is
#: another on corrupted images than on the test images as they are. All else is described. What matters: 0.01 of NLL on
#: corrupted images, 0.005 of AUROC. That pairs that never met differ in both shows that the study could see a difference.
#: Asked again on CIFAR-100 of what the first study told of corrupted images: NLL and accuracy there of the parameter term and
#: the push away from zero at 0.2, and of both terms at 0.05, Holm-corrected over the three; eight seeds.
#: Shares at which the terms surely act, and at which they cost little.
LARGE, SMALL = {"alpha": 0.2, "beta": 0.2}, {"alpha": 0.05, "beta": 0.05}
NEVER_MET = {"alpha": 0.0, "beta": 0.0, "mutual_weight": 0.0}

STUDIES["elsewhere"] = Study(
    name="elsewhere",
    question="Do the diversity terms help where test images are corrupted, or of another kind?",
    scientific="what keeps the peers apart",
    arms={
        BASELINE: {"alpha": 0.0, "beta": 0.0},
        f"{APART}, 0.2": LARGE | {"beta": 0.0},
        f"{FEATURES}, 0.2": LARGE | {"alpha": 0.0},
        f"{BOTH}, 0.2": LARGE,
        f"{BOTH}, 0.05": SMALL,
        f"{ZERO}, 0.2": LARGE | {"beta": 0.0, "param_distance": "from_zero"},
        "two that never met": NEVER_MET,
        "two deterministic that never met": NEVER_MET | {"posterior": "deterministic"},
    },
    searched=(),
    baseline=BASELINE,
    contrasts={"the peer, not zero": {f"{APART}, 0.2": 1.0, f"{ZERO}, 0.2": -1.0}},
)

#: Asked first, over seeds, on corrupted images (mean of five severities): accuracy and NLL under each of no pull, no noise and
#: a third of the prior's weight, less those of mutual learning, Holm-corrected over the three. Then, in accuracy there, what
#: the pull and what the noise do to the gain of the push away from zero (where both are, less where one is not),
#: Holm-corrected over the two: if the push gains by undoing the pull, its gain ends without it. What matters: 0.3 points, 0.01
#: of NLL. All else is described, the families of corruption among it.
#: Asked again on CIFAR-100, eight seeds, of the four arms with noise: in accuracy on corrupted images what the pull does to the
#: push, and what the absence of the pull alone does, Holm-corrected over the two.
#: Added when both were known, on CIFAR-10: the parameter term itself at 0.2, under the whole prior and without its pull. Asked
#: is what the pull does to it, in accuracy on corrupted images; one test.
WIDE, STILL_WEIGHTS = {"prior_std": 1000.0}, {"initial_sigma": 1e-6, "rho_lr_scale": 1e-6}
PULLED = {"nothing lacking": {}, "no pull": WIDE, "no noise": STILL_WEIGHTS, "neither": WIDE | STILL_WEIGHTS}
NO_PUSH = {"alpha": 0.0, "beta": 0.0}
PUSH = {"alpha": 0.2, "beta": 0.0, "param_distance": "from_zero"}

STUDIES["elsewhere_prior"] = Study(
    name="elsewhere_prior",
    question="Does a push gain on corrupted images against the prior's pull, or against the noise? Does a lighter prior gain?",
    scientific="prior and push",
    arms={name: PULLED[name] | NO_PUSH for name in PULLED}
    | {f"{ZERO}, {name}": PULLED[name] | PUSH for name in PULLED}
    | {THIRD: NO_PUSH | {"kl_weight": 0.1}}
    | {f"{APART}, {name}": PULLED[name] | LARGE | {"beta": 0.0} for name in ("nothing lacking", "no pull")},
    searched=(),
    baseline="nothing lacking",
    contrasts={f"zero, {name}": {f"{ZERO}, {name}": 1.0, name: -1.0} for name in PULLED if name != "nothing lacking"}
    | {"the peer, no pull": {f"{APART}, no pull": 1.0, "no pull": -1.0}}
    | {
        f"what the {part} does to the {words}": {
            f"{push}, nothing lacking": 1.0,
            "nothing lacking": -1.0,
            f"{push}, no {part}": -1.0,
            f"no {part}": 1.0,
        }
        for part, words, push in (("pull", "push", ZERO), ("noise", "push", ZERO), ("pull", "parameter term", APART))
    },
)

#: Asked first, on corrupted images, in accuracy, over seeds: what the end of the pull at the switch adds, and what stage two's
#: pull does to the gain of the push away from zero, Holm-corrected over the two. If the push gains against the pull that acts
#: beside it, it gains nothing where that has ended; if against what stage one's pull has left, no less. What matters: 0.3
#: points. All else is described. Asked of CIFAR-10, then the same of CIFAR-100. The prior is N(0, 0.1²), about each layer's
#: size, so that its pull is one number, which a term takes away; the push has one strength, the same in both arms.
SWITCHED = {"prior_mode": "absolute", "prior_std": 0.1, "kl_weight": 0.3, "beta": 0.0, "weighting": "raw"} | {
    "param_normalization": "sum", "param_transform": "negative",
}  # fmt: skip

STUDIES["elsewhere_stages"] = Study(
    name="elsewhere_stages",
    question="Does a push gain on corrupted images against stage two's pull to zero, or against what stage one's has left?",
    scientific="pull and push in stage two",
    arms={
        "pulled to the end": SWITCHED | {"alpha": 0.0},
        "pulled to the switch": SWITCHED | {"alpha": 1.0, "param_distance": "undo"},
        f"{ZERO}, pulled to the end": SWITCHED
        | {"alpha": STRENGTH, "param_distance": "from_zero", "param_transform": "negative_log"},
        f"{ZERO}, pulled to the switch": SWITCHED | {"alpha": 1.0, "param_distance": "undo_and_push"},
    },
    searched=(),
    baseline="pulled to the end",
    contrasts={
        "zero, pulled to the switch": {f"{ZERO}, pulled to the switch": 1.0, "pulled to the switch": -1.0},
        "what stage two's pull does to the push": {
            f"{ZERO}, pulled to the end": 1.0,
            "pulled to the end": -1.0,
            f"{ZERO}, pulled to the switch": -1.0,
            "pulled to the switch": 1.0,
        },
    },
)

#: Stated when `elsewhere_stages` was known on CIFAR-10, and not on CIFAR-100, of which this is asked, under the prior of each
#: layer's size. Asked first, in NLL and accuracy on test images: a third of the prior and none of it in stage two, less mutual
#: learning, Holm-corrected over the two. Then, in NLL: what both terms at 0.05, which gain there under the whole prior, add
#: where stage two has none, and what its prior does to their gain, Holm-corrected over the two. What matters: 0.005 of NLL,
#: 0.3 points. All else is described, corrupted images among it. Then, when that and `prior_tuned` were known, the same two
#: families are asked of CIFAR-10, where both terms at 0.05 gain nothing told on images as they are.
LIGHTER, WITHOUT = {"stage_two_kl_scale": 1 / 3}, {"stage_two_kl_scale": 0.0}
NO_PRIOR = "no prior in stage two"

STUDIES["stage_two_prior"] = Study(
    name="stage_two_prior",
    question="Does a pair gain where stage two has less of the prior, or none, and do the terms still add to that?",
    scientific="prior in stage two",
    arms={
        BASELINE: NO_PUSH,
        "a third of the prior in stage two": NO_PUSH | LIGHTER,
        NO_PRIOR: NO_PUSH | WITHOUT,
        BOTH: SMALL,
        f"{BOTH}, {NO_PRIOR}": SMALL | WITHOUT,
    },
    searched=(),
    baseline=BASELINE,
    contrasts={
        f"the terms, {NO_PRIOR}": {f"{BOTH}, {NO_PRIOR}": 1.0, NO_PRIOR: -1.0},
        "what stage two's prior does to the terms": {BOTH: 1.0, BASELINE: -1.0, f"{BOTH}, {NO_PRIOR}": -1.0, NO_PRIOR: 1.0},
        "no prior, not the terms": {NO_PRIOR: 1.0, BOTH: -1.0},
    },
)

#: Stated when `stage_two_prior` was known on CIFAR-100, for CIFAR-100: there the weight of stage one's prior was the default's.
#: Every arm, mutual learning too, has the same points of two seeds each, judged by validation NLL: the prior's weight in both
#: stages, and an arm's shares. Asked in NLL and accuracy on test images, on fresh seeds: both terms and the push away from
#: zero, less mutual learning, Holm-corrected over the two. What matters: 0.005 of NLL, 0.3 points. All else is described.
STUDIES["prior_tuned"] = Study(
    name="prior_tuned",
    question="Do the terms gain where the prior's weight in both stages is searched with the same budget, without them too?",
    scientific="push",
    arms={BASELINE: NO_PUSH, ZERO: {"beta": 0.0, "param_distance": "from_zero"}, BOTH: {}},
    searched=("kl_weight", "stage_two_kl_scale", "alpha", "beta"),
    ranges={"alpha": SHARE, "beta": SHARE},
    search_seeds=2,
    baseline=BASELINE,
    contrasts={"both terms, not zero": {BOTH: 1.0, ZERO: -1.0}},
)

LIGHT_PUSH = {"alpha": 0.034, "beta": 0.0}

#: Stated when all above was known, of few images of CIFAR-100, where networks overfit and a push gains accuracy: does it
#: gain there against stage two's prior? Asked first, in accuracy on test images: none of the prior in stage two, less mutual
#: learning, and what each push adds where it has ended, Holm-corrected over the three. Then, in accuracy: what stage two's
#: prior does to each push's gain, corrected over the two. What matters: 0.3 points, 0.005 of NLL. All else is described.
STUDIES["few_images_stages"] = Study(
    name="few_images_stages",
    question="Where networks overfit, does a push gain against stage two's prior, or without it too?",
    scientific="prior in stage two",
    arms={
        NONE: NO_PUSH,
        "no push, a third of the prior in stage two": NO_PUSH | LIGHTER,
        f"no push, {NO_PRIOR}": NO_PUSH | WITHOUT,
        APART: LIGHT_PUSH,
        f"{APART}, {NO_PRIOR}": LIGHT_PUSH | WITHOUT,
        ZERO: LIGHT_PUSH | AWAY,
        f"{ZERO}, {NO_PRIOR}": LIGHT_PUSH | AWAY | WITHOUT,
    },
    searched=(),
    baseline=NONE,
    contrasts={f"{push} adds, {NO_PRIOR}": {f"{push}, {NO_PRIOR}": 1.0, f"no push, {NO_PRIOR}": -1.0} for push in (APART, ZERO)}
    | {
        f"{push}, what that prior does to it": {push: 1.0, NONE: -1.0, f"{push}, {NO_PRIOR}": -1.0, f"no push, {NO_PRIOR}": 1.0}
        for push in (APART, ZERO)
    },
)
