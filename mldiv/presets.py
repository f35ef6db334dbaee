"""Define a study's defaults at four sizes: a demonstration, an hour on a laptop with digits or real images, the paper's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mldiv.config import TrialConfig


@dataclass(frozen=True)
class Preset:
    """The defaults of a study.

    settings: of every trial; samples: Optuna trials per searched arm; seeds: of the repeats, how many; cut: further settings
    for real image data, so that the size stays what the preset promises (see `cut_of`); cpus, gpus: of a worker.
    """

    settings: dict[str, Any]
    samples: int
    seeds: int
    cut: dict[str, Any]
    cpus: float = 1.0
    gpus: float = 0.0


PRESETS: dict[str, Preset] = {
    "demo": Preset(
        {"data": "digits", "arch": "resnet8", "width": 0.5, "epochs": 12, "switch_epoch": 8, "pretrain_epochs": 6}
        | {"batch_size": 64, "lr": 0.05, "validation_fraction": 0.15, "validation_samples": 2, "gradient_points": 0.25},
        samples=3,
        seeds=3,
        cut={"train_size": 1024, "validation_size": 256, "test_size": 512},
    ),
    "quick": Preset(
        {"data": "digits", "arch": "resnet20", "width": 0.5, "epochs": 45, "switch_epoch": 30, "pretrain_epochs": 20}
        | {"batch_size": 64, "lr": 0.05, "validation_fraction": 0.15, "validation_samples": 4, "gradient_points": 0.125}
        | {"shift_share": 0.1},
        samples=6,
        seeds=8,
        cut={"train_size": 8192, "validation_size": 1024, "test_size": 4096},
    ),
    "small": Preset(
        {"data": "cifar10", "arch": "resnet8", "width": 0.5, "epochs": 24, "switch_epoch": 16, "pretrain_epochs": 10}
        | {"batch_size": 128, "lr": 0.1, "channels_last": True, "validation_samples": 2}
        | {"gradient_points": 0.5, "shift_share": 0.1},
        samples=4,
        seeds=5,
        cut={"train_size": 10_000, "validation_size": 2_000, "test_size": 4_000},
    ),
    "paper": Preset(
        {"data": "cifar100", "arch": "resnet20", "epochs": 300, "switch_epoch": 200, "pretrain_epochs": 200}
        | {"batch_size": 128, "lr": 0.1, "precision": "bf16", "channels_last": True, "gradient_points": 1.0}
        | {"shift_share": 0.1},
        samples=20,
        seeds=8,
        cut={},
        cpus=4.0,
        gpus=1.0,
    ),
}

#: By network, settings by which it learns and the presets' it does not [chosen, measured: docs/concepts.md]. A ViT
#: has so many weights that kl_weight 0.3 holds the peer from scratch at chance on digits.
RECIPES: dict[str, dict[str, Any]] = {
    "vit": {"optimizer": "adamw", "lr": 0.003, "warmup_epochs": 2.0, "kl_weight": 0.01},
}


def configure(name: str, overrides: dict[str, Any], study: Mapping[str, Any] | None = None) -> TrialConfig:
    """Make a preset's trial configuration with a study's settings and the command line's ``overrides`` (None: not given).

    The network's recipe, if it has one, goes before the preset's settings, a study's and the command line's before it.

    Raises: KeyError for an unknown name, ConfigError for an impossible value.
    """
    preset = PRESETS[name]
    given = {key: value for key, value in overrides.items() if value is not None}
    asked = dict(study or {}) | given
    cut = cut_of(preset, asked.get("data", preset.settings["data"]))
    recipe = RECIPES.get(asked.get("arch", preset.settings["arch"]), {})
    return TrialConfig().replace(**(preset.settings | cut | recipe | asked))


def cut_of(preset: Preset, data: str) -> dict[str, Any]:
    """Return how many images a preset takes of a data set, by setting: upper bounds, all of a smaller one."""
    return preset.cut if data != "digits" else {}
