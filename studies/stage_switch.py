"""When should the diversity terms start, at equal epochs in all: at once, late, or never?

Where the learning rate begins anew at the switch (`stage_schedule`), the switch means two things. So every arm then has a
twin without the terms whose rate begins anew at the same epoch, and what the terms give from there on is the difference.
"""

from typing import TYPE_CHECKING

from mldiv.cli.main import main
from mldiv.study import Study

if TYPE_CHECKING:  # torch comes with it
    from mldiv.config import TrialConfig

BASELINE = "never"
SHARES = {"at once": 0.0, "after 1/6": 1 / 6, "after 1/3": 1 / 3, "after 1/2": 1 / 2, "after 2/3": 2 / 3, "after 5/6": 5 / 6}


TWIN = ", without the terms"


def arms(base: "TrialConfig") -> dict[str, dict]:
    names = {round(share * base.epochs): name for name, share in reversed(SHARES.items())}  # with few epochs some are the same
    starts = {name: {"switch_epoch": epoch} for epoch, name in sorted(names.items()) if epoch < base.epochs}
    restarts = [name for name in starts if base.stage_schedule == "restart" and starts[name]["switch_epoch"] > 0]
    twins = {f"{name}{TWIN}": starts[name] | {"alpha": 0.0, "beta": 0.0} for name in restarts}
    return {BASELINE: {"switch_epoch": base.epochs}} | starts | twins


def contrasts(names: list[str]) -> dict[str, dict[str, float]]:
    twins = [name.removesuffix(TWIN) for name in names if name.endswith(TWIN)]
    return {f"the terms, {name}": {name: 1.0, f"{name}{TWIN}": -1.0} for name in twins}


STUDY = Study(
    name="stage_switch",
    question="After which share of the epochs should the diversity terms start?",
    scientific="diversity terms start",
    arms=arms,
    searched=("lr", "kl_weight", "temperature", "alpha", "beta"),
    baseline=BASELINE,
    contrasts=contrasts,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
