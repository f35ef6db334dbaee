"""What is trained before the pair: networks whose weights become peers' initial means, or that teach; and its fusion."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mldiv import distributed
from mldiv.config import TrialConfig
from mldiv.datasets.files import check_hash
from mldiv.datasets.splits import ImageData, Shapes
from mldiv.evaluation.predictive import evaluation, precision
from mldiv.method.pair import MutualPair
from mldiv.records.checked_files import Damaged
from mldiv.records.contents import trial_id
from mldiv.seeding import generator
from mldiv.settings.setting import PRETRAINING, identity
from mldiv.storage import public_weights
from mldiv.storage.cache import Store
from mldiv.storage.files import State, check_form, check_optimizer
from mldiv.training.first_stage import environment_id
from mldiv.training.loop import epoch_batches, learning_rate, network, optimizer_of, over_ranks, steps_per_epoch
from mldiv.training.steps.choice import graphed
from mldiv.training.steps.graph import Step

#: Names the random streams of a teacher's pretraining.
TEACHER = "teacher"

#: Of Adam, for a fusion that is trained before stage two.
FUSION_LEARNING_RATE = 1e-3


def purposes(config: TrialConfig) -> list[tuple[int, str]]:
    """Say which peers, by number, start from the means of which pretrained network (`initialization`).

    The purpose names the network's random streams.
    """
    same = config.initialization == "pretrained_same"
    return [(peer, "pretrain" if same or peer == 2 else f"pretrain peer {peer}") for peer in config.pretrained_peers]


def pretraining_id(config: TrialConfig, purpose: str) -> str:
    """Return the identity of a pretraining, wherever it is computed."""
    return trial_id(identity(config, PRETRAINING) | {"purpose": purpose})


def for_teacher(config: TrialConfig) -> TrialConfig:
    """Return the configuration with which a trial's teacher is pretrained: for as many epochs as the trial has."""
    return config.replace(pretrain_epochs=config.epochs)


def pretraining_ids(config: TrialConfig) -> dict[str, int]:
    """Return the identities of the pretrainings that a trial from its very start needs, with their epochs."""
    needed = [] if config.pretrained else [(config, purpose) for _, purpose in purposes(config)]
    needed += [(for_teacher(config), TEACHER)] if config.teacher != "none" else []
    return {pretraining_id(by, purpose): by.pretrain_epochs for by, purpose in needed}


def pretrained(
    config: TrialConfig, data: ImageData, store: Store, device: torch.device, purpose: str = "pretrain"
) -> tuple[State, int]:
    """Return the weights of a network pretrained with this configuration's data, recipe and seed, from the store or trained.

    With the state dict comes how many epochs were trained for it, interrupted attempts included: none when it was in the store.

    purpose: names the random streams, so that a second, different network can be pretrained with the same seed.
    """
    name = f"pretrained/{pretraining_id(config, purpose)}-{environment_id(data, device)}"
    trained = 0

    def compute() -> State:
        nonlocal trained
        trained = config.pretrain_epochs
        return _train(config, data, store, name, device, purpose)

    def check(state: State) -> None:
        check_form(state, network(config, data.shapes, purpose).state_dict())

    return store.get(name, compute, device, check), trained


def from_file(config: TrialConfig, shapes: Shapes, purpose: str) -> tuple[State, str]:
    """Return the weights of a network that are in the file of ``config.pretrained``, the others at their random start.

    Also says, in a sentence, what of both does not fit.

    Raises: DataError, naming the file, where it is no file of tensors, has changed, or nothing of it fits.
    """
    path = Path(str(config.pretrained))
    check_hash(path, config.pretrained_hash)
    return public_weights.fitted(path, network(config, shapes, purpose).state_dict())


def _train(config: TrialConfig, data: ImageData, store: Store, name: str, device: torch.device, purpose: str) -> State:
    """Train the network by plain supervision, resumed at its last whole epoch."""
    steps_per_epoch(config, data)
    module = network(config, data.shapes, purpose).to(device)
    optimizer = optimizer_of(config, module.parameters(), config.weight_decay)
    start = 0

    def check(state: State) -> None:
        check_form(state.get("module"), module.state_dict())
        check_optimizer(state.get("optimizer"), optimizer)
        if type(epoch := state.get("epoch")) is not int or not 0 < epoch < config.pretrain_epochs:
            raise Damaged(f"it is of epoch {epoch!r:.40} of {config.pretrain_epochs}")

    if (state := store.read_progress(name, device, check)) is not None:
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state["optimizer"]["state"]})
        start = state["epoch"]
    step, why = graphed(
        config.steps, _supervised(config, over_ranks(module, device), optimizer, device), module, optimizer,
        lambda: epoch_batches(config, data, 0, "graph", device), device,
    )  # fmt: skip
    store.messages += [f"{why}, in pretraining"] if why else []
    for epoch in range(start, config.pretrain_epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch, config.pretrain_epochs)
        for images, labels in epoch_batches(config, data, epoch, purpose, device):
            step(images, labels)
        distributed.average_buffers(module)
        if distributed.rank() == 0 and epoch + 1 < config.pretrain_epochs:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
            store.keep_progress(name, state)
    return module.state_dict()


def _supervised(config: TrialConfig, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Step:
    """Return the step of a network alone, of (images, labels), which returns the loss."""

    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        with precision(config, device):
            logits, _ = model(images)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        if config.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        return loss.detach()

    return step


def train_fusion(config: TrialConfig, pair: MutualPair, data: ImageData, device: torch.device) -> None:
    """Train the fusion to classify the training images, `fusion_epochs` long, from features of the peers as they are.

    Adam at its usual rate, a weight sample of each peer for every batch, the peers in evaluation mode; the same on every rank.
    """
    weights = [value for value in pair.fusion.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=FUSION_LEARNING_RATE)
    for epoch in range(config.fusion_epochs):
        streams = [generator(config.seed, f"fusion weights {place}", epoch, device) for place in range(len(pair.peers))]
        for images, labels in epoch_batches(config, data, epoch, "fusion", device):
            with torch.no_grad(), evaluation(pair), precision(config, device):
                drawn = [
                    torch.randn(peer.mean.shape, generator=way, device=device)
                    for peer, way in zip(pair.peers, streams, strict=True)
                ]
                features = [peer(images, weights=peer.sample(noise))[1] for peer, noise in zip(pair.peers, drawn, strict=True)]
            optimizer.zero_grad()
            pair.fusion_terms(features, labels)["fusion_nll"][0].backward()
            for value in weights:
                value.grad = distributed.mean_over_ranks(value.grad) if value.grad is not None else None
            optimizer.step()
