"""Round predictions to a few bits and back: what scores rest on stays exact, the images' own values to within a step.

Confidence is cut into equal cells, a power of two of them in each of the 15 bins of ECE, so that no prediction changes its
bin; the mean confidence of each bin is kept beside, and with it accuracy, ECE and the debiased error of a trial are exact. The
label's probability is the confidence where the prediction is right; where it is wrong the square root of its NLL is cut into
steps. The mean NLL is kept beside, and with it the variance of an arm over seeds is exact. What rounding adds to an image's NLL
varies from seed to seed: it enters the parts V_images and V_rest of an interval (`analysis.stats.bootstrap`) alike, and their
difference, which counts, hardly.

Arrays lie image by image, [images, trials]: trials are alike on an image, and a byte is coded by the one before it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.records.predictions import OTHER, ROUNDING, Predictions
from analysis.stats.calibration import BINS
from mldiv.records.checked_files import Damaged

#: Bits of the finest and the coarsest copy: 15 cells of confidence for each of 2^(bits - 4), and 2^bits steps of NLL.
MOST_BITS, LEAST_BITS = 12, 5
BYTE = 8

Planes = dict[str, np.ndarray]


def soft(member: Predictions) -> bool:
    """Tell whether the labels are soft: a right prediction's confidence is not the label's probability then, nor gives it.

    In a copy itself it need not be either: there the mean NLL moved it.
    """
    apart = np.abs(np.exp(-member.nll) - member.confidence)[member.correct]
    return member.entropy is not None and bool((apart > ROUNDING).any())


def rounded(members: Sequence[Predictions], bits: int) -> Planes:
    """Return arrays that hold one member's predictions in several trials, of the same images, to so many bits.

    Raises: Damaged for predictions of soft labels.
    """
    confidence = np.array([member.confidence for member in members], float).T
    correct = np.array([member.correct for member in members]).T
    nll = np.array([member.nll for member in members]).T
    if any(soft(member) for member in members):
        raise Damaged("predictions whose class is the label have another confidence than the label's probability")
    cells = _cells(bits)
    cell = np.clip(np.ceil(confidence * cells).astype(int) - 1, 0, cells - 1)
    most = float(nll.max()) or 1.0
    step = np.minimum((np.sqrt(nll[~correct] / most) * 2**bits).astype(int), 2**bits - 1)
    return {
        "correct": np.packbits(correct),
        **_split("confidence", cell.ravel(), bits),
        **_split("nll", step, bits),
        "bin_confidence": _bin_means(cell, confidence, bits).astype(np.float32),
        "mean_nll": nll.mean(0),
        "most_nll": np.array([most]),
    }


def restored(planes: Mapping[str, np.ndarray], label: np.ndarray, bits: int) -> list[Predictions]:
    """Return the predictions that `rounded` was given, by trial; label: the images' classes, [images].

    Raises: Damaged for arrays that cannot be those.
    """
    try:
        trials, images = len(planes["mean_nll"]), len(label)
        if BYTE * len(planes["correct"]) < images * trials:
            raise ValueError(f"fewer than {images} images of {trials} trials")
        correct = np.unpackbits(planes["correct"], count=images * trials).reshape(images, trials).astype(bool)
        cell = _joined(planes, "confidence", bits).reshape(images, trials)
        confidence = (cell + 0.5) / _cells(bits)
        confidence += np.take_along_axis(
            planes["bin_confidence"] - _bin_means(cell, confidence, bits), cell // (_cells(bits) // BINS), axis=0
        )
        nll = -np.log(confidence)
        nll[~correct] = planes["most_nll"] * ((_joined(planes, "nll", bits) + 0.5) / 2**bits) ** 2
        nll *= planes["mean_nll"] / np.maximum(nll.mean(0), np.finfo(float).tiny)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise Damaged(f"predictions that cannot be restored ({error!s:.80})") from None
    predicted = np.where(correct, label[:, None], OTHER).astype(np.int16)
    columns = predicted.T, confidence.T.astype(np.float32), np.exp(-nll).T.astype(np.float32)
    return [Predictions(label, *of_trial) for of_trial in zip(*columns, strict=True)]


def _cells(bits: int) -> int:
    return BINS * 2 ** (bits - 4)


def _bin_means(cell: np.ndarray, values: np.ndarray, bits: int) -> np.ndarray:
    """Average values over the images of each bin of confidence, [15, trials]; 0 where a bin has none."""
    trials = cell.shape[1]
    place = (cell // (_cells(bits) // BINS) * trials + np.arange(trials)).ravel()
    count, total = (np.bincount(place, weights, BINS * trials) for weights in (None, values.ravel()))
    return (total / np.maximum(count, 1)).reshape(BINS, trials)


def _split(name: str, values: np.ndarray, bits: int) -> Planes:
    """Cut numbers below 2^bits into bytes of their leading bits, which compress, and of the rest, which do not."""
    low = max(bits - BYTE, 0)
    parts = {f"{name}_high": (values >> low << max(BYTE - bits, 0)).astype(np.uint8)}
    return parts | ({f"{name}_low": (values & (2**low - 1)).astype(np.uint8)} if low else {})


def _joined(planes: Mapping[str, np.ndarray], name: str, bits: int) -> np.ndarray:
    low = max(bits - BYTE, 0)
    high = planes[f"{name}_high"].astype(int) >> max(BYTE - bits, 0) << low
    return high + (planes[f"{name}_low"] if low else 0)
