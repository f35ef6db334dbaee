"""What a run of a study is refused for, before any work: data, networks, places. Flags by themselves: `flags.check_flags`.

Every check raises ConfigError, naming the flag or setting, or DataError, naming the file.
"""

import math
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mldiv.cluster.nodes import local_resources
from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets import corruptions, ood, sources
from mldiv.datasets.corruptions import FILE_PIXELS
from mldiv.datasets.files import DataError
from mldiv.datasets.splits import Shapes
from mldiv.evaluation.metrics import METRICS, Predictive, entropy, scores
from mldiv.method.alignment import channel_groups
from mldiv.method.kernels import KERNELS
from mldiv.method.losses import PARAM_DISTANCES
from mldiv.method.networks import build
from mldiv.plugins.contracts import of_module, of_similarities, try_network
from mldiv.plugins.loading import described, is_own, own_files
from mldiv.records.checked_files import existing
from mldiv.settings import kernel_settings
from mldiv.storage.object_store import Location, Remote, is_url
from mldiv.sweep.arm import Arm
from mldiv.sweep.search_space import effective
from mldiv.sweep.selection import DEFAULT_RULE
from mldiv.training.lanes.step import obstacle
from mldiv.training.loop import make_fusion, steps_per_epoch
from mldiv.training.pretraining import from_file
from mldiv.training.worker_cache import dataset

#: Test images by which metrics are tried, from all over the split: their labels may be sorted.
SCORED = 256

#: Vectors as long as the weights that training holds for a peer: means, rhos, their gradients and momenta.
VECTORS = 6
FLOAT_BYTES = 4


def check_workers(flags: Namespace, configs: Sequence[TrialConfig]) -> None:
    """Refuse more workers than this machine has processors (a cluster is asked later), or than can share a batch evenly."""
    if flags.address == "local" and flags.workers > (cpus := int(local_resources()["CPU"])):
        raise ConfigError(f"--workers {flags.workers}: this machine has {cpus} processors; take at most so many")
    for config in configs:
        if config.batch_size % flags.workers:
            raise ConfigError(f"--workers {flags.workers}: the batch of {config.batch_size} cannot be shared evenly")
        if config.diverse and config.batch_size // flags.workers < 2:
            raise ConfigError(f"--workers {flags.workers}: of the batch of {config.batch_size} each needs at least two images")


def check_lanes(lanes: int | None, configs: Sequence[TrialConfig]) -> None:
    """Refuse trials that cannot be stepped together although that is asked for; ``--lanes auto`` trains them alone."""
    for config in configs if lanes is not None and lanes > 1 else ():
        if (why := obstacle(config)) is not None:
            raise ConfigError(f"--lanes {lanes}: {why}")


def check_data(base: TrialConfig, download: bool) -> None:
    """Refuse images that are not there or damaged, of another kind or corrupted ones too; download them where asked to."""
    root = Path(base.data_root) if base.data_root else None
    sources.check(base.data, root, download=download)
    ood.check(base.ood, root, base.data)
    if base.shift_share and base.shift_images == "files":
        if base.image_size not in (None, FILE_PIXELS):
            raise ConfigError(f"shift_images = 'files': those have {FILE_PIXELS} pixels a side, image_size = {base.image_size}")
        corruptions.check_files(corruptions.published(base.data, base.data_root), dataset(base).test.labels)


def check_other_images(base: TrialConfig) -> None:
    """Refuse folders of images of another kind in which one that trials will be scored by cannot be read, their last step."""
    root = Path(base.data_root) if base.data_root else None
    for name in ood.names(base.ood):
        if name.partition("@")[0] == "image_folder":
            ood.in_place_of_test(dataset(base), name, root)


