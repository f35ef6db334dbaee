"""Does what the terms give grow with the training, and with the network?

The paper trains a hundred times longer than a small machine can. Here every method is trained at several lengths, each a run of
its own with its own schedule, and at three widths; the arms of a length share their first stage, and all have the same seeds.
Each effect is drawn against the images that a peer sees, with what a straight line in their logarithm says of the paper's
training, and how little that is.
"""

from typing import TYPE_CHECKING

from mldiv.cli.main import main
from mldiv.study import Study, Trends

if TYPE_CHECKING:  # torch comes with it
    from mldiv.config import TrialConfig

LONGEST = "as it is"
#: What the lengths are divided by; those of fewer than FEWEST_EPOCHS are left out.
DIVISORS = (16, 8, 4, 2)
FEWEST_EPOCHS = 3
#: The length at which the widths are compared.
WIDTHS_AT = 4

ALONE, PLAIN = {"mutual_weight": 0.0, "alpha": 0.0, "beta": 0.0}, {"alpha": 0.0, "beta": 0.0}
TWIN = {"posterior": "deterministic"}
METHODS = {
    "two deterministic networks": ALONE | TWIN,
    "deterministic mutual learning": PLAIN | TWIN,
    "two Bayesian networks": ALONE,
    "mutual learning": PLAIN,
    "with parameter diversity": {"beta": 0.0},
    "with feature diversity": {"alpha": 0.0},
    "with both": {},
}
#: What a method adds to another.
EFFECTS = {
    "mutual learning of deterministic networks": ("deterministic mutual learning", "two deterministic networks"),
    "a posterior": ("two Bayesian networks", "two deterministic networks"),
    "mutual learning": ("mutual learning", "two Bayesian networks"),
    "parameter diversity": ("with parameter diversity", "mutual learning"),
    "feature diversity": ("with feature diversity", "mutual learning"),
    "both terms": ("with both", "mutual learning"),
}


def lengths(base: "TrialConfig") -> dict[str, dict[str, int]]:
    """Return the settings of each length, the shortest first."""
    shorter = {
        f"epochs / {divisor}": {
            name: max(round(getattr(base, name) / divisor), min(getattr(base, name), 1))
            for name in ("epochs", "switch_epoch", "pretrain_epochs")
        }
        for divisor in DIVISORS
        if base.epochs >= FEWEST_EPOCHS * divisor
    }
    return shorter | {LONGEST: {}}


def widths(base: "TrialConfig") -> dict[str, float]:
    """Return the width of each size that is compared by width, the smallest first."""
    at = f"epochs / {WIDTHS_AT}"
    if at not in lengths(base) or base.arch == "resnet18":  # it has one width
        return {}
    return {f"{at}, width / 2": base.width / 2, at: base.width, f"{at}, width x 2": base.width * 2}


def arms(base: "TrialConfig") -> dict[str, dict]:
    """Return every method at every size."""
    sizes = lengths(base)
    at = sizes.get(f"epochs / {WIDTHS_AT}", {})
    sizes |= {size: at | {"width": width} for size, width in widths(base).items() if size not in sizes}
    return {f"{method}, {size}": changes | size_changes
            for size, size_changes in sizes.items() for method, changes in METHODS.items()}  # fmt: skip


def contrasts(names: list[str]) -> dict[str, dict[str, float]]:
    """Return every effect at every size of which both arms are there."""
    sizes = dict.fromkeys(name.partition(", ")[2] for name in names)
    found = {
        f"{effect}, {size}": {f"{method}, {size}": 1.0, f"{other}, {size}": -1.0}
        for effect, (method, other) in EFFECTS.items()
        for size in sizes
    }
    return {name: weights for name, weights in found.items() if set(weights) <= set(names)}


def trends(base: "TrialConfig") -> Trends:
    """Return by which size each effect is drawn: the images that a peer sees in its training, and the width."""
    from mldiv.training.worker_cache import dataset  # with torch: seconds, for which --help does not wait

    images = len(dataset(base).train)
    seen = {size: images * changes.get("epochs", base.epochs) for size, changes in lengths(base).items()}
    return {
        axis: {effect: {f"{effect}, {size}": float(value) for size, value in sizes.items()} for effect in EFFECTS}
        for axis, sizes in (("images seen by a peer", seen), ("width", widths(base)))
        if sizes
    }


STUDY = Study(
    name="budget",
    question="Does what mutual learning and the diversity terms give grow with the training and with the network?",
    scientific="method and size",
    arms=arms,
    searched=(),
    baseline=f"mutual learning, {LONGEST}",
    compare=tuple(f"{method}, {LONGEST}" for method in METHODS if method != "mutual learning"),
    contrasts=contrasts,
    trends=trends,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
