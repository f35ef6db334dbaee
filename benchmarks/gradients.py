"""Does every diversity term act, all through stage two? Its gradient beside the cross-entropy's, by form, on real images.

One pair is trained through stage one, then from there with each form of the terms; gradients are recorded as any trial can
record them (`gradient_points`). How much of the feature KL's rise is the networks' own: the KL at the end through the fusion as
it was at the switch, less that at the switch, over the whole rise.

    python benchmarks/gradients.py --data-root DIR     # writes benchmarks/gradients.md
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from timing import caption, table

from mldiv.config import TrialConfig
from mldiv.evaluation.predictive import feature_kl
from mldiv.method.pair import MutualPair
from mldiv.presets import configure
from mldiv.records import checked_files
from mldiv.records.contents import TrialRecord
from mldiv.storage.cache import Store
from mldiv.training.fit import fit
from mldiv.training.loop import make_pair
from mldiv.training.worker_cache import dataset

CPU = torch.device("cpu")
OLD = {
    "alpha": 1.0, "beta": 2.0, "weighting": "raw", "stage_schedule": "continue", "fusion": "shared",
    "fusion_training": "diversity", "param_transform": "exp", "feature_transform": "exp", "prior_mode": "absolute",
    "kl_weight": 0.1,
}  # fmt: skip
RESTART = OLD | {"stage_schedule": "restart"}
SHARES = RESTART | {"weighting": "gradient", "alpha": 0.2, "beta": 0.2}
LOG = SHARES | {"param_transform": "negative_log", "feature_transform": "negative_log"}
FORMS: dict[str, dict] = {
    "0.5.0: exp(-F/s), raw weights, fusion learns the term, one schedule": OLD,
    "the same, stage two restarts": RESTART,
    "the same, fusion frozen": RESTART | {"fusion": "frozen"},
    "shares of the gradient, fusion learns the task": SHARES | {"fusion_training": "task"},
    "-log F, shares, fusion learns the term": LOG,
    "-log F, shares, fusion learns the opposite": LOG | {"fusion_training": "adversarial"},
    "-log F, shares, fusion learns the task before stage two": LOG | {"fusion_training": "switch"},
    "-log F, shares, fusion learns the task": LOG | {"fusion_training": "task"},
    "the defaults: the same with the prior of each layer's size": {},
    "the defaults at half the weights": {"alpha": 0.1, "beta": 0.1},
    "the defaults without diversity": {"alpha": 0.0, "beta": 0.0},
}


def measure(name: str, config: TrialConfig, out: Path) -> list[str]:
    """Train the form's trial (or read it), and return its row."""
    record = fit(config, out / config.id, store=Store(out / "store"))
    lines = checked_files.read_lines(out / config.id / "metrics.jsonl")
    lines = [line for line in lines if line["epoch"] >= config.switch_epoch]
    shares = {
        term: np.array([_share(point, term) for line in lines for point in line["gradients"]]) for term in ("param", "feature")
    }
    cells = [
        f"{share[0]:.3f}, {share.min():.2g}, {share[-1]:.2g}" if np.isfinite(share).all() else "" for share in shares.values()
    ]
    pair = record.test["pair"]
    rise = _rise(config, record, out) if config.diverse else ["", ""]
    return [
        name,
        *cells,
        *rise,
        f"{lines[-1]['diversity']['disagreement']:.3f}",
        f"{pair['nll']:.3f}",
        f"{pair['accuracy']:.3f}",
    ]


def _share(point: dict, term: str) -> float:
    parts = point.get(f"{term}_diversity", {})
    return sum(parts.get(f"mean_{number}", np.nan) for number in (1, 2)) / sum(
        point["nll"][f"mean_{number}"] for number in (1, 2)
    )


def _rise(config: TrialConfig, record: TrialRecord, out: Path) -> list[str]:
    """The feature KL at the switch and at the end, and the networks' own share of the rise."""
    data = dataset(config)
    ended, at_switch = make_pair(config, data.shapes), make_pair(config, data.shapes)
    saved = torch.load(out / config.id / "checkpoint.pt", weights_only=True)["pair"]
    ended.load_state_dict(saved)
    if config.fusion_training == "switch":
        at_switch.fusion.load_state_dict(ended.fusion.state_dict())
    networks = {name: value for name, value in saved.items() if name.startswith("peer_")}
    at_switch.load_state_dict(at_switch.state_dict() | networks)
    start = record.switch["feature_kl"]
    end, own = (_feature_kl(config, pair) for pair in (ended, at_switch))
    return [f"{start:.3f}, {end:.3f}", f"{(own - start) / (end - start):.2f}"]


def _feature_kl(config: TrialConfig, pair: MutualPair) -> float:
    return float(feature_kl(config, pair, dataset(config), "train", epoch=config.epochs, device=CPU, own=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--train-size", type=int, default=10_000)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--work", type=Path, default=Path("results/gradients"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    torch.set_num_threads(1)
    given = {"data": flags.data, "data_root": flags.data_root, "train_size": flags.train_size, "image_size": flags.image_size}
    base = configure("small", given).replace(
        test_split="development", ood="none", test_samples=8, gradient_points=4.0, initialization="scratch", seed=1
    )
    rows = []
    for name, changes in FORMS.items():
        rows.append(measure(name, base.replace(**changes), flags.work))
        print(" | ".join(rows[-1]), flush=True)
    head = [
        "form", "parameter term: first, lowest, last", "feature term: first, lowest, last", "feature KL: switch, end",
        "networks' share", "disagreement", "NLL", "accuracy",
    ]  # fmt: skip
    what = f"{dataset(base).describe()}; preset small, both peers from scratch, {base.precision}, 1 seed, {len(rows)} trials."
    text = (
        "Length of each term's weighted gradient in the peers' means as a share of the cross-entropy's, on a training batch "
        f"of {base.batch_size}, at four points of each of the {base.epochs - base.switch_epoch} epochs of stage two; the "
        "term's own feature KL at the switch and at the end, and the networks' own share of its rise (through the fusion as it "
        "was at the switch); scores of the pair on images held out from the training set.\n\n"
        f"{table(head, rows)}\n\n{caption(what, 1, [])}\n"
    )
    flags.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
