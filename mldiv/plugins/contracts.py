"""Say what an entry of a registry owes to those who use it, as a list of what it does not keep: nothing where it keeps all.

The tests of the package's own entries and `mldiv check-plugin` use the same functions.
"""

import inspect
import math
import sys
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets.sources import DATASETS, Source
from mldiv.evaluation.metrics import METRICS, Predictive
from mldiv.method.fusion import FUSIONS, PeerFusion
from mldiv.method.kernels import KERNELS, kernel_ranges
from mldiv.method.losses import PARAM_DISTANCES, TRANSFORMS, Distance, Transform
from mldiv.method.networks import build
from mldiv.method.posterior import GaussianPosterior
from mldiv.presets import configure
from mldiv.settings import kernel_settings
from mldiv.settings.setting import fields

#: Yields what is wrong, in words.
Faults = Iterator[str]

#: Of a distance over all weights, in the middle of what posteriors are apart.
RAW_SUM = 5000.0

#: Images by which a network is tried, in training and out of it.
TRIED = 3


def kernel(function: Callable[..., Tensor]) -> Faults:
    """Check similarities of a batch with itself: in [0, 1], symmetric, free of scale and order, finite gradients."""
    for parameter in list(inspect.signature(function).parameters.values())[2:]:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            yield f"its parameter {parameter.name} must come by keyword, with a default"
            return
    for rows in _batches():
        rows.requires_grad_()
        values = function(rows, rows)
        yield from _as_usual(values.detach(), len(rows))
        if values.shape != (len(rows), len(rows)):
            return
        (gradient,) = torch.autograd.grad(values.sum(), rows, allow_unused=True) if values.requires_grad else (None,)
        if gradient is None:
            yield "no gradient reaches the features: is its result detached?"
        elif not gradient.isfinite().all():
            yield "its gradient is not finite (look at equal rows: a root has none at 0)"
        fixed, order = rows.detach(), torch.arange(len(rows)).flip(0)
        if not torch.allclose(function(fixed[order], fixed[order]), values.detach()[order][:, order], atol=1e-6):
            yield "another order of the images gives other similarities"
        if not torch.allclose(function(5 * fixed, 5 * fixed), values.detach(), rtol=1e-6, atol=1e-6):
            yield "it is not free of scale: take it from the batch (a mean, a median), detached"


def kernel_parameters(name: str) -> Faults:
    """Check a kernel's own parameters at both ends of their ranges, as settings too; at a default no identity changes."""
    base = TrialConfig(kernel=name)
    for own, bounds in kernel_ranges(name).items():
        if own == "own":
            yield "its parameter own cannot be a setting: kernel_own holds all others; choose another name"
            continue
        called, default = kernel_settings.PREFIX + own, base.kernel_options[own]
        for end in (bounds.low, bounds.high):
            changed = base.replace(**{called: end})
            given = changed.kernel_options[own]
            for rows in _batches():
                values = KERNELS[name](rows, rows, **{own: given})
                yield from (f"{fault}, of {own} = {end:g}" for fault in _as_usual(values, len(rows)))
            if given != end or (changed.id == base.id) != (end == default):
                yield f"{called} = {end:g} is not what the kernel is given"
        if base.replace(**{called: default}).id != base.id:
            yield f"{called} at its default changes a trial's identity"


def _batches() -> Iterator[Tensor]:
    """Random rows; two that are equal and one that is opposite to them."""
    stream = torch.Generator().manual_seed(0)
    yield torch.randn(7, 3, dtype=torch.double, generator=stream)
    row = torch.randn(1, 4, dtype=torch.double, generator=stream)
    yield torch.cat([row, row, -row / 2, torch.randn(2, 4, dtype=torch.double, generator=stream)])


