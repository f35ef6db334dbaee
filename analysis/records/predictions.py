"""Read a trial's predictions of the test images, and hold its scores against them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from analysis.stats.calibration import expected_calibration_error
from mldiv.record_files import Damaged, read_bytes
from mldiv.records import PAIR, TrialRecord, members_of

#: Of a file of predictions and of what it unpacks to.
MOST_BYTES = 2**31
#: What rounding may change in a mean over images, relative to its size or 1.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Predictions:
    """One member's predictions of the test images, each [images], in their order.

    label, predicted: class indices; confidence: the probability of the predicted class; scaled_*: after temperature scaling;
    entropy, mutual_information: in nats.
    """

    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    label_probability: np.ndarray
    scaled_confidence: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether the predicted class is the label, [images]."""
        return self.predicted == self.label

    @property
    def nll(self) -> np.ndarray:
        """Negative log-likelihood of the label, [images], in nats."""
        return -np.log(np.maximum(self.label_probability.astype(float), np.finfo(np.float32).tiny))


#: By member: peer_1, peer_2, ..., pair.
Members = dict[str, Predictions]


def read(path: Path, record: TrialRecord) -> Members | None:
    """Return the predictions of a finished trial; None when there is no file.

    Raises: Damaged, in a few words, when the file cannot be read, is another trial's, or contradicts the trial's scores.
    """
    try:
        table = _table(path, record)
    except FileNotFoundError:
        return None
    except (OSError, pyarrow.ArrowException, ValueError, KeyError) as error:
        raise Unreadable(f"cannot be read ({error if isinstance(error, Damaged) else type(error).__name__})") from None
    members = _members(table)
    if (why := _contradiction(members, record)) is not None:
        raise Damaged(why)
    return members
