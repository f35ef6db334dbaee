"""Measure what a step costs, in time and memory, and from that how long a study takes."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mldiv.config import TrialConfig
from mldiv.datasets import ood
from mldiv.datasets.splits import ImageData
from mldiv.evaluation import gradients, predictive
from mldiv.method.pair import MutualPair, Terms
from mldiv.storage.files import save_atomically
from mldiv.training.final_scores import cells, shifted_images
from mldiv.training.loop import epoch_batches, make_pair, steps_per_epoch
from mldiv.training.worker_cache import dataset

#: Rounds whose median counts, after one that warms up; how long after the first no further one begins.
ROUNDS = 5
LONGEST_SECONDS = 4.0

#: How long until a standing worker group takes its first trial (docs/concepts.md, "Worker groups").
GROUP_START_SECONDS = 30.0
#: How long a study in one process takes besides its training: libraries, the report.
IN_PROCESS_SECONDS = 10.0
#: Steps whose median is the time of one when a study is estimated.
ESTIMATE_STEPS = 3


def measure_all(configs: list[TrialConfig]) -> list[dict[str, Any]]:
    """Measure a step of each configuration in order, on this process's GPU or with one thread of its processor."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [measure_step(config, device) for config in configs]


def measure_step(config: TrialConfig, device: torch.device) -> dict[str, Any]:
    """Measure a step and return a line of scaling.jsonl: sizes, seconds and bytes.

    seconds: medians of a step (forward, backward, without optimiser) in stage one and two, and of each loss term alone
    (forward and backward to what it depends on).

    bytes: "state" is means, rhos, their gradients and momenta, and all else that is trained; "stage_1" and "stage_2" are what a
    step holds at once beyond that: on a GPU measured as the peak, on a processor counted as the tensors kept for backward.
    """
    pair, images, labels = _pair(config, device)
    noise = pair.draw_noise()
    pair.set_scales(torch.tensor(0.01, device=device))

    def step(diverse: bool) -> None:
        pair.zero_grad(set_to_none=True)
        with predictive.precision(config, device):
            loss, _ = pair(images, labels, noise, diverse)
        loss.backward()

    stages = {f"stage_{stage}": (lambda diverse=stage == 2: step(diverse)) for stage in (1, 2)}
    return {
        "arch": config.arch,
        "width": config.width,
        "batch_size": config.batch_size,
        "weights": pair.peers[0].mean.numel(),
        "fusion_dim": config.fusion_dim,
        "precision": config.precision,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": _seconds(stages | _terms(pair, images), device),
        "bytes": {"state": _state_bytes(pair)} | {name: _bytes(run, device) for name, run in stages.items()},
    }


def _pair(config: TrialConfig, device: torch.device) -> tuple[MutualPair, Tensor, Tensor]:
    """Make a pair at its random start, and a batch of noise of the data's shape."""
    shapes = dataset(config).shapes
    size, generator = shapes.image_size, torch.Generator().manual_seed(0)
    images = torch.randn(config.batch_size, shapes.channels, size, size, generator=generator).to(device)
    labels = torch.randint(shapes.classes, (config.batch_size,), generator=generator).to(device)
    images = images.contiguous(memory_format=predictive.layout(config))
    return make_pair(config, shapes, device), images, labels


def _terms(pair: MutualPair, images: Tensor) -> dict[str, Callable[[], None]]:
    """Make each term of the loss, forward and backward, cut off from the networks: by name, to be timed."""
    outputs = [peer(images, weights=peer.mean) for peer in pair.peers]
    logits = [peer_logits.detach().requires_grad_() for peer_logits, _ in outputs]
    features = [tuple(part.detach().requires_grad_() for part in parts) for _, parts in outputs]
    sigmas = [peer.sigma.detach().requires_grad_() for peer in pair.peers]

    def run(terms: Callable[[], Terms], name: str) -> Callable[[], None]:
        def once() -> None:
            pair.zero_grad(set_to_none=True)
            torch.stack(terms()[name]).sum().backward()

        return once

    found = {"kl_to_prior": run(lambda: pair.prior_terms(sigmas), "kl")} if pair.peers[0].noisy else {}
    if len(pair.peers) > 1:
        found["logit_mutual"] = run(lambda: pair.mutual_terms(logits), "mutual")
        found["param_distance"] = run(lambda: pair.param_terms(sigmas), "param_diversity")
        found["feature_kl"] = run(lambda: pair.feature_terms(features), "feature_diversity")
    return found


