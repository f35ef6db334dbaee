"""Do two deterministic ResNet-32 on CIFAR-100 learn from each other what public logs say, and when in the training?

The recipe of public logs (SGD, lr 0.1, momentum 0.9, weight decay 5e-4, batch 64, one cosine, flips and crops, nothing
clipped, temperature 1) but for Nesterov's momentum and for the length, 30 epochs instead of 200, which a processor affords.
docs/results/yardsticks tells what came of it.

    python benchmarks/yardstick_pair.py --preset small --data-root DIR --in-process --out docs/results/yardsticks/pair
"""

from mldiv.cli.main import main
from mldiv.study import Study

APART, MUTUAL = "two networks that never meet", "mutual learning"
EPOCHS = 30

STUDY = Study(
    name="yardstick_pair",
    question="Do two deterministic ResNet-32 on CIFAR-100 gain by mutual learning as in public logs?",
    scientific="whether the networks learn from each other",
    arms={APART: {"mutual_weight": 0.0}, MUTUAL: {}},
    searched=(),
    baseline=APART,
    settings={
        "data": "cifar100", "arch": "resnet32", "width": 1.0, "train_size": None, "validation_size": 2500, "test_size": None,
        "posterior": "deterministic", "initialization": "scratch", "alpha": 0.0, "beta": 0.0,
        "epochs": EPOCHS, "switch_epoch": EPOCHS, "batch_size": 64, "clip_norm": 0.0,
        "gradient_points": 0.0, "ood": "none", "shift_share": 0.0,
    },
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
