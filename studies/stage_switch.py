"""When should the diversity terms start, at equal epochs in all: at once, late, or never?"""

from analysis.build import build
from mldiv.cli.main import main
from mldiv.config import TrialConfig
from mldiv.study import Study

BASELINE = "never"
SHARES = {"at once": 0.0, "after 1/6": 1 / 6, "after 1/3": 1 / 3, "after 1/2": 1 / 2, "after 2/3": 2 / 3, "after 5/6": 5 / 6}


def arms(base: TrialConfig) -> dict[str, dict]:
    names = {round(share * base.epochs): name for name, share in reversed(SHARES.items())}  # with few epochs some are the same
    starts = {name: {"switch_epoch": epoch} for epoch, name in sorted(names.items()) if epoch < base.epochs}
    return {BASELINE: {"switch_epoch": base.epochs}} | starts


STUDY = Study(
    name="stage_switch",
    question="After which share of the epochs should the diversity terms start?",
    scientific="diversity terms start",
    arms=arms,
    searched=("lr", "kl_weight", "temperature", "alpha", "beta"),
    baseline=BASELINE,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY, build))