def _seconds(
    runs: dict[str, Callable[[], Any]],
    device: torch.device,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Measure the median seconds of each, interleaved so that a busy moment of the machine does not fall on one alone."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for round in range(rounds + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round:
                times[name].append(clock() - started)
        if round and time.perf_counter() - began > LONGEST_SECONDS:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def _state_bytes(pair: MutualPair) -> int:
    trained = sum(value.numel() * value.element_size() for value in pair.parameters())
    return 3 * trained + sum(value.numel() * value.element_size() for value in pair.buffers())


def _bytes(run: Callable[[], None], device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with _kept() as kept:
        run()
    return sum(kept.values())


@contextmanager
def _kept() -> Iterator[dict[int, int]]:
    """Collect the bytes of every storage that is kept for backward meanwhile, by its address."""
    kept: dict[int, int] = {}
    held = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


@dataclass
class Work:
    """The epochs that trials not recorded yet ask for: trained without and with diversity terms, taken from the store; of
    pretraining."""

    trials: int = 0
    first_stage: int = 0
    second_stage: int = 0
    shared: int = 0
    pretraining: int = 0

    @property
    def trained(self) -> int:
        """Epochs of both stages that are trained."""
        return self.first_stage + self.second_stage

    @property
    def asked(self) -> int:
        """Epochs of both stages, trained or taken from the store."""
        return self.trained + self.shared


@dataclass(frozen=True)
class Cost:
    """The seconds on one worker: an epoch of each stage, one of pretraining; a trial's switch and test, which it has once."""

    stage_1: float
    stage_2: float
    pretraining: float
    test: float

    def seconds(self, work: Work) -> float:
        """Return how many seconds the work takes on one worker."""
        return (
            work.first_stage * self.stage_1
            + work.second_stage * self.stage_2
            + work.pretraining * self.pretraining
            + work.trials * self.test
        )


def measure(
    config: TrialConfig, threads: int = 1, device: torch.device | None = None, clock: Callable[[], float] = time.perf_counter
) -> Cost:
    """Time a few steps of each stage and what else an epoch has, on this machine's processor or GPU.

    threads, device: those of a worker (default: one, and the GPU where there is one); clock: in seconds; that of the thread
    counts no time in which other programs have the processor.
    """
    torch.set_num_threads(threads)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = dataset(config)
    pair, batch = make_pair(config, data.shapes, device), next(epoch_batches(config, data, 0, "estimate", device))

    def seconds(run: Callable[[], Any], repeats: int = ESTIMATE_STEPS) -> float:
        return _seconds({"run": run}, device, repeats, clock)["run"]

    first, second = (seconds(partial(_train, config, pair, batch, diverse)) for diverse in (False, True))
    lengths = seconds(partial(gradients.measure, config, pair, [batch], epoch=0, diverse=config.diverse), repeats=1)
    split = "validation" if data.validation else "test"
    given: dict[str, Any] = {"epoch": 0, "device": device}
    predict = seconds(
        lambda: predictive.predictives(config, pair, data, split, samples=config.validation_samples, **given), repeats=1
    )
    epoch_end = seconds(lambda: _keep(pair), repeats=1) + config.gradient_points * lengths
    if data.validation:
        epoch_end += predict
    if data.validation and config.peers > 1:
        epoch_end += seconds(lambda: predictive.feature_kl(config, pair, data, split, **given), repeats=1)
    steps = steps_per_epoch(config, data)
    passes = predict / (len(data.splits[split]) * max(1, config.validation_samples))
    at_switch = config.scale_batches * lengths if config.diverse and config.weighting == "gradient" else 0.0
    return Cost(
        steps * first + epoch_end,
        steps * second + epoch_end,
        steps * first / len(pair.peers),
        passes * final_passes(config, data) + at_switch,
    )


def final_passes(config: TrialConfig, data: ImageData) -> int:
    """Count the passes of all peers together that a trial's final scores take: each is an image with a weight sample."""
    tested = len(data.test) * (1 + len(ood.names(config.ood))) + cells() * shifted_images(config, data)
    if config.peers > 1:
        tested += min(len(data.train), len(data.test))
    return (tested + len(data.validation)) * config.test_samples + len(data.validation)


def _train(config: TrialConfig, pair: MutualPair, batch: tuple[Tensor, Tensor], diverse: bool) -> None:
    """A step of training, all but its optimiser, a few per cent, whose import takes seconds."""
    images, labels = batch
    with predictive.precision(config, images.device):
        loss, _ = pair(images, labels, pair.draw_noise(), diverse)
    pair.zero_grad()
    loss.backward()
    if config.clip_norm:
        for part in (*pair.peers, pair.fusion):
            torch.nn.utils.clip_grad_norm_(part.parameters(), config.clip_norm)


def _keep(pair: MutualPair) -> None:
    """Write a checkpoint: the pair, and as much once more for momentum."""
    state = pair.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        save_atomically(
            Path(folder) / "checkpoint.pt", {"pair": state, "momentum": [value.clone() for value in state.values()]}
        )
