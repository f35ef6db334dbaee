"""Step time of the pair against two deterministic networks: same batch, precision and layout, interleaved in one run.

    python benchmarks/step.py [--arch resnet20] [--batch 128] [--rounds 15] [--threads 2] [--out benchmarks/step.md]

A step is forward, backward, gradient clipping and optimiser step. The deterministic pair is two networks of the same
architecture with cross-entropy, stepped by the same kind of optimiser. Ratios are medians over rounds of the ratio within
a round, so that a noisy machine disturbs both sides alike.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mldiv.config import TrialConfig
from mldiv.evaluate import precision
from mldiv.fit import _optimizer
from mldiv.pair import MutualPair, network
from mldiv.study import commit

Step = Callable[[], None]


def deterministic_pair(config: TrialConfig, images: torch.Tensor, labels: torch.Tensor) -> Step:
    modules = nn.ModuleList(network(config, 10, 3, f"peer {index}") for index in (1, 2))
    if config.channels_last:
        modules = modules.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(modules.parameters(), lr=1e-3, momentum=config.momentum, foreach=True)

    def step() -> None:
        with precision(config, images.device):
            loss = sum(nn.functional.cross_entropy(module(images)[0].float(), labels) for module in modules)
        optimizer.zero_grad()
        loss.backward()
        for module in modules:
            nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
        optimizer.step()

    return step


def bayesian_pair(config: TrialConfig, images: torch.Tensor, labels: torch.Tensor, diverse: bool) -> Step:
    pair = MutualPair(config, 10, 3, 50_000)
    if config.channels_last:
        pair = pair.to(memory_format=torch.channels_last)
    pair.fusion.requires_grad_(diverse)
    pair.set_scales(torch.tensor(0.01))
    optimizer = _optimizer(config, pair)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3

    def step() -> None:
        noise = [torch.randn(pair.peer_1.mean.numel()) for _ in range(2)]
        with precision(config, images.device):
            loss, _ = pair(images, labels, *noise, diverse)
        optimizer.zero_grad()
        loss.backward()
        for peer in pair.peers:
            nn.utils.clip_grad_norm_(peer.parameters(), config.clip_norm)
        optimizer.step()

    return step


def seconds(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def compare(config: TrialConfig, rounds: int) -> tuple[float, dict[str, float]]:
    """Median seconds of the deterministic pair's step, and the ratios of the two stages to it."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(config.batch_size, 3, 32, 32, generator=stream)
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (config.batch_size,), generator=stream)
    steps = {
        "deterministic": deterministic_pair(config, images, labels),
        "stage one": bayesian_pair(config, images, labels, False),
        "stage two": bayesian_pair(config, images, labels, True),
    }
    for step in steps.values():
        step(), step()
    times = [{name: seconds(step) for name, step in steps.items()} for _ in range(rounds)]
    ratios = {name: statistics.median(row[name] / row["deterministic"] for row in times) for name in ("stage one", "stage two")}
    return statistics.median(row["deterministic"] for row in times), ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    lines = [
        f"Step time of the pair, {flags.arch}, batch {flags.batch}, 32x32 images, {flags.threads} CPU threads, median of "
        f"{flags.rounds} interleaved rounds; `python benchmarks/step.py`, commit {commit()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}.",
        "",
        "| precision | layout | deterministic pair, ms | stage one, ratio | stage two, ratio |",
        "|---|---|---|---|---|",
    ]
    for name, layout in (("float32", False), ("float32", True), ("bf16", True)):
        config = TrialConfig(arch=flags.arch, batch_size=flags.batch, precision=name, channels_last=layout)
        base, ratios = compare(config, flags.rounds)
        shape = "channels_last" if layout else "contiguous"
        lines.append(f"| {name} | {shape} | {1000 * base:.0f} | {ratios['stage one']:.3f} | {ratios['stage two']:.3f} |")
        print(lines[-1], flush=True)
    flags.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
