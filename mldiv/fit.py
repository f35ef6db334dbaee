"""Train one trial, without Ray: pretraining, stage one, the switch, stage two, test. Resumes exactly where it stopped."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import mldiv
from mldiv import evaluate, records, world
from mldiv.config import TrialConfig
from mldiv.data import ImageData
from mldiv.epochs import epoch_batches, learning_rate, over_ranks, steps_per_epoch
from mldiv.metrics import disagreement, scores
from mldiv.pair import TERMS, MutualPair
from mldiv.pretrain import pretrained
from mldiv.records import TrialRecord
from mldiv.streams import generator
from mldiv.trunks import Store, load, save_atomically

#: Called on rank 0 with each epoch's line; a true answer ends the trial early, as "stopped".
Report = Callable[[dict[str, Any]], bool]

#: A fall of the feature KL below this share of its value at the switch means that the feature term died.
DEAD = 0.01
#: A rise above this multiple means that it ran away.
RUNAWAY = 100.0


class Diverged(Exception):
    """A loss term became infinite or not a number; the message says which and when."""


@dataclass
class State:
    """Everything that a checkpoint holds."""

    pair: MutualPair
    optimizer: torch.optim.SGD
    epoch: int = 0


def fit(
    config: TrialConfig,
    folder: Path,
    *,
    data: ImageData,
    store: Store,
    device: torch.device | None = None,
    report: Report = lambda line: False,
) -> TrialRecord:
    """Train the trial and leave its record in ``folder``; called by every rank of a group alike.

    A finished trial is returned as recorded. One that was interrupted goes on after its last whole epoch; on CPU the result
    is bit for bit that of an uninterrupted run.

    Raises: ConfigError when the data cannot fill a batch. A non-finite loss does not raise: the trial ends as "diverged".
    """
    device = device or torch.device("cpu")
    record = world.from_first(_open_record(config, folder, data))
    if record.final:
        return record
    steps_per_epoch(config, data)
    began = time.perf_counter()
    state = _initial_state(config, data, store, device)
    _resume(state, folder, device)
    begin = began - sum(line["seconds"] for line in records.read_lines(folder / "metrics.jsonl"))
    record.epochs = state.epoch
    try:
        stopped = _train(state, data, folder, device, report, record, begin)
        record.status = "stopped" if stopped else "finished"
        record.reason = f"stopped early after epoch {record.epochs - 1}" if stopped else None
    except Diverged as error:
        record.status, record.reason = "diverged", str(error)
    if record.status == "finished":
        _test(state, data, folder, device, record)
    record.seconds = time.perf_counter() - begin
    if world.rank() == 0:
        record.notes = _notes(folder / "metrics.jsonl")
        records.write_trial(folder, record)
    return world.from_first(record)


def _open_record(config: TrialConfig, folder: Path, data: ImageData) -> TrialRecord | None:
    """The trial's record, new or as an interrupted attempt left it, marked as running (rank 0 only)."""
    if world.rank():
        return None
    if (folder / "trial.json").exists():
        record = records.read_trial(folder)
        if record.final:
            return record
        record.attempts += 1
    else:
        record = TrialRecord(config.id, asdict(config))
    sizes = {split: len(getattr(data, split).labels) for split in ("train", "validation", "test")}
    record.status, record.reason = "running", None
    record.data = sizes | {"classes": data.classes}
    record.environment = environment()
    records.write_trial(folder, record)
    return record


def environment() -> dict[str, Any]:
    """What besides the configuration can change numbers."""
    return {
        "mldiv": mldiv.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "world_size": world.size(),
        "threads": torch.get_num_threads(),
    }


def _initial_state(config: TrialConfig, data: ImageData, store: Store, device: torch.device) -> State:
    pair = MutualPair(config, data.classes, data.train.images.shape[1], len(data.train.labels)).to(device)
    if config.initialization != "scratch":
        pair.peer_2.load_means(pretrained(config, data, store, device))
    if config.initialization == "pretrained":
        pair.peer_1.load_means(pretrained(config, data, store, device, "pretrain peer 1"))
    if config.channels_last:
        pair = pair.to(memory_format=torch.channels_last)
    return State(pair, _optimizer(config, pair))


def _optimizer(config: TrialConfig, pair: MutualPair) -> torch.optim.SGD:
    """SGD over three groups: means and point estimates, rho, fusion. No weight decay: the prior regularises."""
    rho = [peer.rho for peer in pair.peers]
    rest = [value for peer in pair.peers for name, value in peer.named_parameters() if name != "rho"]
    groups = [
        {"params": rest, "scale": 1.0},
        {"params": rho, "scale": config.rho_lr_scale},
        {"params": list(pair.fusion.parameters()), "scale": config.fusion_lr_scale},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, foreach=True)