def of_similarities(values: Tensor, images: int, most: float = math.inf) -> Faults:
    """Check what no feature term can do without in a kernel's similarities of a batch with itself; most: the largest."""
    if values.shape != (images, images):
        yield f"similarities of {images} images have the shape {tuple(values.shape)}"
    elif not values.isfinite().all():
        yield "a similarity is not finite"
    elif values.min() < 0 or values.max() > most:
        yield f"similarities from {values.min():.3g} to {values.max():.3g}, not within [0, 1]"


def _as_usual(values: Tensor, images: int) -> Faults:
    """Check the same, and what else lets a kernel take another one's place."""
    yield from of_similarities(values, images, 1 + 1e-9)
    if values.shape == (images, images) and not torch.allclose(values, values.T):
        yield "it is not symmetric"


def of_module(module: object) -> Faults:
    """Check what is asked of a network before it sees an image: that it is a module, with weights, and says its channels."""
    if not isinstance(module, nn.Module):
        yield f"it makes a {type(module).__name__}, where a module of torch's is expected"
        return
    declared, name = getattr(module, "feature_channels", None), type(module).__name__
    if declared is None:
        yield f"{name} names no feature_channels, the channels of its features"
    elif not isinstance(declared, Collection):
        yield f"feature_channels is {declared!r}, where the channels of each of its features are expected, as (64, 128)"
    if any(map(is_lazy, module.parameters())):
        yield f"{name} has lazy layers, whose weights an image would decide: give their sizes"


def of_network(run: nn.Module, declared: Any, images: Tensor, classes: int, learns: bool = True) -> Faults:
    """Check what no trial can do without in a network: finite logits and features of its channels, which its weights move.

    run: the network, or its posterior; declared: its feature_channels; learns: whether gradients are asked for.
    """
    result = run(images)
    if not isinstance(result, tuple | list) or len(result) != 2 or isinstance(result[1], Tensor):
        yield "forward must return (logits, (features of a block, ...))"
        return
    logits, features = result
    if logits.shape != (len(images), classes):
        yield f"logits of {len(images)} images and {classes} classes have the shape {tuple(logits.shape)}"
    found = [feature.shape[1] for feature in features]
    if list(declared) != found:
        yield f"feature_channels is {declared}, its features have {found} channels"
    for what, values in (("logits", [logits]), ("features", features)):
        if not all(value.isfinite().all() for value in values):
            yield f"its {what} are not finite"
        if learns and not any(value.requires_grad for value in values):
            yield f"no gradient of its {what} reaches a weight: are they detached, or has it no weights that learn?"


def try_network(arch: str, width: float, classes: int, channels: int, size: int) -> None:
    """Refuse a network that gives no logits and features of images of this size, or has no weights to be Bayesian.

    Raises: ConfigError; whatever the network raises.
    """
    with torch.random.fork_rng(devices=[]):
        module = build(arch, classes=classes, channels=channels, width=width, seed=0, image_size=size)
        if faults := list(of_module(module)):
            raise ConfigError("; ".join(faults))
        declared, posterior = module.feature_channels, GaussianPosterior(module)
        for training in (True, False):
            images = torch.randn(TRIED, channels, size, size)
            if faults := list(of_network(posterior.train(training), declared, images, classes, learns=training)):
                raise ConfigError("; ".join(faults))


def network(name: str) -> Faults:
    """Check a network of MODELS on small images: logits, features, their channels, a start that its seed alone decides."""
    module, again = (build(name, classes=5, channels=1, seed=3, image_size=8) for _ in range(2))
    images = torch.randn(3, 1, 8, 8)
    if found := list(of_module(module)) or list(of_network(module.eval(), module.feature_channels, images, 5)):
        yield from found
        return
    if any(not torch.equal(value, again.state_dict()[key]) for key, value in module.state_dict().items()):
        yield "two of the same seed differ: draw initial weights from torch's random state alone"
    module(images)[0].square().sum().backward()
    if idle := [key for key, value in module.named_parameters() if value.grad is None]:
        yield f"{idle[0]} has no gradient"


