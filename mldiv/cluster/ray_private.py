"""What is used of Ray although it does not promise to keep it, all of it here (Ray is pinned; tests notice a change).

Eight names, for which Ray has nothing public: ENV_VARS_TO_PROPAGATE, ENABLE_RAY_CLUSTER, GcsClient, _global_node, a trainer's
_create_default_callbacks, the bases of a callback that hears of a group's start and end, and the error of a group that found
no place in time. Only `ray.init`'s _temp_dir is used elsewhere, in nodes.py. A group's controller loads this module too: no
torch here.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from ray import _private
from ray._private import ray_constants
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

#: Callbacks that start actors which are not needed here, each 2 s of processor in every group (docs/speed.md): one hands out
#: Ray's own data sets; one removes what a killed controller leaves, if the machine's latest Ray, whichever that is, has a
#: dashboard that says so. The driver does that itself.
UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")

#: What Tune hands from the driver to its trials, by way of a log that everybody on the machine may read.
KEYS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"})


def keep_keys() -> None:
    """Let Tune hand on no keys: every process has those of its own machine, or no access."""
    from ray.tune.execution import class_cache  # only where Tune is: in the driver

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(KEYS)


@contextlib.contextmanager
def at_loopback() -> Iterator[None]:
    """Let a Ray that is started meanwhile take loopback for this node's address, and so listen nowhere else.

    As Ray does on a Mac, and where RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 is set before it is imported.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def show_token(head: str) -> None:
    """Show a head at HOST:PORT this machine's token; Ray itself would try for a minute.

    Raises: ray.exceptions.AuthenticationError for another than the head's.
    """
    GcsClient(address=head)


def raylet_socket() -> str:
    """Return where the raylet that this process is connected to listens."""
    node: Any = _private.worker._global_node
    return str(node.raylet_socket_name)


def found_no_place(error: Exception) -> bool:
    """Return whether a trainer ended since the cluster had no place for its workers in time."""
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


class LeftPlacement(WorkerGroupCallback, ControllerCallback):
    """Gives back what a start that raised keeps: Ray forgets the placement of workers one of which dies as they meet."""

    def __init__(self) -> None:
        self.placement: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Note where the workers are."""
        self.placement = worker_group.get_worker_group_state().placement_group_handle

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Remove where the last ones were; once more does no harm."""
        if self.placement is not None:
            self.placement.shutdown()

    def after_controller_finish(self, result: Any) -> None:
        """Remove where the last ones of all were."""
        self.before_worker_group_start(None)


class LeanCallbacks:
    """Lets a trainer of Ray's that inherits from it start without the UNUSED actors, and give back all that its groups held."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [LeftPlacement(), *(callback for callback in callbacks if type(callback).__name__ not in UNUSED)]
