"""Do the terms help two networks that do not teach each other?

Two Bayesian networks that are pushed apart, with nothing else between them, are a repulsive ensemble (D'Angelo and Fortuin,
Repulsive Deep Ensembles are Bayesian, 2021), here by the distance of their posteriors and the KL of their attended features.
The control knows of no peer: stage two has no prior, against which small terms gain in mutual learning.

Asked first, in NLL and accuracy on test images: both terms at shares of 0.05 and 0.2, less none, Holm-corrected over the two.
Then, in NLL: what both at 0.05 add where stage two has no prior, and what its prior does to them, corrected over the two.
"""

from mldiv.cli.main import main
from mldiv.study import Study

APART = {"mutual_weight": 0.0}
NONE, SMALL = {"alpha": 0.0, "beta": 0.0}, {"alpha": 0.05, "beta": 0.05}
NO_PRIOR = {"stage_two_kl_scale": 0.0}
NEVER, BOTH, ENDED = "never met", "both terms, 0.05", "no prior in stage two"

STUDY = Study(
    name="repulsion",
    question="Do the terms help two networks that do not teach each other?",
    scientific="what stands between the peers",
    arms={
        NEVER: APART | NONE,
        "parameter term, 0.05": APART | SMALL | {"beta": 0.0},
        "feature term, 0.05": APART | SMALL | {"alpha": 0.0},
        BOTH: APART | SMALL,
        "both terms, 0.2": APART | {"alpha": 0.2, "beta": 0.2},
        ENDED: APART | NONE | NO_PRIOR,
        f"{BOTH}, {ENDED}": APART | SMALL | NO_PRIOR,
        "mutual learning": NONE,
    },
    searched=(),
    baseline=NEVER,
    contrasts={
        f"both terms add, {ENDED}": {f"{BOTH}, {ENDED}": 1.0, ENDED: -1.0},
        "what stage two's prior does to them": {BOTH: 1.0, NEVER: -1.0, f"{BOTH}, {ENDED}": -1.0, ENDED: 1.0},
        "no prior, not the terms": {ENDED: 1.0, BOTH: -1.0},
    },
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
