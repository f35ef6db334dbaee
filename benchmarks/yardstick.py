"""Do this project's networks and evaluation give the figures that are public?

With ``--weights``: public CIFAR-10 weights of the identity-shortcut ResNets (a checkpoint with a ``state_dict``, as
github.com/akamaster/pytorch_resnet_cifar10 has them under pretrained_models) are loaded into MODELS and scored on the test
data by `evaluate`. Without: the deterministic network is trained from scratch by the recipe of the second peer's pretraining,
with its learning curve on validation images; the test data are scored once, at the end. Adds a section to
benchmarks/yardstick.md.

    python benchmarks/yardstick.py --data-root DIR --weights resnet20-12fca82f.th --published 91.73
    python benchmarks/yardstick.py --data-root DIR --epochs 200 --published 91.7
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from timing import caption, table
from torch import nn

from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData, eval_batches
from mldiv.evaluation import metrics
from mldiv.evaluation.predictive import predict
from mldiv.method.networks import build
from mldiv.method.posterior import GaussianPosterior
from mldiv.records import checked_files, study_files
from mldiv.storage.cache import Store
from mldiv.storage.files import State
from mldiv.training.pretraining import pretrained, pretraining_id
from mldiv.training.worker_cache import dataset

#: With which the public weights' images were normalised.
PUBLIC_MEAN, PUBLIC_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCORES = ("accuracy", "nll", "ece", "brier")


def score(module: nn.Module, config: TrialConfig, data: ImageData, split: str, device: torch.device) -> dict[str, float]:
    """Scores of a deterministic network: a posterior whose one sample is its mean, through `evaluate.predict`."""
    posterior = GaussianPosterior(_copy(module, config, data)).to(device).eval()
    posterior.load_means(module.state_dict())
    parts, labels = [], []
    for images, some in eval_batches(data, split, batch_size=500, device=device):
        parts.append(predict(posterior, images, posterior.mean.detach()[None], config))
        labels.append(some)
    predictive = metrics.Predictive(*(torch.cat(rows) for rows in zip(*parts, strict=True)))
    return metrics.scores(predictive, torch.cat(labels), SCORES)


def _copy(module: nn.Module, config: TrialConfig, data: ImageData) -> nn.Module:
    return build(config.arch, classes=data.classes, channels=data.channels, width=config.width, seed=0)


def public(path: Path, config: TrialConfig, device: torch.device) -> dict[str, float]:
    data = replace(dataset(config), mean=PUBLIC_MEAN, std=PUBLIC_STD)
    module = build(config.arch, classes=data.classes, seed=0).to(device)
    state = torch.load(path, map_location=device, weights_only=True)["state_dict"]
    module.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return score(module, config, data, "test", device)


class CurveStore(Store):
    """A store that scores a network whenever its pretraining has come on by an epoch, but for the last, which is the result."""

    hears: Callable[[int, State], None]

    def keep_progress(self, name: str, state: State) -> None:
        self.hears(state["epoch"], state["module"])
        super().keep_progress(name, state)


def trained(config: TrialConfig, store: CurveStore, device: torch.device) -> tuple[dict[str, float], list[list[str]]]:
    """Test scores, and the learning curve: epoch, validation accuracy and NLL."""
    data = dataset(config).to(device)
    kept = store.folder / f"curve-{pretraining_id(config, 'pretrain')}.jsonl"  # beside the store's progress, to be resumed too

    module = _copy(nn.Module(), config, data).to(device)

    def score_epoch(epochs: int, state: State) -> None:
        module.load_state_dict(state)
        found = score(module, config, data, "validation", device)
        study_files.append_line(kept, {"epoch": epochs} | found)
        print(f"epoch {epochs}: accuracy {found['accuracy']:.4f}, NLL {found['nll']:.4f}", flush=True)

    store.hears = score_epoch
    state, epochs = pretrained(config, data, store, device)
    if epochs:
        score_epoch(config.pretrain_epochs, state)
    module.load_state_dict(state)
    curve = {line["epoch"]: line for line in checked_files.read_lines(kept)}
    rows = [[str(epoch), f"{100 * scores['accuracy']:.2f}", f"{scores['nll']:.4f}"] for epoch, scores in sorted(curve.items())]
    return score(module, config, data, "test", device), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="cifar10", choices=["cifar10", "cifar100"])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--published", type=float, required=True, metavar="PERCENT", help="the public accuracy")
    parser.add_argument("--cache", type=Path, default=Path("results/trunks"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    config = TrialConfig(
        data=flags.data, data_root=flags.data_root, arch=flags.arch, validation_size=1000, pretrain_epochs=flags.epochs,
        seed=flags.seed, precision="float32" if flags.weights else "bf16", channels_last=True,
    )  # fmt: skip
    if flags.weights:
        found, curve = public(flags.weights, config, device), []
        what = f"public weights {flags.weights.name}, {config.precision}"
    else:
        found, curve = trained(config, CurveStore(flags.cache), device)
        what = f"{len(dataset(config).train):,} training images, {flags.epochs} epochs, SGD lr {config.lr}, {config.precision}"
    test = ", ".join(f"{name.upper() if len(name) < 4 else name} {_figure(name, found[name])}" for name in SCORES)
    lines = [
        f"## {flags.data}, {flags.arch}, {what}\n",
        f"Test: {test}; published accuracy {flags.published:.2f} %.\n",
        *([table(["epoch", "validation accuracy %", "NLL"], curve), ""] if curve else []),
        caption(f"{dataset(config).describe()}; 1 seed.", 1, []) + "\n",
    ]
    with flags.out.open("a") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


def _figure(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name in ("accuracy", "ece") else f"{value:.4f}"


if __name__ == "__main__":
    main()
