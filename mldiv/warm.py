"""What a worker process does while Ray Train still sets its group up: import the libraries, read the first trial's data."""

import json
import os
import threading
from contextlib import suppress

#: Environment variable with the settings of the trial whose data is wanted first, as JSON.
FIRST = "MLDIV_FIRST_TRIAL"


def begin() -> None:
    """Ray's setup hook of a worker process. Whatever fails here fails again, and is told, when it is really wanted."""
    threading.Thread(target=_load, daemon=True).start()


def _load() -> None:
    with suppress(Exception):
        from mldiv.config import from_dict
        from mldiv.epochs import dataset

        dataset(from_dict(json.loads(os.environ[FIRST])))
