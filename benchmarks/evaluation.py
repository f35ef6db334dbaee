"""Monte Carlo evaluation: mldiv's loop over weight samples, torch.func.vmap over them, and bayesian-torch's own loop.

    python benchmarks/evaluation.py [--arch resnet20] [--images N] [--samples 20] [--device cpu] [--out FILE]

Every way gives the mean of the softmax over weight samples, in float32 and evaluation mode, batch by batch:

mldiv, `evaluate.predict`: samples drawn once for all images, one pass for each, a running mean; it also computes the mean
entropy that the mutual information needs.
vmap, `torch.func.vmap` over weight samples: the same ones, a chunk of them at once; the block features of all samples, which
the networks return beside the logits, are held too.
bayesian-torch, the loop of its documentation on its reparameterization layers: the network is called once per sample, which
draws the weights anew, and the stacked softmax is averaged.

For every batch all ways take turns in shuffled order; ratios are medians over batches of the ratio within a batch.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from rivals import SHAPES, bayesian_torch_network, missing
from timing import Load, caption, interleaved, median, ratio, seconds, table
from torch import Tensor, nn
from torch.func import vmap

from mldiv.config import TrialConfig
from mldiv.evaluation.predictive import predict
from mldiv.method.posterior import GaussianPosterior
from mldiv.training.loop import make_pair

BATCH_IMAGES, SIDE_PIXELS = 128, 32
#: How many weight samples vmap takes at once.
CHUNKS = (1, 4, 20)
#: The largest difference of a probability that rounding explains.
TOLERANCE = 1e-5
#: Forward passes in training mode that give the normalisation layers their statistics.
PASSES = 20
OURS = "mldiv"

Predict = Callable[[Tensor], Tensor]


def ways(config: TrialConfig, images: Tensor, samples: int, library: bool) -> tuple[dict[str, Predict], float]:
    """Every way to predict, as a function of a batch; and the seconds in which mldiv draws its weight samples."""
    peer = make_pair(config, SHAPES, images.device).peers[0]
    settle(peer, images)
    stream = torch.Generator(images.device).manual_seed(0)

    def draw() -> Tensor:
        return peer.sample(torch.randn(samples, peer.mean.numel(), generator=stream, device=images.device))

    weights = draw()
    found: dict[str, Predict] = {OURS: lambda batch: predict(peer, batch, weights, config).probabilities}
    for chunk in sorted({min(chunk, samples) for chunk in CHUNKS}):
        found[f"vmap, {chunk} at once"] = partial(by_vmap, peer, weights, chunk)
    if library:
        module = bayesian_torch_network(config, "peer 1", "Reparameterization").to(images.device)
        settle(module, images)
        found["bayesian-torch reparameterization"] = partial(by_calls, module, samples)
    return found, seconds(draw)


def by_vmap(peer: GaussianPosterior, weights: Tensor, chunk: int, images: Tensor) -> Tensor:
    logits = vmap(lambda flat: peer(images, weights=flat), chunk_size=chunk)(weights)[0]
    return logits.softmax(-1).mean(0)


def by_calls(module: nn.Module, samples: int, images: Tensor) -> Tensor:
    return torch.stack([module(images)[0].softmax(-1) for _ in range(samples)]).mean(0)


def settle(module: nn.Module, images: Tensor) -> None:
    """Normalisation statistics as after training, then evaluation mode."""
    module.train()
    for _ in range(PASSES):
        module(images)
    module.eval()


def examine(way: Predict, images: Tensor) -> tuple[Tensor, float]:
    """The probabilities, and the most MiB held at a time beyond what was there: allocations less releases by operation."""
    if images.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        probabilities = way(images)
        return probabilities, (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        probabilities = way(images)
    events = sorted(profile.events() or [], key=lambda event: event.time_range.start)
    return probabilities, max(accumulate(event.self_cpu_memory_usage for event in events)) / 2**20


def disagreement(probabilities: dict[str, Tensor]) -> float:
    """The largest difference between mldiv's probabilities and vmap's, whatever the chunk.

    Raises: RuntimeError where rounding does not explain it.
    """
    ours = probabilities[OURS]
    largest = max(float((other - ours).abs().max()) for name, other in probabilities.items() if name.startswith("vmap"))
    if not largest < TOLERANCE:
        raise RuntimeError(f"mldiv's and vmap's probabilities differ by {largest:.2g}, more than {TOLERANCE:.0e}")
    return largest


@torch.no_grad()
def main() -> None:
    flags = parse()
    torch.set_num_threads(flags.threads)
    torch.backends.fp32_precision = "ieee"
    device, absent, load = torch.device(flags.device), missing("bayesian-torch"), Load()
    count = flags.images or (512 if flags.device == "cpu" else 10_000)
    shape = (count, SHAPES.channels, SIDE_PIXELS, SIDE_PIXELS)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    batches = images.split(BATCH_IMAGES)
    config = TrialConfig(arch=flags.arch, batch_size=BATCH_IMAGES)
    found, drawing = ways(config, batches[0], flags.samples, library=not absent)
    examined = {name: examine(way, batches[0]) for name, way in found.items()}
    difference = disagreement({name: probabilities for name, (probabilities, _) in examined.items()})
    rounds = [row for batch in batches for row in interleaved({name: partial(found[name], batch) for name in found}, 1)]
    rows = []
    for name in found:
        total, once = sum(row[name] for row in rounds), median(rounds, name)
        numbers = [f"{total:.1f}", f"{10_000 / count * total:.0f}", f"{1000 * once / flags.samples:.1f}"]
        rows.append([name, *numbers, f"{ratio(rounds, name, OURS):.2f}", f"{examined[name][1]:.0f}"])
    timed = f"s for {count:,} images"
    head = ["way", timed, "s for 10,000 images", "ms per batch and sample", "ratio to mldiv", "peak MiB, a batch"]
    what = (
        f"Monte Carlo evaluation of {flags.arch} with {flags.samples} weight samples, {SIDE_PIXELS}x{SIDE_PIXELS} images, "
        f"batch {BATCH_IMAGES}, float32: {count:,} images were timed ({len(batches)} batches, in turn), the column for 10,000 "
        f"is scaled from them. mldiv's samples are drawn once for all images, {1000 * drawing:.0f} ms more. mldiv's and vmap's "
        f"probabilities differ by {difference:.1g} at most."
    )
    text = caption(what, flags.threads, [] if absent else ["bayesian-torch"], load)
    flags.out.write_text("\n\n".join([text, *absent.values(), table(head, rows)]) + "\n")
    print(table(head, rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--images", type=int, help="10,000 on a GPU, 512 on a CPU if not given")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
