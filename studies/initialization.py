"""Does it matter where the two peers start: both from scratch, both pretrained, or one of each as in the paper?

Every start with the diversity terms, compared with the paper's; and for every start what the diversity terms change there.
"""

from mldiv.cli.main import main
from mldiv.study import Study

STARTS = {
    "scratch + pretrained": "scratch_pretrained",
    "both scratch": "scratch",
    "both pretrained, two seeds": "pretrained",
    "both pretrained, one seed": "pretrained_same",
}
PLAIN = {"alpha": 0.0, "beta": 0.0}
BASELINE, *OTHERS = STARTS

STUDY = Study(
    name="initialization",
    question="Does it matter whether the peers start from scratch or from pretrained networks?",
    scientific="peers start from",
    arms={start: {"initialization": value} for start, value in STARTS.items()}
    | {f"{start}, no diversity": {"initialization": value} | PLAIN for start, value in STARTS.items()},
    searched=("lr", "kl_weight", "temperature", "alpha", "beta"),
    baseline=BASELINE,
    compare=tuple(OTHERS),
    contrasts={f"effect of diversity, {start}": {start: 1.0, f"{start}, no diversity": -1.0} for start in STARTS},
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