def _resume(state: State, folder: Path, device: torch.device) -> None:
    """Take up the folder's checkpoint, if there is one, and drop what the records hold beyond it."""
    path = folder / "checkpoint.pt"
    if world.from_first(path.exists()):
        saved = load(path, device)
        state.pair.load_state_dict(saved["pair"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.epoch = saved["epoch"]
    if world.rank() == 0:
        records.keep_epochs(folder / "metrics.jsonl", state.epoch)


def _train(
    state: State, data: ImageData, folder: Path, device: torch.device, report: Report, record: TrialRecord, begin: float
) -> bool:
    """All remaining epochs; whether the trial was stopped early.

    Raises: Diverged.
    """
    config = state.pair.config
    fused = [value for value in state.pair.fusion.parameters() if value.requires_grad]
    model, wrapped_for = None, None
    for epoch in range(state.epoch, config.epochs):
        started = time.perf_counter()
        diverse = config.diverse and epoch >= config.switch_epoch
        if model is None or wrapped_for != diverse:  # the fusion has gradients in stage two only
            for value in fused:
                value.requires_grad_(diverse)
            model, wrapped_for = over_ranks(state.pair, device), diverse
        if diverse and epoch == config.switch_epoch:
            state.pair.set_scales(evaluate.feature_kl(state.pair, data, "train", epoch=epoch, device=device))
        terms = train_epoch(model, state, data, epoch, diverse, device)
        world.average_buffers(state.pair)
        line = _line(state.pair, data, epoch, diverse, terms, device)
        state.epoch = epoch + 1
        line["seconds"] = time.perf_counter() - started
        stop = False
        if world.rank() == 0:
            records.append_line(folder / "metrics.jsonl", line)
            record.epochs, record.validation = state.epoch, line["validation"]
            record.seconds = time.perf_counter() - begin
            saved = {"pair": state.pair.state_dict(), "optimizer": state.optimizer.state_dict(), "epoch": state.epoch}
            save_atomically(folder / "checkpoint.pt", saved)
            stop = bool(report(line))
        if world.from_first(stop) and state.epoch < config.epochs:
            return True
    return False


def train_epoch(model: nn.Module, state: State, data: ImageData, epoch: int, diverse: bool, device: torch.device) -> Tensor:
    """One epoch of steps; the mean of each of TERMS over steps and ranks. Nothing is read from the device before its end.

    Raises: Diverged, naming the first term that was not finite, on every rank alike.
    """
    pair, config = state.pair, state.pair.config
    pair.train()
    rate = learning_rate(config, epoch, config.epochs)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    # The same noise on every rank: one weight sample per peer and step, whatever the number of ranks.
    streams = [generator(config.seed, f"weights {index}", epoch, device) for index in (1, 2)]
    total = torch.zeros(len(TERMS), device=device)
    broken = torch.zeros(len(TERMS), dtype=torch.bool, device=device)
    steps = 0
    for images, labels in epoch_batches(config, data, epoch, "fit", device):
        noise = [torch.randn(pair.peer_1.mean.numel(), generator=stream, device=device) for stream in streams]
        with evaluate.precision(config, device):
            loss, terms = model(images, labels, *noise, diverse)
        state.optimizer.zero_grad()
        loss.backward()
        if config.clip_norm:
            for peer in pair.peers:
                nn.utils.clip_grad_norm_(peer.parameters(), config.clip_norm)
        state.optimizer.step()
        broken |= ~terms.isfinite() & ~broken.any()
        total += terms
        steps += 1
    if names := [name for name, bad in zip(TERMS, world.any_rank(broken).tolist(), strict=True) if bad]:
        raise Diverged(f"epoch {epoch}: loss term {names[0]} was not finite")
    return world.mean_over_ranks(total / steps)


def _line(pair: MutualPair, data: ImageData, epoch: int, diverse: bool, terms: Tensor, device: torch.device) -> dict[str, Any]:
    """An epoch's line of metrics.jsonl. The fields are the same in both stages; what is not computed is None."""
    config = pair.config
    train = dict(zip(TERMS, terms.tolist(), strict=True))
    if not diverse:
        train |= dict.fromkeys(("param_distance", "feature_kl", "param_diversity", "feature_diversity"))
    members, labels = evaluate.predictives(
        pair, data, "validation", samples=config.validation_samples, epoch=epoch, device=device
    )
    validation = {member: scores(one, labels, evaluate.EPOCH_METRICS) for member, one in members.items()}
    diversity = evaluate.diversity(pair)
    diversity["feature_kl"] = float(evaluate.feature_kl(pair, data, "validation", epoch=epoch, device=device))
    diversity["disagreement"] = float(disagreement(members["peer_1"], members["peer_2"]))
    return {
        "epoch": epoch,
        "stage": 2 if diverse else 1,
        "lr": learning_rate(config, epoch, config.epochs),
        "train": train,
        "validation": validation,
        "diversity": diversity,
    }


def _test(state: State, data: ImageData, folder: Path, device: torch.device, record: TrialRecord) -> None:
    """The only use of the test data: final scores and predictions."""
    config = state.pair.config
    for split in ("validation", "test"):
        members, labels = evaluate.predictives(
            state.pair, data, split, samples=config.test_samples, epoch=config.epochs, device=device
        )
        setattr(record, split, {member: scores(one, labels) for member, one in members.items()})
    if world.rank() == 0:
        write_predictions(folder / "predictions.parquet", evaluate.predictions_table(members, labels))


def write_predictions(path: Path, columns: dict[str, list]) -> None:
    """predictions.parquet, in the smallest types that hold its columns; written whole or not at all."""
    kinds = {"image": "int32", "member": "category", "label": "int16", "predicted": "int16"}
    frame = pd.DataFrame(columns)
    temporary = path.with_name(f".{path.name}")
    frame.astype({name: kinds.get(name, "float32") for name in frame.columns}).to_parquet(temporary, index=False)
    temporary.replace(path)


def _notes(path: Path) -> list[str]:
    """What a reader of the record should know: a feature term that died or ran away."""
    levels = [line["diversity"]["feature_kl"] for line in records.read_lines(path)]
    stages = [line["stage"] for line in records.read_lines(path)]
    if 2 not in stages or levels[-1] is None:
        return []
    first = stages.index(2)
    start, end = levels[max(first - 1, 0)], levels[-1]
    if not start:
        return []
    if end < DEAD * start:
        return [f"feature term died: feature KL fell from {start:.2g} at the switch to {end:.2g}"]
    if end > RUNAWAY * start:
        return [f"feature term ran away: feature KL rose from {start:.2g} at the switch to {end:.2g}"]
    return []
