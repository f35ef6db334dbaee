"""Published records and pages, for tests of what pages say."""

from functools import lru_cache
from pathlib import Path

from analysis.compact import copy
from analysis.comparison.effects import after_scaling, differences
from analysis.records.repeats import gather

CHECKOUT = Path(__file__).parents[2]
RESULTS = CHECKOUT / "docs" / "results"


@lru_cache(maxsize=8)
def load(folder):
    """Read a published study, which no test changes, once for several."""
    return copy.load(folder)


def page(name):
    return (RESULTS / name.partition("/")[0] / "README.md").read_text()


def disagreement(study, arm):
    """By seed, on how many test images the peers disagree, in percent."""
    return {seed: 100 * trial.generalized["test"]["disagreement"] for seed, trial in study.finished(arm).items()}


def row(study, base, arm):
    """A row of a page's table of pushes: of the pair in NLL and accuracy, of peers and of the pair scaled in NLL."""
    pair, peers = gather(study), gather(study, "peers")
    found = differences(pair, base, [arm], ["nll", "accuracy"])
    cells = found["nll"][arm].text(4), found["accuracy"][arm].text(2)
    cells += tuple(
        of["nll"][arm].text(4) for of in (differences(peers, base, [arm], ["nll"]), after_scaling(pair, base, [arm]))
    )
    seen = sum(disagreement(study, arm).values()) / len(study.finished(arm))
    return f"| {arm} | {' | '.join(cells)} | {seen:.1f} % | ", found["accuracy"][arm].p


def short(effect, digits):
    """An effect whichever its sign, as sentences have it."""
    ends = sorted(abs(end) if min(effect.interval) * max(effect.interval) > 0 else end for end in effect.interval)
    return f"{abs(effect.mean):.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
