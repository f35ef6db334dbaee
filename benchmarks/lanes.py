"""Operations and time of a step of N pairs: one after the other, and as lanes of one step.

    python benchmarks/lanes.py [--arch resnet20 ...] [--lanes 1 4 16] [--rounds 3] [--device cpu] [--out benchmarks/lanes.md]

Operations are those that compute or copy (views are none), forward to optimiser; a GPU launches one kernel or more for each.
All lanes have the same images, as branches of one seed have them. Times are medians over rounds in which both ways take turns.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import Load, caption, interleaved, median, ratio, table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mldiv.config import TrialConfig
from mldiv.datasets.splits import Shapes
from mldiv.method.pair import MutualPair
from mldiv.training.lanes.step import LaneStep
from mldiv.training.loop import let_fusion_learn, make_optimizer, make_pair, train_step

SHAPES = Shapes(classes=10, channels=3, train_images=50_000)
STAGES = {"one": False, "two": True}
HEAD = ("network", "stage", "pairs", "operations, one by one", "in lanes", "seconds, one by one", "in lanes", "of the time")

#: They compute nothing, though torch does not call them views.
FREE = ("_unsafe_view", "empty", "detach", "_record_function_enter_new", "_record_function_exit")

#: A step of all pairs.
Way = Callable[[], Any]


class Operations(TorchDispatchMode):
    """Counts what is computed while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = any(given.alias_info and not given.alias_info.is_write for given in function._schema.returns)
        self.count += not views and function._schema.name.partition("::")[2] not in FREE
        return function(*args, **(kwargs or {}))


def operations(way: Way) -> int:
    with Operations() as found:
        way()
    return found.count


def both_ways(config: TrialConfig, lanes: int, images: int, diverse: bool, device: torch.device) -> dict[str, Way]:
    """A step of so many pairs of their own, each way, after a first one."""
    batch = torch.randn(images, 3, 32, 32, device=device), torch.randint(10, (images,), device=device)
    configs = [config.replace(seed=seed) for seed in range(lanes)]
    alone, together = [pairs(configs, diverse, device) for _ in range(2)]
    noise = alone[0].draw_noise()
    step = LaneStep(configs, together, [rated(config, pair) for config, pair in zip(configs, together, strict=True)])
    stacked = [own.expand(lanes, -1) for own in noise]
    optimizers = [rated(config, pair) for config, pair in zip(configs, alone, strict=True)]
    singles = [
        partial(train_step, own, pair, pair, optimizer, *batch, noise, diverse)
        for own, pair, optimizer in zip(configs, alone, optimizers, strict=True)
    ]
    ways: dict[str, Way] = {"alone": partial(one_by_one, singles), "lanes": lambda: step.step(*batch, stacked, diverse)}
    for way in ways.values():
        way()
    return ways


def pairs(configs: Sequence[TrialConfig], diverse: bool, device: torch.device) -> list[MutualPair]:
    made = [make_pair(config, SHAPES, device).train() for config in configs]
    for config, pair in zip(configs, made, strict=True):
        let_fusion_learn(config, pair, diverse)
        pair.set_scales(torch.tensor(0.01, device=device))
    return made


def rated(config: TrialConfig, pair: MutualPair) -> torch.optim.Optimizer:
    optimizer = make_optimizer(config, pair)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    return optimizer


def one_by_one(steps: Sequence[Callable[[], Tensor]]) -> None:
    for step in steps:
        step()


def timed(ways: dict[str, Way], count: int) -> list[str]:
    """Seconds of both ways and their ratio, over so many rounds; without any, nothing."""
    if not count:
        return ["-"] * 3
    rounds = interleaved(ways, count)
    return [*(f"{median(rounds, way):.2f}" for way in ways), f"{ratio(rounds, 'lanes', 'alone'):.2f}"]


def main() -> None:
    flags = parse()
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    load, rows = Load(), []
    for arch in flags.arch or ("resnet20", "vit"):
        config = TrialConfig(arch=arch, batch_size=flags.batch)
        for stage, diverse in STAGES.items():
            for lanes in flags.lanes:
                ways = both_ways(config, lanes, flags.batch, diverse, torch.device(flags.device))
                counts = [operations(way) for way in ways.values()]
                rows.append([arch, stage, *map(str, (lanes, *counts)), *timed(ways, flags.rounds)])
                print(table(HEAD, rows[-1:]), flush=True)
    what = f"A step of several pairs, batch {flags.batch}, 32x32, float32, one by one and in lanes."
    flags.out.write_text(f"{caption(what, flags.threads, (), load)}\n\n{table(HEAD, rows)}\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", help="repeatable; resnet20 and vit if not given")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="0: operations alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
