"""Take soft labels, a share of each class per image: from a data set's file, or from one to score by."""

import numpy as np

#: How far from 1 the shares of an image's classes may add up.
ROUNDING = 1e-3
#: Which scores are against what. References: Peterson et al., Human Uncertainty Makes Classification More Robust (ICCV 2019).
WORDS = (
    "NLL and Brier are against each class's share; accuracy, calibration errors and the detection of errors against the class "
    "of the largest"
)


def normalised(values: np.ndarray, where: str, wrong: type[ValueError]) -> np.ndarray:
    """Return shares that add up to 1 for each image, float64 [images, classes].

    wrong: of which kind errors are.

    Raises: ``wrong``, beginning with ``where``, for what is no finite number or negative, and for shares that do not add up.
    """
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or (values < 0).any():
        raise wrong(f"{where}: labels hold what is no number, not finite, or negative")
    values = values.astype(float)
    sums = values.sum(1)
    if (far := np.abs(sums - 1) > ROUNDING).any():
        image = int(far.argmax())
        raise wrong(f"{where}: the shares of image {image} add up to {sums[image]:g}: divide them so that it is 1")
    return values / sums[:, None]
