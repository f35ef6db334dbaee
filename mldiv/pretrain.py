"""The deterministic network whose weights become the second peer's initial posterior means."""

from pathlib import Path

import torch
from torch import nn

from mldiv import world
from mldiv.config import TrialConfig
from mldiv.data import ImageData
from mldiv.epochs import epoch_batches, learning_rate, over_ranks, steps_per_epoch
from mldiv.evaluate import precision
from mldiv.pair import network
from mldiv.trunks import State, Store, load, save_atomically

#: Every setting that can change a pretrained network. Neither the losses nor the peers' schedule are among them.
SETTINGS = [
    "data",
    "image_size",
    "train_size",
    "validation_size",
    "test_size",
    "validation_fraction",
    "split_seed",
    "arch",
    "width",
    "pretrain_epochs",
    "batch_size",
    "lr",
    "momentum",
    "schedule",
    "weight_decay",
    "clip_norm",
    "precision",
    "channels_last",
    "seed",
]


def pretrained(config: TrialConfig, data: ImageData, store: Store, device: torch.device, purpose: str = "pretrain") -> State:
    """The state dict of the network pretrained with this configuration's data, recipe and seed; from the store if there.

    purpose: names the random streams, so that a second, different network can be pretrained with the same seed.
    """
    content = {name: getattr(config, name) for name in SETTINGS}
    content |= {"purpose": purpose, "world_size": world.size(), "torch": torch.__version__, "device": device.type}
    content |= {"threads": torch.get_num_threads()}
    return store.get(content, lambda progress: _train(config, data, progress, device, purpose), device)


def _train(config: TrialConfig, data: ImageData, progress: Path, device: torch.device, purpose: str) -> State:
    """Plain supervised training by SGD, resumed from ``progress`` at its last whole epoch."""
    steps_per_epoch(config, data)
    module = network(config, data.classes, data.train.images.shape[1], purpose).to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    start = 0
    if world.from_first(progress.exists()):
        state = load(progress, device)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"]
    model = over_ranks(module, device)
    for epoch in range(start, config.pretrain_epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch, config.pretrain_epochs)
        for images, labels in epoch_batches(config, data, epoch, purpose, device):
            with precision(config, device):
                logits, _ = model(images)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.float(), labels).backward()
            if config.clip_norm:
                nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
            optimizer.step()
        world.average_buffers(module)
        if world.rank() == 0:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
            save_atomically(progress, state)
    return module.state_dict()
