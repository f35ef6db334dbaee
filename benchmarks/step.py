"""Step time of the pair against two deterministic networks and against other libraries' Bayesian networks.

    python benchmarks/step.py [--arch resnet20 ...] [--rounds N] [--threads 2] [--device cpu] [--out benchmarks/step.md]

A step is forward, backward, gradient clipping and optimiser step of both networks on one batch. The deterministic pair is
two networks of the same architecture with cross-entropy, stepped by the same kind of optimiser; the rivals are described
in rivals.py. For an architecture all methods in all settings take turns within a round, and every ratio is the median over
rounds of the ratio within a round, so that a noisy machine disturbs both sides alike.

On a GPU everything runs in bf16 channels_last, and a third table gives the throughput beside what the hardware could do:
arithmetic counted by torch.utils.flop_counter, and the least memory traffic, where what the forward keeps for the backward
is written and read once and the optimiser reads parameter, gradient and momentum and writes each of them once.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rivals import LIBRARIES, RIVALS, SHAPES, missing
from timing import Load, Rounds, Step, caption, interleaved, median, ratio, table
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from mldiv.config import TrialConfig
from mldiv.evaluation.predictive import precision
from mldiv.seeding import generator
from mldiv.training.loop import make_optimizer, make_pair, network, train_step

DETERMINISTIC, STAGE_ONE, STAGE_TWO = "deterministic", "mldiv stage one", "mldiv stage two"

#: (setting, method), as in the tables' rows and columns.
Key = tuple[str, str]
Method = Callable[[TrialConfig, Tensor, Tensor], Step]


@dataclass(frozen=True)
class Case:
    """What an architecture is measured on."""

    arch: str
    side: int
    batch: int
    rounds: int
    width: float = 1.0

    @property
    def name(self) -> str:
        width = f" at width {self.width:g}" if self.width != 1 else ""
        return f"{self.arch}{width}, {self.side}x{self.side}, batch {self.batch}"


def deterministic_pair(config: TrialConfig, images: Tensor, labels: Tensor) -> Step:
    modules = nn.ModuleList(network(config, SHAPES, f"peer {number}") for number in (1, 2))
    modules.to(images.device).to(memory_format=_layout(config))
    optimizer = torch.optim.SGD(modules.parameters(), lr=1e-3, momentum=config.momentum, fused=True)

    def step() -> None:
        with precision(config, images.device):
            loss = sum(nn.functional.cross_entropy(module(images)[0].float(), labels) for module in modules)
        optimizer.zero_grad()
        loss.backward()
        for module in modules:
            nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
        optimizer.step()

    return step


def bayesian_pair(config: TrialConfig, images: Tensor, labels: Tensor, diverse: bool) -> Step:
    """A step as `mldiv.training.loop.train_epoch` makes them: of stage two where ``diverse``."""
    device = images.device
    pair = make_pair(config, SHAPES, device).to(memory_format=_layout(config))
    pair.fusion.requires_grad_(diverse)
    pair.set_scales(torch.tensor(0.01, device=device))
    optimizer = make_optimizer(config, pair)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    streams = [generator(config.seed, f"weights {number}", 0, device) for number in (1, 2)]

    def step() -> None:
        noise = [torch.randn(pair.peers[0].mean.numel(), generator=stream, device=device) for stream in streams]
        train_step(config, pair, pair, optimizer, images, labels, noise, diverse)

    return step


def _layout(config: TrialConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format


def prepare(case: Case, device: torch.device, rivals: dict[str, Method]) -> tuple[dict[Key, Step], list[str]]:
    """Every method in every setting after a first step, and a note on each that fails."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(case.batch, SHAPES.channels, case.side, case.side, generator=stream).to(device)
    labels = torch.randint(SHAPES.classes, (case.batch,), generator=stream).to(device)
    steps: dict[Key, Step] = {}
    notes = []
    for setting, (kind, channels_last) in SETTINGS.items():
        if device.type == "cuda" and setting != FASTEST:
            continue
        shape = {"arch": case.arch, "width": case.width, "batch_size": case.batch}
        config = TrialConfig(**shape, precision=kind, channels_last=channels_last)
        laid_out = images.contiguous(memory_format=_layout(config))
        for method, construct in (METHODS | (rivals if setting in (DEFAULT, FASTEST) else {})).items():
            torch.manual_seed(0)
            try:
                step = construct(config, laid_out, labels)
                step()
            except RuntimeError as error:
                if method not in rivals:
                    raise
                notes.append(f"{method} fails in {setting}: {str(error).splitlines()[0]}")
            else:
                steps[setting, method] = step
    return steps, notes


def overheads(case: Case, rounds: Rounds[Key], methods: list[str]) -> list[list[str]]:
    """A row for each setting: milliseconds of the deterministic pair, then the other methods as multiples of it."""
    rows = []
    for setting in SETTINGS:
        base = setting, DETERMINISTIC
        if base in rounds[0]:
            ratios = [_ratio(rounds, (setting, method), base) for method in methods]
            rows.append([case.name, setting, f"{1000 * median(rounds, base):.0f}", *ratios, str(len(rounds))])
    return rows


def advantages(case: Case, rounds: Rounds[Key], rivals: list[str]) -> list[list[str]]:
    """A row for each rival: its time as a multiple of mldiv's stage one, both in their default, best and fastest setting."""
    ours = [key for key in rounds[0] if key[1] == STAGE_ONE]
    best = min(ours, key=lambda key: median(rounds, key))
    rows = []
    for rival in rivals:
        pairs = [((DEFAULT, rival), (DEFAULT, STAGE_ONE)), ((DEFAULT, rival), best), ((FASTEST, rival), (FASTEST, STAGE_ONE))]
        rows.append([case.name, rival, *(_ratio(rounds, *both) for both in pairs), best[0], str(len(rounds))])
    return rows


