"""Corruptions against the published script's: how far both take an image, and how far they are from each other.

    python benchmarks/corruptions.py --data-root DIR --original DIR [--images N] [--picture FILE] [--out FILE]

original: the folder ImageNet-C/create_c of github.com/hendrycks/robustness, whose make_cifar_c.py wrote CIFAR-10-C, with the
five pictures of frost. Its functions are run as they are, but for names that NumPy and scikit-image have dropped (SUBSTITUTES);
it needs Wand (with ImageMagick), opencv-python-headless and scikit-image.

Both corrupt the same CIFAR-10 test images. "distance" is the root mean square difference to the clean image, in grey levels;
"apart" is the mean absolute difference between the two, for kinds in which nothing is random. The random ones draw different
numbers: theirs are compared by distance, and by the mean brightness that is added.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import caption, median, seconds, table
from torch import Tensor

from mldiv.datasets.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from mldiv.datasets.sources import DATASETS

#: What the script calls by names that are gone.
SUBSTITUTES = {
    "np.float_": "np.float64",
    "multichannel=True": "channel_axis=-1",
    "np.fromstring": "np.frombuffer",
    "scipy.ndimage.interpolation": "scipy.ndimage",
}
#: Where its definitions end and its work begins.
END = "# /////////////// End Distortions ///////////////"

#: Kinds in which nothing is drawn.
FIXED = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
#: Images that are timed, on one thread.
TIMED = 1000

REASONS = """\
- brightness, contrast, defocus_blur, pixelate, zoom_blur: the same computation; what is left is rounding just below a whole
  level, in float32 there and in float64 here.
- jpeg_compression: Pillow's in both.
- gaussian_noise, shot_noise, impulse_noise, glass_blur, motion_blur, snow, fog, elastic_transform: the same distributions,
  other random numbers, so the distances differ by chance (more where few draws span the image: fog, elastic_transform).
- frost: the published one adds crops of five photographs, ours noise of their brightness, contrast and tint.
- The distance of glass_blur, elastic_transform and frost does not grow at every step in the published strengths either: more
  smoothing goes with fewer rounds, more displacement with smaller shears, more frost with less of the image."""


def originals(folder: Path) -> Callable[[str, Image.Image, int], np.ndarray]:
    """The script's functions, as one of (kind, image, severity); they find frost's pictures in the working folder."""
    source = (folder / "make_cifar_c.py").read_text().partition(END)[0]
    for old, new in SUBSTITUTES.items():
        source = source.replace(old, new)
    names: dict[str, Any] = {}
    exec(compile(source, "make_cifar_c.py", "exec"), names)
    os.chdir(folder)
    return lambda kind, image, severity: np.uint8(names[kind](image, severity))


def theirs(run: Callable[[str, Image.Image, int], np.ndarray], images: Tensor, kind: str, severity: int) -> Tensor:
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return torch.from_numpy(np.stack([run(kind, picture, severity) for picture in pictures])).permute(0, 3, 1, 2)


def distance(images: Tensor, other: Tensor) -> float:
    return float((images.double() - other).square().mean().sqrt())


def rows_of(kind: str, images: Tensor, run: Callable[[str, Image.Image, int], np.ndarray]) -> list[list[str]]:
    found = []
    for severity in SEVERITIES:
        ours, published = corrupt(images, kind, severity), theirs(run, images, kind, severity)
        apart = f"{float((ours.double() - published).abs().mean()):.3f}" if kind in FIXED else ""
        far = [distance(ours, images), distance(published, images)]
        added = [float((corrupted.double() - images).mean()) for corrupted in (ours, published)]
        found.append([kind, str(severity), *(f"{value:.1f}" for value in far), *(f"{value:+.1f}" for value in added), apart])
    return found


def timed(images: Tensor) -> list[list[str]]:
    """Milliseconds for a thousand images, the median of three."""
    found = []
    for kind in CORRUPTIONS:
        cells = []
        for severity in SEVERITIES:
            rounds = [{kind: seconds(corrupt, images[:TIMED], kind, severity)} for _ in range(3)]
            cells.append(f"{1e6 * median(rounds, kind) / len(images[:TIMED]):.0f}")
        found.append([kind, *cells])
    return found


def picture(image: Tensor, path: Path) -> None:
    """A sheet of every kind (rows) at every severity (columns), the clean image first."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(CORRUPTIONS), len(SEVERITIES) + 1, figsize=(9, 22), layout="constrained")
    for row, kind in zip(axes, CORRUPTIONS, strict=True):
        shown = [image, *(corrupt(image[None], kind, severity)[0] for severity in SEVERITIES)]
        for axis, pixels in zip(row, shown, strict=True):
            axis.imshow(pixels.permute(1, 2, 0).expand(-1, -1, 3))
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(kind, fontsize=7)
    figure.savefig(path, dpi=70)


def main() -> None:
    flags = parse()
    torch.set_num_threads(1)
    out = flags.out.resolve()
    whole = DATASETS["cifar10"].read(flags.data_root, 32)[1][0]
    assert isinstance(whole, Tensor)
    images = whole[: flags.images]
    if flags.picture:
        picture(images[flags.shown], flags.picture)
        return
    run = originals(flags.original)
    said = caption(
        f"Corruptions against make_cifar_c.py, the first {len(images)} CIFAR-10 test images, seed 0.", 1,
        ("numpy", "scikit-image", "opencv-python-headless", "wand", "pillow"),
    )  # fmt: skip
    times = timed(whole[:TIMED])
    np.random.seed(0)
    head = ["kind", "severity", "distance, ours", "distance, theirs", "added, ours", "added, theirs", "apart"]
    rows = [row for kind in CORRUPTIONS for row in rows_of(kind, images, run)]
    clock = table(["ms per 1,000 images", *(f"severity {severity}" for severity in SEVERITIES)], times)
    out.write_text("\n\n".join([said, table(head, rows), REASONS, clock]) + "\n")
    print(out.read_text(), file=sys.stderr)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--original", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--picture", type=Path, help="write a sheet of one image instead")
    parser.add_argument("--shown", type=int, default=0, help="which test image the sheet shows")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    if flags.original is None and flags.picture is None:
        parser.error("--original DIR is what ours are compared with; --picture FILE alone needs none")
    return flags


if __name__ == "__main__":
    main()