def distance(entry: Distance) -> Faults:
    """Check a distance of posteriors: a sum over weights, from 0 on, 0 of equals, that pushes; symmetric or infinite where it
    says so."""
    if not isinstance(entry, Distance):
        yield "it is a bare function: enter a Distance(function, symmetric=...)"
        return
    stream = torch.Generator().manual_seed(0)
    first, second = ((torch.randn(9, generator=stream), torch.rand(9, generator=stream) + 0.1) for _ in range(2))
    value, back = entry.function(*first, *second), entry.function(*second, *first)
    if value.dim() or not value.isfinite() or value < 0:
        yield f"of two posteriors it gives {value}, where a number from 0 on is expected"
        return
    own_mean, own_sigma = (part.clone().requires_grad_() for part in first)
    none = entry.function(own_mean, own_sigma, *first)
    if abs(none.item()) > 1e-5:
        yield "of equal posteriors it is not 0"
    pulls = torch.autograd.grad(none, (own_mean, own_sigma), allow_unused=True) if none.requires_grad else ()
    if not all(pull is None or pull.isfinite().all() for pull in pulls):
        yield "its gradient is not finite where a weight is the same in both (a root, an acosh: add a little before it)"
    twice = entry.function(*(torch.cat([part, part]) for part in (*first, *second)))
    if abs(twice - value) < abs(twice - 2 * value):
        yield f"it is no sum over weights: of the weights twice over it gives {twice / value:.3g} times as much, in place of 2"
    if entry.symmetric and not torch.allclose(value, back):
        yield "it says that it is symmetric, and is not"
    mean, sigma = (part.clone().requires_grad_() for part in first)
    value = entry.function(mean, sigma, *second)
    (push,) = torch.autograd.grad(value, mean, allow_unused=True) if value.requires_grad else (None,)
    if push is None or not push.isfinite().all() or not push.any():
        yield "its gradient in the means is missing, 0 or not finite, of two posteriors apart"
    noiseless = entry.function(first[0], torch.zeros(9), second[0], torch.zeros(9))
    if not noiseless.isfinite() and not entry.needs_noise:
        yield f"of networks without noise it gives {noiseless}, and it does not say needs_noise=True"


def transform(entry: Transform) -> Faults:
    """Check what is minimised of a distance: finite, falling, with a finite slope at 0 too, none far off if it is bounded."""
    if not isinstance(entry, Transform):
        yield "it is a bare function: enter a Transform(function, bounded=...)"
        return
    points = torch.tensor([0.0, 0.3, 1.0, 4.0], requires_grad=True)
    values = torch.stack([entry.function(point) for point in points])
    (slopes,) = torch.autograd.grad(values.sum(), points)
    if not values.isfinite().all() or not slopes.isfinite().all():
        yield "value or slope is not finite at one of 0, 0.3, 1, 4"
    elif (slopes > 0).any() or not (values[1:] < values[:-1]).all():
        yield "it does not fall: minimised, it would make the distance smaller"
    raw = torch.tensor(RAW_SUM, requires_grad=True)
    (slope,) = torch.autograd.grad(entry.function(raw), raw)
    if entry.bounded != (float(slope) == 0):
        yield f"its slope at a raw sum, {RAW_SUM:g}, is {float(slope):g}, and it says bounded={entry.bounded}"


def fusion(function: Callable[..., PeerFusion]) -> Faults:
    """Check a fusion of three peers' features: a vector per image and peer, the same from the same seed."""
    stream = torch.Generator().manual_seed(0)
    features = (torch.randn(4, 3, 4, 4, generator=stream), torch.randn(4, 5, 2, 2, generator=stream))
    made = [function((3, 5), dim=8, heads=2, seed=1, peers=3) for _ in range(2)]
    first, second = (module([features] * 3) for module in made)
    if [tuple(vectors.shape) for vectors in first] != [(4, 8)] * 3:
        yield f"of 4 images and 3 peers it gives {[tuple(vectors.shape) for vectors in first]}, (4, 8) each is expected"
    elif any(not torch.equal(vectors, again) for vectors, again in zip(first, second, strict=True)):
        yield "two of the same seed differ"