def check_metrics(base: TrialConfig) -> None:
    """Refuse a metric that cannot score predictions of these classes, with which every trial would end: a plug-in's."""
    data = dataset(base)
    labels = data.test.truth[:: math.ceil(len(data.test) / SCORED)]
    logits = torch.randn(len(labels), data.shapes.classes, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(-1)
    predictive = Predictive(probabilities, 0.9 * entropy(probabilities), logits.logsumexp(-1), logits.amax(-1))
    for name in METRICS:
        try:
            scores(predictive, labels, (name,))
        except Exception as error:
            raise ConfigError(
                f"metric {name!r} cannot score predictions of {data.shapes.classes} classes: {type(error).__name__}: {error}"
            ) from error


def check_arms(arms: Sequence[Arm], searches: bool) -> None:
    """Refuse arms that are one and the same, which a table would show as different methods.

    searches: whether what is searched is suggested at all.
    """
    seen: dict[tuple[Any, ...], str] = {}
    for arm in arms:
        searched = arm.searched if searches else ()
        what = effective(arm.config, searched), searched, arm.scored_by
        if what in seen:
            raise ConfigError(
                f"the arms {seen[what]!r} and {arm.name!r} are the same trials with these settings: mend them where the study "
                "is defined, or take back the --set that makes them so, or choose arms by --arm"
            )
        seen[what] = arm.name


def check_terms(arms: Sequence[Arm]) -> None:
    """Refuse a kernel whose similarities are none, and a distance that is no number, by which stage two would fail or be
    nonsense: a plug-in's."""
    stream = torch.Generator().manual_seed(0)
    rows, positive = torch.randn(7, 3, generator=stream), torch.rand(4, 9, generator=stream)
    for arm in arms:
        for name in KERNELS if "kernel" in arm.searched else (arm.config.kernel,):
            with _named(f"kernel {name!r}"):
                faults = list(of_similarities(KERNELS[name](rows, rows, **arm.config.replace(kernel=name).kernel_options), 7))
                if faults:
                    raise ConfigError("; ".join(faults))
        with _named(f"distance {arm.config.param_distance!r}"):
            value = PARAM_DISTANCES[arm.config.param_distance].function(*positive)
            if value.shape or not value.isfinite():
                said = f"has the shape {tuple(value.shape)}" if value.shape else f"is {value:g}"
                raise ConfigError(f"of two posteriors it {said}, where one finite number is expected")


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say of an error what it is an error of."""
    try:
        yield
    except Exception as error:
        said = str(error) if isinstance(error, ConfigError) else described(error, *own_files())
        raise ConfigError(f"{what}: {said}; mldiv check-plugin says what is asked of it") from error


def check_heard(
    given: dict[str, Any], base: TrialConfig, usual: TrialConfig, arms: Callable[[TrialConfig], list[Arm]],
    held: Callable[[], dict[str, Any]],
) -> None:  # fmt: skip
    """Refuse a setting of --set that changes no trial, since every arm has its own.

    usual: the configuration without any --set; arms: makes them for a configuration; held: gives the settings of the study
    that the command continues, which it must name although they act on nothing.
    """
    made = arms(base)
    for name, value in given.items():
        takers = kernel_settings.owners(name)
        if takers and not any("kernel" in arm.searched or arm.config.kernel in takers for arm in made):
            raise ConfigError(
                f"--set {name}={value}: a parameter of {', '.join(takers)}, a kernel that no arm of this study has"
            )
        try:
            others = arms(base.replace(**{name: getattr(usual, name)}))
        except (ConfigError, DataError):
            continue  # the others, or the data, need it
        same = all(
            (effective(arm.config, arm.searched), arm.searched) == (effective(other.config, other.searched), other.searched)
            for arm, other in zip(made, others, strict=True)
        )
        if same and value != getattr(usual, name) and held().get(name) != value:
            raise ConfigError(f"--set {name}={value}: every arm of this study has its own {name}; leave it out")


def check_trials(configs: Sequence[TrialConfig], memory: float = math.inf) -> None:
    """Refuse arms whose data do not fill a batch, or whose network cannot be built for them, aligned where that is asked, or
    does not fit into ``memory`` bytes."""
    built: dict[tuple[Any, ...], nn.Module] = {}
    for config in configs:
        data = dataset(config)
        steps_per_epoch(config, data)
        shape = config.arch, config.width, data.classes, data.channels, data.train.images.shape[-1]
        if new := shape not in built:
            built[shape] = _outline(*shape)
            _check_declared(config.arch, built[shape])
        if config.param_alignment != "none":
            _check_alignment(built[shape])
        _check_memory(config, data.shapes, built[shape], memory)
        if new and is_own("network", config.arch):
            with _named(f"network {config.arch!r}"):
                try_network(*shape)


def check_pretrained(configs: Sequence[TrialConfig]) -> list[str]:
    """Return what is said of a file of weights, once for each network; refuse one from which no arm's peers start."""
    said: dict[str, None] = {}
    for config in configs:
        if config.pretrained and config.pretrained_peers:
            said[from_file(config, dataset(config).shapes, "pretrain")[1]] = None
    if not said and any(config.pretrained for config in configs):
        raise ConfigError("--pretrained: no arm's peers start from it; set initialization to another than scratch")
    return [f"pretrained peers start from {words}" for words in said]


def check_precision(configs: Sequence[TrialConfig], emulated: bool) -> str:
    """Return what is said of trials in bf16 where that is ``emulated`` (`nodes.emulates_bf16`); nothing otherwise."""
    if not emulated or all(config.precision == "float32" for config in configs):
        return ""
    return (
        "precision = 'bf16', for which this machine's processor has no instructions: a step takes several times as long as by "
        "--set precision=float32"
    )


def check_selected(arms: Sequence[Arm], stop_early: bool, samples: int) -> str:
    """Refuse what is chosen by validation images where there are none; return what is not known without them."""
    if not (without := [arm for arm in arms if arm.config.validation_size == 0]):
        return ""
    if samples and (searching := [arm.name for arm in without if arm.searched]):
        raise ConfigError(
            f"validation_size = 0: the search of arm {searching[0]!r} chooses by validation images: --trials 0 searches nothing"
        )
    if stop_early:
        raise ConfigError("validation_size = 0: --stop-early stops trials by validation images: leave it out")
    return "no validation images: temperatures and recalibrations are not fitted, curves and columns that need them stay empty"


def idle_flags(flags: Namespace, searches: bool) -> str:
    """Return what is said of flags of a search where there is none; the record keeps them, since the folder may grow by one."""
    given = {
        "--stop-early": flags.stop_early,
        "--open-suggestions": flags.open_suggestions is not None,
        "--select": flags.select != DEFAULT_RULE,
    }
    idle = "" if searches else ", ".join(flag for flag, is_given in given.items() if is_given)
    return f"nothing is searched (--trials above 0 does): {idle} change nothing yet" if idle else ""


def idle_root(base: TrialConfig) -> str:
    """Return what is said of a --data-root in which nothing is looked for: whoever names their images there misses --data."""
    others = {name for name in ood.names(base.ood) if name not in ("photographs", "noise")}
    idle = base.data_root is not None and sources.DATASETS[base.data].layout.startswith("none") and not others
    return f"--data-root: {base.data} need none, and nothing is read there; --data says what it holds" if idle else ""


def _outline(arch: str, width: float, classes: int, channels: int, size: int) -> nn.Module:
    """A network's shapes, without its weights; with them where a plug-in's asks for values while it is made."""
    make = partial(build, arch, classes=classes, channels=channels, width=width, seed=0, image_size=size)
    try:
        with torch.device("meta"):
            return make()
    except Exception as error:
        if not is_own("network", arch):
            raise (ConfigError(str(error)) if isinstance(error, ValueError) else error) from None
    with _named(f"network {arch!r}"):
        return make()


def _check_declared(arch: str, network: nn.Module) -> None:
    """Refuse what is no module, or does not name its features' channels, for which the fusion is made."""
    with _named(f"network {arch!r}"):
        if faults := list(of_module(network)):
            raise ConfigError("; ".join(faults))


def _check_alignment(network: nn.Module) -> None:
    try:
        channel_groups(network)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_memory(config: TrialConfig, shapes: Shapes, network: nn.Module, memory: float) -> None:
    """Refuse what does not fit, activations aside."""
    with torch.device("meta"):
        fusion = make_fusion(config, shapes, cast(Any, network.feature_channels))
    weights, fused = (sum(value.numel() for value in module.parameters()) for module in (network, fusion))
    samples = max(config.validation_samples, config.test_samples)
    need = FLOAT_BYTES * (weights * (VECTORS * config.peers + samples * (config.peers + 1)) + 3 * fused)
    if need > memory:
        raise ConfigError(
            f"{config.arch} at width {config.width:g} has {weights:,} weights, its fusion {fused:,}: {config.peers} peers in "
            f"training and {samples} samples of their weights take {need / 1e9:,.0f} GB, here are {memory / 1e9:,.0f}; lower "
            "width, fusion_dim, peers, validation_samples or test_samples"
        )


def check_writable(flag: str, place: Location, dry_run: bool) -> None:
    """Refuse a place that cannot be written. A folder is made, unless this is a dry run."""
    try:
        if is_url(place):
            Remote(place).try_writing()
            return
        path = Path(place)
        if not dry_run:
            path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=existing(path)):
            pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--{flag} {place}: cannot be written ({why}); choose another folder") from None


def check_links(folder: Path) -> None:
    """Refuse a study's folder in which a folder of trials is a link: they would be trained into wherever it leads."""
    trials = folder / "trials"
    for path in (trials, *(trials.iterdir() if trials.is_dir() and not trials.is_symlink() else ()), folder / "ray"):
        if path.is_symlink() or (path / "store").is_symlink():
            raise ConfigError(f"{path} is a link, or holds one, which leads out of the study's folder: remove it")
