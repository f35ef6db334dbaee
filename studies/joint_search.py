"""How much do both diversity terms gain when everything about them is searched at once, the kernel included?"""

from mldiv.cli.main import main
from mldiv.study import Study

BASELINE = "mutual learning"

STUDY = Study(
    name="joint_search",
    question="How much do the diversity terms gain when weights, temperature, kernel and switch are searched at once?",
    scientific="diversity terms",
    arms={BASELINE: {"alpha": 0.0, "beta": 0.0}, "diversity, searched": {}},
    searched=("lr", "kl_weight", "temperature", "alpha", "beta", "kernel", "kernel_*", "switch_epoch"),
    baseline=BASELINE,
    batch=4,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
