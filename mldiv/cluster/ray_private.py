"""What is used of Ray although it does not promise to keep it, all of it here (Ray is pinned; tests notice a change)."""

from typing import Any

from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.train.torch import TorchTrainer

#: Callbacks that start actors which are not needed here, each 2 s of processor in every group (docs/speed.md): one hands out
#: Ray's own data sets; one removes what a killed controller leaves, if the machine's latest Ray, whichever that is, has a
#: dashboard that says so. The driver does that itself.
UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")


def show_token(head: str) -> None:
    """Show a head at HOST:PORT this machine's token; Ray itself would try for a minute.

    Raises: ray.exceptions.AuthenticationError for another than the head's.
    """
    GcsClient(address=head)


class LeanTrainer(TorchTrainer):
    """Ray's `TorchTrainer` without the UNUSED actors."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ not in UNUSED]