def _ratio(rounds: Rounds[Key], key: Key, base: Key) -> str:
    return f"{ratio(rounds, key, base):.2f}" if key in rounds[0] and base in rounds[0] else "-"


def work(step: Step) -> tuple[float, float]:
    """Floating point operations of a step, and the bytes that it has to move at least."""
    kept: dict[int, int] = {}
    stepped: list[int] = []

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    def count(optimizer: torch.optim.Optimizer, *_: object) -> None:
        stepped.extend(value.nbytes for group in optimizer.param_groups for value in group["params"] if value.grad is not None)

    counter = FlopCounterMode(display=False)
    hook = register_optimizer_step_post_hook(count)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        step()
    hook.remove()
    return counter.get_total_flops(), 2 * sum(kept.values()) + 6 * sum(stepped)


def throughput(case: Case, rounds: Rounds[Key], steps: dict[Key, Step], tflops: float, gbs: float) -> list[list[str]]:
    """A row for each method on a GPU: images and operations per second, and the least time that its work would take."""
    rows = []
    for key, step in steps.items():
        operations, moved = work(step)
        taken, arithmetic, memory = median(rounds, key), operations / (1e12 * tflops), moved / (1e9 * gbs)
        numbers = [1000 * taken, case.batch / taken, operations / taken / 1e12, 1000 * arithmetic, 1000 * memory]
        rows.append([case.name, key[1], *(f"{number:.3g}" for number in numbers), f"{max(arithmetic, memory) / taken:.0%}"])
    return rows


def main() -> None:
    flags = parse()
    torch.set_num_threads(flags.threads)
    device, absent, load = torch.device(flags.device), missing(), Load()
    rivals = {name: construct for name, construct in RIVALS.items() if name.split()[0] not in absent}
    tables: tuple[list[list[str]], ...] = ([], [], [])
    notes = [*absent.values()]
    for arch in flags.arch or CASES:
        case = CASES[arch] if device.type == "cpu" else replace(CASES[arch], batch=128, rounds=20)
        case = replace(case, rounds=flags.rounds or case.rounds)
        steps, failures = prepare(case, device, rivals)
        notes += [f"{case.name}: {failure}." for failure in failures]
        rounds = interleaved(steps, case.rounds)
        tables[0].extend(overheads(case, rounds, [STAGE_ONE, STAGE_TWO, *rivals]))
        tables[1].extend(advantages(case, rounds, list(rivals)))
        if device.type == "cuda":
            tables[2].extend(throughput(case, rounds, steps, flags.peak_tflops, flags.peak_gbs))
        print(table(HEADS[1], [row for row in tables[1] if row[0] == case.name]), flush=True)
    libraries = [library for library in LIBRARIES if library not in absent]
    what = "Step time of the pair; ratios are medians over n interleaved rounds of the ratio within a round."
    parts = [caption(what, flags.threads, libraries, load), "\n".join(notes)]
    heads = ([*HEADS[0][:3], STAGE_ONE, STAGE_TWO, *rivals, "n"], *HEADS[1:])
    parts += [f"{title}\n\n{table(head, rows)}" for title, head, rows in zip(TITLES, heads, tables, strict=True) if rows]
    flags.out.write_text("\n\n".join(part for part in parts if part) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", choices=list(CASES), help="repeatable; all if not given")
    parser.add_argument("--rounds", type=int, help="for every architecture; fewer for slow ones if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak-tflops", type=float, default=float("nan"), help="the GPU's dense bf16 peak, TFLOP/s")
    parser.add_argument("--peak-gbs", type=float, default=float("nan"), help="the GPU's memory bandwidth, GB/s")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    return parser.parse_args()


DEFAULT, FASTEST = "float32 contiguous", "bf16 channels_last"

#: Precision and whether channels_last. Rivals run in DEFAULT, which is theirs, and in FASTEST.
SETTINGS = {DEFAULT: ("float32", False), "float32 channels_last": ("float32", True), FASTEST: ("bf16", True)}

METHODS: dict[str, Method] = {
    DETERMINISTIC: deterministic_pair,
    STAGE_ONE: partial(bayesian_pair, diverse=False),
    STAGE_TWO: partial(bayesian_pair, diverse=True),
}

#: Rounds are few where a step is slow, for some ten minutes in all on two CPU cores. All methods of resnet18 together hold
#: about 13 GiB. The first is what most studies in docs/results train.
CASES = {
    "resnet8": Case("resnet8", side=16, batch=128, rounds=15, width=0.5),
    "resnet20": Case("resnet20", side=32, batch=128, rounds=7),
    "resnet32": Case("resnet32", side=32, batch=128, rounds=5),
    "resnet56": Case("resnet56", side=32, batch=128, rounds=3),
    "resnet18": Case("resnet18", side=64, batch=16, rounds=3),
}

TITLES = (
    "Milliseconds of the deterministic pair, and how many times as long the others take in the same setting:",
    "How many times as fast as each rival mldiv's stage one is:",
    "Throughput of the pair, and the share of the larger of both lower bounds in the time taken:",
)
HEADS = (
    ["case", "setting", "deterministic, ms"],
    ["case", "rival", f"both {DEFAULT}", "mldiv at its best, rival at its default", f"both {FASTEST}", "mldiv's best", "n"],
    ["case", "method", "ms", "images/s", "TFLOP/s", "arithmetic at least, ms", "memory at least, ms", "of the bound"],
)


if __name__ == "__main__":
    main()
