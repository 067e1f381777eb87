"""Whether the difference between two networks on the same images is significant.

A paired bootstrap over the images (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13) turns counts of pixels into intervals. Knows nothing of networks or files.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
"""A confusion matrix per image, (images, C, C): target class, predicted class."""

Floats = NDArray[np.float64]

Verdict = Literal["better", "worse", "undecided"]

RESAMPLES = 4000
CONFIDENCE = 0.95
ROWS_AT_ONCE = 250
MIN_IMAGES = 10
"""The smallest number of images: resamples of fewer are too similar, and those of one are all
equal.
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """The IoU of the second network minus the first's; NaN for a class that occurs nowhere."""

    first: float
    second: float
    low: float
    high: float
    images: int

    @property
    def gain(self) -> float:
        return self.second - self.first

    @property
    def verdict(self) -> Verdict:
        """Whether the second is better or worse.

        Undecided if the interval contains zero, and with fewer than MIN_IMAGES images.
        """
        if self.images < MIN_IMAGES:
            return "undecided"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "undecided"

    def as_dict(self) -> dict[str, Any]:
        values = {"first": self.first, "second": self.second, "low": self.low, "high": self.high}
        rounded = {k: None if np.isnan(v) else round(v, 6) for k, v in values.items()}
        return rounded | {"verdict": self.verdict}


def compare_counts(first: Counts, second: Counts, *, seed: int = 0) -> list[Difference]:
    """Compute the difference of each class, and as the last that of mean IoU.

    Both counts must be of the same images.
    """
    assert first.shape == second.shape, f"{first.shape} and {second.shape} differ"
    images = len(first)
    rng = np.random.default_rng(seed)
    gains = []
    for _ in range(RESAMPLES // ROWS_AT_ONCE):
        times = rng.multinomial(images, np.full(images, 1 / images), size=ROWS_AT_ONCE)
        gains.append(_compute_ious(times, second) - _compute_ious(times, first))
    tail = 100 * (1 - CONFIDENCE) / 2
    bounds = [_compute_bounds(column, tail) for column in np.concatenate(gains).T]
    once = np.ones((1, images), np.int64)
    whole = zip(_compute_ious(once, first)[0], _compute_ious(once, second)[0], bounds, strict=True)
    return [Difference(float(one), float(other), *bound, images) for one, other, bound in whole]


def _compute_ious(times: NDArray[np.int64], counts: Counts) -> Floats:
    """IoU per class and their mean, (resamples, C + 1).

    `times`, (resamples, images), is how often a resample counts each image.
    """
    classes = counts.shape[1]
    # float64 multiplies with BLAS, and is exact up to 2 ** 53 pixels.
    flat = times.astype(np.float64) @ counts.reshape(len(counts), -1).astype(np.float64)
    total = flat.reshape(-1, classes, classes)
    hits = np.diagonal(total, axis1=1, axis2=2)
    union = total.sum(axis=1) + total.sum(axis=2) - hits
    iou = np.divide(hits, union, out=np.full_like(union, np.nan), where=union > 0)
    occurring = np.maximum((union > 0).sum(axis=1), 1)
    return np.column_stack([iou, np.nansum(iou, axis=1) / occurring])


def _compute_bounds(gains: Floats, tail: float) -> tuple[float, float]:
    """Compute the bounds of the interval, without the resamples that lack the class."""
    measured = gains[~np.isnan(gains)]
    if not len(measured):
        return float("nan"), float("nan")
    low, high = np.percentile(measured, [tail, 100 - tail])
    return float(low), float(high)
