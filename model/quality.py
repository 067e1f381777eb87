"""The quality of a network on an image set: classes, boundaries, confidence, images.

Counts and shares in, figures out; knows nothing of files or of how images are predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.classes import IGNORE_INDEX
from model.confusion import count_pixels
from model.engines.base import Array

BINS = 15
BOUNDARY_SHARE = 0.0075
"""The allowed error of a boundary, in image diagonals (Csurka et al., 2013, section 3.2)."""

BAND_SHARE = 0.02
"""The width of the band that the boundary IoU compares, in image diagonals (Cheng et al., 2021)."""


@dataclass(slots=True)
class Quality:
    """Sums over images, which `add` updates. The figures are its properties and methods."""

    classes: tuple[str, ...]
    images: list[NDArray[np.int64]] = field(default_factory=list)
    """A confusion matrix per image, (target class, predicted class)."""
    boundaries: NDArray[np.int64] = field(init=False)
    """(C, 4): predicted boundary pixels, those near the target's boundary, and the reverse."""
    bands: NDArray[np.int64] = field(init=False)
    """(C, 2): pixels in the bands along the boundaries of both target and mask, and of either."""
    confidence: NDArray[np.float64] = field(init=False)
    """(bins, 3): pixels, the sum of their confidences, and correct pixels."""

    def __post_init__(self) -> None:
        self.boundaries = np.zeros((len(self.classes), 4), np.int64)
        self.bands = np.zeros((len(self.classes), 2), np.int64)
        self.confidence = np.zeros((BINS, 3))

    def add(self, target: Array, mask: Array, confidence: NDArray[np.float32]) -> None:
        """Add an image: target and mask (H, W), and the probability of each pixel's class."""
        self.images.append(count_pixels(target, mask, classes=len(self.classes)))
        known = target != IGNORE_INDEX
        for index in np.union1d(np.unique(mask), np.unique(target[known])):
            self.boundaries[index] += count_boundaries(target == index, mask == index)
            self.bands[index] += count_bands(target == index, mask == index, known)
        shares = confidence[known].astype(np.float64)
        bins = np.minimum((shares * BINS).astype(np.int64), BINS - 1)
        for column, values in enumerate((None, shares, (target == mask)[known])):
            self.confidence[:, column] += np.bincount(bins, weights=values, minlength=BINS)

    @property
    def confusion(self) -> NDArray[np.int64]:
        total: NDArray[np.int64] = np.sum(self.images, axis=0)
        return total

    def compute_iou(self) -> NDArray[np.float64]:
        """Per class; NaN for one that occurs nowhere."""
        return compute_ious(self.confusion)

    def score_images(self) -> list[float]:
        """Return each image's mean IoU over the classes that occur in it."""
        return [
            float(np.nanmean(compute_ious(counts))) if counts.any() else 0.0
            for counts in self.images
        ]

    def compute_boundary_f(self) -> NDArray[np.float64]:
        """Per class, over the boundary pixels of the whole set; NaN where there are none."""
        predicted, precise, wanted, recalled = self.boundaries.T
        with np.errstate(invalid="ignore"):
            precision, recall = precise / np.maximum(predicted, 1), recalled / np.maximum(wanted, 1)
            score = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        return np.where(predicted + wanted > 0, score, np.nan)

    def compute_boundary_iou(self) -> NDArray[np.float64]:
        """Per class, of the bands inside of the boundaries; NaN where there are none."""
        both, either = self.bands.T
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (Guo et al., 2017, section 2), over pixels."""
        pixels, confident, right = self.confidence.T
        return float(np.abs(confident - right).sum() / max(pixels.sum(), 1))

    def rank_confusions(self, number: int) -> list[tuple[str, str, float]]:
        """Return the most frequent confusions: target, prediction, share of the target's pixels.

        Fewer than `number`, or none, where no more classes are confused.
        """
        counts = self.confusion
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        np.fill_diagonal(shares, 0)
        number = min(number, int(np.count_nonzero(shares)))
        order = np.argsort(shares, axis=None)[::-1][:number]
        pairs = [divmod(int(place), len(self.classes)) for place in order]
        return [(self.classes[t], self.classes[p], float(shares[t, p])) for t, p in pairs]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        iou, boundary, band = (
            self.compute_iou(),
            self.compute_boundary_f(),
            self.compute_boundary_iou(),
        )
        return {
            "images": len(self.images),
            "mean_iou": _round(np.nanmean(iou)),
            "boundary_f": _round(np.nanmean(boundary)),
            "boundary_iou": _round(np.nanmean(band)),
            "calibration_error": _round(self.calibration_error),
            "classes": {
                name: {
                    "iou": _round(one),
                    "boundary_f": _round(other),
                    "boundary_iou": _round(third),
                }
                for name, one, other, third in zip(self.classes, iou, boundary, band, strict=True)
            },
            "confusion": self.confusion.tolist(),
            "calibration": [[int(n), round(c, 3), int(r)] for n, c, r in self.confidence.tolist()],
        }


def compute_ious(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def count_boundaries(target: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Sequence[int]:
    """Count predicted boundary pixels and those near the target's boundary, and the reverse."""
    radius = max(1, round(BOUNDARY_SHARE * float(np.hypot(*target.shape))))
    wanted, predicted = find_boundary(target), find_boundary(mask)
    precise = predicted & dilate(wanted, radius)
    recalled = wanted & dilate(predicted, radius)
    return [int(pixels.sum()) for pixels in (predicted, precise, wanted, recalled)]


def count_bands(
    target: NDArray[np.bool_], mask: NDArray[np.bool_], known: NDArray[np.bool_]
) -> Sequence[int]:
    """Count the known pixels in both bands, and in either of them."""
    width = max(1, round(BAND_SHARE * float(np.hypot(*target.shape))))
    wanted, predicted = (region & dilate(~region, width) & known for region in (target, mask))
    return [int((wanted & predicted).sum()), int((wanted | predicted).sum())]


def find_boundary(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels with a direct neighbour outside; the image's edge does not count."""
    framed = np.pad(region, 1, mode="edge")
    inside = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return region & ~inside


def dilate(pixels: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Return the pixels within `radius` rows and columns of a pixel of the mask."""
    for axis in (0, 1):
        grown = pixels.copy()
        for step in range(1, radius + 1):
            ahead = [slice(None)] * 2
            behind = [slice(None)] * 2
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            grown[tuple(ahead)] |= pixels[tuple(behind)]
            grown[tuple(behind)] |= pixels[tuple(ahead)]
        pixels = grown
    return pixels


def _round(value: float | np.floating[Any]) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
