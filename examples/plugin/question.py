"""A study of one's own, by name: `STUDIES["tails"]`. It needs the kernel of `cauchy.py`, which is named before it."""

from mldiv.study import STUDIES, Study
from mldiv.sweep.search_space import KERNELS_OWN

STUDIES["tails"] = Study(
    name="tails",
    question="Do the cauchy kernel's heavier tails make a pair better than rbf's?",
    scientific="kernel",
    arms={"rbf": {"kernel": "rbf"}, "cauchy": {"kernel": "cauchy"}, "heavier": {"kernel": "cauchy", "kernel_tail": 0.5}},
    searched=("lr", KERNELS_OWN),
    baseline="rbf",
)
