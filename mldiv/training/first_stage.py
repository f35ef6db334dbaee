"""Share stage one: trials that differ only in what acts after the switch start from the same stored prefix of it.

A prefix is the state of a trial after some epochs without diversity terms: both peers, the optimiser's momentum and the
epochs' lines. Its name in the store is made of everything that can influence it, so a branch that starts from it is bit for
bit (on CPU) the trial trained alone. The fusion has no part in stage one; each branch makes its own from its seed.
"""

from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch

from mldiv import distributed
from mldiv.config import TrialConfig, from_dict
from mldiv.datasets.splits import ImageData
from mldiv.environment import numerics
from mldiv.plugins.reach import before_switch
from mldiv.records.contents import trial_id
from mldiv.settings.setting import FIRST_STAGE, identity
from mldiv.storage.cache import Check, Store, accept
from mldiv.storage.files import State

#: Raised whenever a change of mldiv moves numbers: what was stored before is then found no more.
NUMBERS = 3


@lru_cache(maxsize=2**16)
def first_stage_id(config: TrialConfig) -> str:
    """Return the identity of the trajectory that a trial follows before its switch, wherever it is computed.

    Where the learning rate begins anew at the switch, stage one's ends there and knows nothing of what follows, but for a
    teacher, which is pretrained for as many epochs as the trial has.
    """
    known = identity(config, FIRST_STAGE)
    if config.restarts:
        taught = {} if config.teacher == "none" else {"teacher_epochs": config.epochs}
        known |= {"epochs": config.switch_epoch} | taught
    return trial_id(known)


def environment_id(
    data: ImageData, device: torch.device, lanes: bool = False, *, threads: int | None = None, ranks: int | None = None
) -> str:  # fmt: skip
    """Return the identity of what besides the settings can change a number before the switch.

    That is data, plug-ins, library and the environment variables that it obeys, device, ranks. lanes: whether steps are made
    of several trials at once; threads, ranks: those of who trains (default: this process's).
    """
    plugins = {"plugins": found} if (found := before_switch()) else {}
    return trial_id(
        {
            "numbers": NUMBERS,
            "data": data.fingerprint,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability(),
            "world_size": ranks or distributed.size(),
            "threads": threads or torch.get_num_threads(),
        }
        | numerics.described(device)
        | plugins
        | ({"lanes": True} if lanes else {})
    )


def own_prefix(config: TrialConfig) -> frozenset[int]:
    """Return the epoch at whose end a trial enters stage two; none where it has no first stage, or no second."""
    return frozenset({config.first_stage} - {0, config.epochs})


def branches(config: TrialConfig, epochs: Collection[int]) -> frozenset[int]:
    """Return those of ``epochs`` after which another trial can go on from this one's state.

    Where the learning rate begins anew at the switch, only trials with the same switch have its first stage.
    """
    last = min(config.first_stage, config.epochs - 1)
    return frozenset(epoch for epoch in epochs if 0 < epoch <= last and (epoch == last or not config.restarts))


def pattern(config: TrialConfig, epoch: int) -> str:
    """Return a regular expression for the names of a trial's prefix of ``epoch`` epochs from every environment."""
    return f"trunks/{first_stage_id(config)}-[0-9a-f]+/{epoch:05d}"


class SharedFirstStage:
    """The prefixes of a trial in the store.

    publish: epochs after which this trial stores its state for others, besides its own switch; those beyond its first stage
    are passed over. lanes: as of `environment_id`.
    """

    def __init__(
        self, config: TrialConfig, data: ImageData, store: Store, device: torch.device, publish: Collection[int] = (),
        lanes: bool = False,
    ) -> None:  # fmt: skip
        self.config, self.store, self.device = config, store, device
        self.folder = f"trunks/{first_stage_id(config)}-{environment_id(data, device, lanes)}"
        self.wanted = sorted(branches(config, {*publish, config.first_stage}))
        #: The epoch after which this trial has nothing more to publish.
        self.last = max(self.wanted, default=0)

    def wants(self, epoch: int) -> bool:
        """Tell whether the state after ``epoch`` epochs is to be published and is not there yet."""
        return epoch in self.wanted and not self.store.has(self.name(epoch))

    def name(self, epoch: int) -> str:
        """Return the name of the prefix of ``epoch`` epochs in the store."""
        return f"{self.folder}/{epoch:05d}"

    def missing(self, done: int) -> list[str]:
        """Return the names of the prefixes that this trial is to store and that lie beyond its first ``done`` epochs."""
        return [self.name(epoch) for epoch in self.wanted if epoch > done and not self.store.has(self.name(epoch))]

    def longest(self, beyond: int, check: Check = accept) -> State | None:
        """Read the longest stored prefix of this trial's first stage with more than ``beyond`` epochs. All ranks' call.

        check: of a prefix that was read; one that it refuses is set aside.
        """
        stored = distributed.from_first(self._stored(beyond) if distributed.rank() == 0 else None)
        for epoch in stored:
            state = self.store.read(self.name(epoch), self.device, check)
            if state is not None and self._mine(state, epoch):
                return state
        return None

    def _mine(self, state: State, epoch: int) -> bool:
        """Tell whether an entry is what its name says: a file that was copied to another name is not."""
        with suppress(LookupError, TypeError, ValueError):
            if state["epoch"] == epoch and first_stage_id(from_dict(state["config"])) == first_stage_id(self.config):
                return True
        self.store.messages.append(f"{self.name(epoch)} is another first stage's prefix and was passed over")
        return False

    def _stored(self, beyond: int) -> list[int]:
        """Return the epochs of the stored prefixes, the longest first."""
        found = [int(name) for name in self.store.names(self.folder) if name.isdecimal()]
        return sorted((epoch for epoch in found if beyond < epoch <= self.config.first_stage), reverse=True)

    def publish(self, epoch: int, state: dict[str, Any]) -> None:
        """Store the state after ``epoch`` epochs. Rank 0's call."""
        self.store.publish(self.name(epoch), state)
