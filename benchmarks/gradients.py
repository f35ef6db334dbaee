"""Is every term alive? The length of each term's gradient in peer 1's means over training, beside the cross-entropy's.

A pair is trained as `fit` trains it, on real images, with the default diversity terms after the switch; at some epochs the
gradients of every form of the terms are taken on the same training batches, with both peers' weight samples.

    python benchmarks/gradients.py --data cifar10 --data-root DIR     # writes benchmarks/gradients.md
"""

import argparse
from pathlib import Path

import torch
from timing import caption, table
from torch import Tensor

from mldiv.config import TrialConfig
from mldiv.evaluation.predictive import feature_kl, precision
from mldiv.method import losses
from mldiv.method.pair import MutualPair
from mldiv.presets import configure
from mldiv.seeding import generator
from mldiv.storage.cache import Store
from mldiv.training.loop import epoch_batches, make_optimizer, make_pair, train_epoch
from mldiv.training.pretraining import pretrained, purposes
from mldiv.training.worker_cache import dataset

CPU = torch.device("cpu")
BATCHES = 4
#: Form of a term -> (transform, normalization).
PARAMETER = {
    "exp(-W2²/s)": ("exp", "switch"),
    "softplus(-W2²/s)": ("softplus", "switch"),
    "exp(-W2²/P)": ("exp", "mean"),
    "softplus(-W2²/P)": ("softplus", "mean"),
    "-log W2²": ("negative_log", "sum"),
    "-W2": ("negative_sqrt", "sum"),
    "-W2²": ("negative", "sum"),
    "softplus(-W2²)": ("softplus", "sum"),
}
FEATURE = {
    "exp(-F/s)": ("exp", "switch"),
    "softplus(-F/s)": ("softplus", "switch"),
    "exp(-F)": ("exp", "sum"),
    "-log F": ("negative_log", "sum"),
    "-F": ("negative", "sum"),
}


def lengths(pair: MutualPair, config: TrialConfig, epoch: int) -> dict[str, float]:
    """Mean over batches of each unweighted term's gradient norm in peer 1's means; W2² and F themselves."""
    data, sums = dataset(config), dict[str, float]()
    count = pair.peers[0].mean.numel()
    streams = [generator(config.seed, f"gradients {index}", epoch, CPU) for index in (1, 2)]
    batches = epoch_batches(config, data, epoch, "gradients", CPU)
    pair.train()
    buffers = {name: value.clone() for name, value in pair.named_buffers()}
    for _, (images, labels) in zip(range(BATCHES), batches, strict=False):
        noise = [torch.randn(count, generator=stream) for stream in streams]
        for name, value in _terms(pair, config, images, labels, noise, epoch > config.first_stage).items():
            sums[name] = sums.get(name, 0.0) + _length(value, pair) / BATCHES
    for name, value in pair.named_buffers():  # the measurement leaves no trace in the batch norms
        value.copy_(buffers[name])
    sums["value of W2²"] = float(pair.distance("w2"))
    sums["value of F"] = float(feature_kl(config, pair, data, "train", epoch=epoch, device=CPU, own=True))
    return sums


def _length(value: Tensor, pair: MutualPair) -> float:
    (gradient,) = torch.autograd.grad(value, pair.peers[0].mean, retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else float(gradient.norm())


def _terms(
    pair: MutualPair, config: TrialConfig, images: Tensor, labels: Tensor, noise: list[Tensor], switched: bool
) -> dict[str, Tensor]:
    sigmas = [peer.sigma for peer in pair.peers]
    with precision(config, CPU):
        outputs = [
            peer(images, weights=peer.mean + sigma * drawn)
            for peer, sigma, drawn in zip(pair.peers, sigmas, noise, strict=True)
        ]
    terms = pair.data_terms([logits for logits, _ in outputs], labels) | pair.prior_terms(sigmas)
    found = {"cross-entropy": terms["nll"][0], "mutual": terms["mutual"][0], "KL to the prior / N": terms["kl"][0]}
    distance, count = pair.distance("w2"), pair.peers[0].mean.numel()
    for name, (transform, normalization) in PARAMETER.items():
        scale = losses.transform_scale(normalization, distance, count)
        if switched and normalization == "switch":
            scale = pair.param_scale
        found[name] = losses.TRANSFORMS[transform].function(distance / scale)
    divergence, _ = pair.feature_divergences([features for _, features in outputs])
    for name, (transform, normalization) in FEATURE.items():
        scale = losses.transform_scale(normalization, divergence, 1)
        if switched and normalization == "switch":
            scale = pair.feature_scale
        found[name] = losses.TRANSFORMS[transform].function(divergence / scale)
    return found


def train(config: TrialConfig, at: list[int], store: Store) -> dict[int, dict[str, float]]:
    """`lengths` after each number of epochs in ``at``."""
    torch.set_num_threads(1)
    data = dataset(config)
    pair = make_pair(config, data.shapes)
    for number, purpose in purposes(config):
        pair.peers[number - 1].load_means(pretrained(config, data, store, CPU, purpose)[0])
    optimizer, found = make_optimizer(config, pair), {}
    for epoch in range(config.epochs + 1):
        if epoch in at:
            found[epoch] = lengths(pair, config, epoch)
            print(f"epoch {epoch}: " + ", ".join(f"{name} {value:.2g}" for name, value in found[epoch].items()), flush=True)
        if epoch == config.epochs:
            break
        diverse = epoch >= config.first_stage
        if epoch == config.first_stage:
            pair.set_scales(feature_kl(config, pair, data, "train", epoch=epoch, device=CPU, own=True))
        train_epoch(config, pair, pair, optimizer, data, epoch, diverse, CPU)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--data")
    parser.add_argument("--data-root")
    parser.add_argument("--store", type=Path, default=Path("results/trunks"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    config = configure(flags.preset, {"data": flags.data, "data_root": flags.data_root})
    switch = config.switch_epoch
    at = sorted({0, 1, switch // 4, switch // 2, switch, (switch + config.epochs) // 2, config.epochs})
    found = train(config, at, Store(flags.store))
    head = ["term", *(f"after {epoch}" for epoch in at)]
    rows = [[name, *(f"{found[epoch][name]:.2g}" for epoch in at)] for name in found[0]]
    what = f"{dataset(config).describe()}; preset {flags.preset}, {config.precision}, 1 seed."
    text = (
        f"Length of each unweighted term's gradient in peer 1's {config.arch} means, mean over {BATCHES} training batches of "
        f"{config.batch_size}, after so many epochs; the diversity terms act from epoch {switch} on, as configured. "
        "s: the value at the switch, and before it the value at that moment (as if the switch were there); P: the number of "
        "weights; F: the feature KL as configured. The last two rows are the distances themselves.\n\n"
        f"{table(head, rows)}\n\n"
        f"{caption(what, 1, [])}\n"
    )
    flags.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
