"""What only a GPU can show of this project, each in seconds: `on_gpu.py` runs them, and so do the tests marked ``gpu``.

Every check takes the device and an empty folder, returns a sentence with what it saw, and raises AssertionError. On a processor
they show that they themselves work, with `Replayed` in the place of CUDA graphs.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mldiv.cluster.nodes import Resources
from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets.image_folder import FolderImages
from mldiv.evaluation.predictive import predictives
from mldiv.method.pair import MutualPair
from mldiv.records.contents import TrialRecord
from mldiv.storage.cache import Store
from mldiv.training.fit import fit
from mldiv.training.loop import let_fusion_learn, make_optimizer, make_pair, train_epoch
from mldiv.training.steps import choice
from mldiv.training.steps.choice import stage_step
from mldiv.training.worker_cache import Workspace, dataset

Check = Callable[[torch.device, Path], str]

#: A trial of digits in seconds: five steps an epoch.
TINY = TrialConfig().replace(
    data="digits", train_size=160, test_size=60, validation_size=60, arch="resnet8", width=0.25, epochs=4, switch_epoch=2,
    pretrain_epochs=1, batch_size=32, lr=0.05, validation_samples=2, test_samples=2, fusion_dim=16, scale_batches=2,
    ood="none", compile="graph",
)  # fmt: skip


class Replayed:
    """In the place of `CudaGraph`: what is captured is run again with every replay."""

    def warm_up(self, run: Callable[[], None]) -> None:
        run()

    def capture(self, run: Callable[[], Tensor]) -> Tensor:
        self.run, self.result = run, run().clone()
        return self.result

    def replay(self) -> None:
        self.result.copy_(self.run())


#: How far apart, by their size, weights begin whose training shows how much becomes of rounding.
MOVED = 1e-6


def weights_after(config: TrialConfig, device: torch.device, how: str, moved: float = 0.0) -> Tensor:
    """The trained weights after both stages; how: as of `choice.stage_step`; moved: at the start, by this share of their size.

    Raises: AssertionError where the steps are not made so.
    """
    workspace = Workspace(device)
    data = workspace.data(config)
    pair = workspace.pair(config.replace(compile=how), data)
    assert workspace.fallback is None or how != "on", workspace.fallback
    optimizer, stream = make_optimizer(config, pair), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in pair.parameters():
            value.mul_(1 + moved * torch.randn(value.shape, generator=stream).to(device))
    pair.set_scales(torch.tensor(0.01, device=device))
    for epoch in range(config.epochs):
        diverse = epoch >= config.switch_epoch
        if epoch in (0, config.switch_epoch):
            let_fusion_learn(config, pair, diverse)
            step = None  # the old graph goes first
            step, why = stage_step(config, pair, optimizer, data, diverse, device, how)
            assert why is None, why
        train_epoch(config, pair, optimizer, data, epoch, diverse, device, pair_step=step)
    return _weights(pair)


def _weights(pair: MutualPair) -> Tensor:
    return torch.cat([value.detach().flatten() for value in pair.parameters()])


def same_as_eager(device: torch.device, folder: Path, how: str = "graph", **changes: Any) -> str:
    """Steps in both stages, with the rate of each epoch: no further apart than eager ones that began a millionth apart.

    Their rounding differs, as that of the rates, which a graph has in float32, and training makes more and more of it: on a
    processor that rounds to TF32 steps that began so were 0.05 apart (0.02 with AdamW, 0.07 in bf16), and those that kept their
    first rates 0.31 (0.33, 0.31), their first images 0.66 (0.39, 0.66), their first noise 0.21 (0.09, 0.21).
    """
    config = TINY.replace(**{"lr": 0.005} | changes)
    eager, moved, found = (weights_after(config, device, kind, by) for kind, by in (("off", 0.0), ("off", MOVED), (how, 0.0)))
    way = (eager - _weights(make_pair(config, dataset(config).shapes, device))).norm()
    apart, usual = (float((value - eager).norm() / way) for value in (found, moved))
    assert apart <= 3 * usual + 0.02, f"{apart:.2g} of the way apart; eager runs that began {MOVED:g} apart are {usual:.2g}"
    return (
        f"{apart:.1g} of the way apart after {config.epochs * 5} steps; eager runs that began {MOVED:g} apart are {usual:.1g}"
    )


def trial(device: torch.device, folder: Path, **changes: Any) -> TrialRecord:
    config = TINY.replace(**changes)
    return fit(config, folder / config.id, store=Store(folder / "store"), workspace=Workspace(device))


def whole_trial(device: torch.device, folder: Path, **changes: Any) -> str:
    """A trial from pretraining to its scores; its record says with what it was trained."""
    record = trial(device, folder, **changes)
    assert record.status == "finished" and not record.notes, (record.status, record.reason, record.notes)
    if device.type == "cuda":
        known = record.environment
        assert known["steps"] == "graph" and known["cudnn"] and known["tf32"] and known["driver"] != "unknown", known
    return f"{100 * record.test['pair']['accuracy']:.0f} % right in {record.seconds:.0f} s"


def resumed_trial(device: torch.device, folder: Path) -> str:
    """A trial that stops after its first epoch of each stage goes on from there; to the bit on a processor."""
    config, stops = TINY, {0, 2}

    class Stop(BaseException):
        pass

    def report(line: dict[str, Any]) -> bool:
        if line["epoch"] in stops:
            stops.remove(line["epoch"])
            raise Stop
        return False

    for _ in range(3):
        try:
            found = fit(config, folder / "a", store=Store(folder / "s"), workspace=Workspace(device), report=report)
        except Stop:
            continue
    whole = trial(device, folder / "whole")
    nll, other = found.test["pair"]["nll"], whole.test["pair"]["nll"]
    assert not stops and abs(nll - other) <= (0.1 * other if device.type == "cuda" else 0.0), (nll, other)
    return f"test NLL {nll:.4f}, and {other:.4f} without a stop"


def nothing_is_read(device: torch.device, folder: Path) -> str:
    """Within an epoch the device is never waited for."""
    config = TINY.replace(compile="off")
    data = dataset(config).to(device)
    pair = make_pair(config, data.shapes, device)
    optimizer = make_optimizer(config, pair)
    given = config, pair, optimizer, data, 0, False, device
    train_epoch(*given)

    def watch(done: float) -> None:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error" if done < 1 else "default")

    try:
        train_epoch(*given, watch)
    finally:
        watch(1.0)
    return "no step waited"


def evaluation_in_large_batches(device: torch.device, folder: Path) -> str:
    """Images predicted many at once have the probabilities that they have a few at a time, but for rounding."""
    config = TINY.replace(test_size=360)
    data = dataset(config).to(device)
    pair = make_pair(config, data.shapes, device)
    asked = partial(predictives, pair=pair, data=data, split="test", samples=3, epoch=0, device=device)
    (large, _), (small, _) = asked(config), asked(config.replace(batch_size=4))
    apart = float((large["pair"].probabilities - small["pair"].probabilities).abs().max())
    assert apart < 5e-3, apart
    return f"at most {apart:.1g} apart"


def flat_memory(device: torch.device, folder: Path) -> str:
    """Trial after trial in one process holds no more than the first ones did."""
    held = []
    for seed in range(5):
        trial(device, folder, seed=seed, initialization="scratch")
        held.append(torch.cuda.memory_reserved(device) if device.type == "cuda" else 0)
    assert held[-1] - held[1] <= 64 * 2**20, held
    return f"{held[-1] / 2**20:.0f} MiB after five trials, {held[1] / 2**20:.0f} after two"


def ranks_on_one_gpu(device: torch.device, folder: Path) -> str:
    """Refused before anything starts, as NCCL would refuse them."""
    try:
        Resources(workers=2, gpus=0.5)
    except ConfigError as error:
        return str(error).partition(":")[0] + " is refused"
    raise AssertionError("two ranks of a trial on one GPU were not refused")


def decoding(device: torch.device, folder: Path) -> str:
    """Files are decoded by processes that are no copies of one in which CUDA is up."""
    torch.zeros(1, device=device)
    pixels = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(16, 16, 3)
    for number in range(4):
        Image.fromarray(pixels + number).save(folder / f"{number}.png")
    images = FolderImages(sorted(folder.glob("*.png")), 16)
    (found,) = images.decoded([torch.arange(4)], pin=device.type == "cuda")
    assert torch.equal(found[0].permute(1, 2, 0), torch.from_numpy(pixels)) and torch.equal(
        found[3, 0, 0, 0], found[0, 0, 0, 0] + 3
    )
    started = images.loader.multiprocessing_context
    assert (started is None) == (device.type != "cuda"), started
    return "read, by " + ("copies of this process" if started is None else started.get_start_method())


def lanes(device: torch.device, folder: Path) -> str:
    """Pairs that are stepped together, where this version has that: its own tests are more."""
    try:
        importlib.import_module("mldiv.training.lanes")
    except ImportError:
        return "not in this version"
    return "importable; see the step table"


@contextmanager
def without_graphs() -> Iterator[None]:
    """Have `Replayed` for CUDA graphs, on any device."""
    before = choice.CudaGraph, choice.impossible
    choice.CudaGraph, choice.impossible = Replayed, lambda device: None  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        choice.CudaGraph, choice.impossible = before  # type: ignore[misc]


#: By what they show.
CHECKS: dict[str, Check] = {
    "a graph's steps are the eager ones, SGD": same_as_eager,
    "a graph's steps are the eager ones, AdamW": partial(same_as_eager, optimizer="adamw", lr=0.001),
    "a graph's steps are the eager ones, bf16": partial(same_as_eager, precision="bf16", channels_last=True),
    "a trial in float32": whole_trial,
    "a trial in bf16": partial(whole_trial, precision="bf16", channels_last=True),
    "a trial that is resumed": resumed_trial,
    "nothing is read within an epoch": nothing_is_read,
    "evaluation in large batches": evaluation_in_large_batches,
    "memory stays": flat_memory,
    "two ranks on one GPU": ranks_on_one_gpu,
    "decoding beside CUDA": decoding,
    "lanes": lanes,
    "compiled steps are the eager ones": partial(same_as_eager, how="on"),
}