def data_set(source: Source) -> Faults:
    """Check a data set's images and labels, in its own size."""
    source.check(None)
    for part, (images, labels) in zip(("training", "test"), source.read(None, source.size or 0), strict=True):
        if isinstance(images, Tensor) and (images.dtype != torch.uint8 or images.dim() != 4):
            yield f"{part} images are {images.dtype} {tuple(images.shape)}: uint8 [images, channels, height, width] is expected"
        if labels.dtype != torch.int64 or labels.dim() != 1 or len(labels) != images.shape[0]:
            yield f"{part} labels are {labels.dtype} {tuple(labels.shape)}: int64 [images] is expected"
        elif labels.min() < 0 or (source.classes is not None and labels.max() >= source.classes):
            yield f"{part} labels go from {labels.min()} to {labels.max()}, of {source.classes} classes"


def metric(function: Callable[[Predictive, Tensor], Tensor]) -> Faults:
    """Check a score of predictions: one finite number, the same in another order of the images."""
    stream = torch.Generator().manual_seed(0)
    probabilities = torch.randn(40, 4, generator=stream).softmax(-1)
    expected = torch.special.entr(probabilities).sum(-1) * 0.9
    labels, order = torch.randint(4, (40,), generator=stream), torch.randperm(40, generator=stream)
    value = float(function(Predictive(probabilities, expected), labels))
    if not math.isfinite(value):
        yield f"it gives {value} where all predictions are finite"
    elif abs(value - float(function(Predictive(probabilities[order], expected[order]), labels[order]))) > 1e-6:
        yield "another order of the images gives another score"


def column(entry: Any) -> Faults:
    """Check that a column of the analysis, which stands above what mldiv may import, stands in a table that there is."""
    groups = getattr(sys.modules.get(type(entry).__module__), "GROUPS", {})
    if entry.group not in groups:
        yield f"its group {entry.group!r} is none of {', '.join(groups)}"


def study(name: str, entry: Any) -> Faults:
    """Check that a study can be planned: its name, its arms' settings, whom they are compared with, what is searched."""
    if entry.name != name:
        yield f"it is entered as {name!r} and calls itself {entry.name!r}"
    base = configure("demo", {}, entry.settings)
    arms = entry.own_arms(base)
    for arm, changes in arms.items():
        try:
            base.replace(**changes)
        except ConfigError as error:
            yield f"arm {arm!r}: {error}"
    yield from entry.faults(list(arms))
    known = fields(TrialConfig) | kernel_settings.parameters()
    for item in entry.searched:
        if item not in entry.own_ranges() and item != "kernel_*" and not (item in known and known[item].metadata["search"]):
            yield f"it searches {item!r}, which is no setting with a range"


#: How an entry of each kind of `loading.REGISTRIES` is checked, by its name.
CONTRACTS: dict[str, Callable[[str], Faults]] = {
    "kernel": lambda name: chain(kernel(KERNELS[name]), kernel_parameters(name)),
    "distance": lambda name: distance(PARAM_DISTANCES[name]),
    "transform": lambda name: transform(TRANSFORMS[name]),
    "fusion": lambda name: fusion(FUSIONS[name]),
    "network": network,
    "data set": lambda name: data_set(DATASETS[name]),
    "metric": lambda name: metric(METRICS[name]),
    "column": lambda name: column(sys.modules["analysis.records.columns"].COLUMNS[name]),
    "study": lambda name: study(name, sys.modules["mldiv.study"].STUDIES[name]),
}


def faults(kind: str, name: str) -> list[str]:
    """Return what an entry does not keep, each once; an error that it raises is one more."""
    found: dict[str, None] = {}
    try:
        for fault in CONTRACTS[kind](name):
            found[fault] = None
    except Exception as error:
        found[f"raises {type(error).__name__}: {error}"] = None
    return list(found)
