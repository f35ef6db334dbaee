"""How do the cost and the gain of the diversity terms grow with the network, the batch and the data?

One size is changed at a time. Cost: time and memory of a step and of each loss term, over a wider range of sizes. Gain: the
full method against mutual learning at every size, both with their learning rate tuned by the same budget (in the demo: with
the defaults, for time).
"""

from typing import TYPE_CHECKING

from mldiv.cli.main import main
from mldiv.study import Study

if TYPE_CHECKING:  # torch comes with it
    from mldiv.config import TrialConfig

PLAIN, FULL = "mutual learning", "both terms"
#: The largest width that a setting may be.
WIDEST = 64


def sizes(base: "TrialConfig") -> dict[str, dict]:
    from mldiv.presets import RECIPES
    from mldiv.training.worker_cache import dataset  # with torch: seconds, for which --help does not wait

    images, other = len(dataset(base).train), "vit" if base.arch != "vit" else "resnet20"
    widths = {"width / 2": {"width": base.width / 2}, "width x 2": {"width": base.width * 2}}
    return (
        {"as it is": {}}
        | (widths if base.arch != "resnet18" else {})
        | {
            "batch / 2": {"batch_size": base.batch_size // 2},
            "batch x 2": {"batch_size": base.batch_size * 2},
            "data / 4": {"train_size": images // 4},
            "data / 2": {"train_size": images // 2},
            other: {"arch": other} | RECIPES.get(other, {}),
        }
    )


def arms(base: "TrialConfig") -> dict[str, dict]:
    plain = {"alpha": 0.0, "beta": 0.0}
    return {
        f"{method}, {size}": changes | extra
        for size, changes in sizes(base).items()
        for method, extra in ((PLAIN, plain), (FULL, {}))
    }


def contrasts(names: list[str]) -> dict[str, dict[str, float]]:
    found = [name.removeprefix(f"{PLAIN}, ") for name in names if name.startswith(PLAIN)]
    return {f"effect of both terms, {size}": {f"{FULL}, {size}": 1.0, f"{PLAIN}, {size}": -1.0} for size in found}


def timed(base: "TrialConfig") -> "list[TrialConfig]":
    """Widths and batches over a wide range, for this architecture and a ViT."""
    factors = (0.5, 1, 2, 4, 8, 16) if base.arch != "resnet18" else (1,)
    widths = [base.replace(width=base.width * factor) for factor in factors if factor <= 1 or base.width * factor <= WIDEST]
    batches = [base.replace(batch_size=base.batch_size * factor) for factor in (2, 4, 8, 16)]
    other = base.replace(arch="vit" if base.arch != "vit" else "resnet20")
    return widths + batches + [other.replace(width=factor) for factor in (0.25, 0.5, 1.0, 2.0)]


STUDY = Study(
    name="scaling",
    question="How do cost and gain of the diversity terms grow with network, batch and data?",
    scientific="method and size",
    arms=arms,
    searched=("lr",),
    baseline=f"{PLAIN}, as it is",
    compare=(f"{FULL}, as it is",),
    contrasts=contrasts,
    samples={"demo": 0},
    sizes=timed,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
