"""The confusion matrix of a whole image set, and the scores that are computed from it.

Counts pixels; knows nothing of images, networks or files.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.classes import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of an image set, each in 0..1.

    `iou` has NaN for a class that occurs neither in a target nor in a prediction; `mean_iou` is the
    mean over the others.
    """

    mean_iou: float
    pixel_accuracy: float
    iou: dict[str, float]
    images: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a NaN becomes null."""
        iou = {
            name: None if np.isnan(value) else round(value, 6) for name, value in self.iou.items()
        }
        return {
            "mean_iou": round(self.mean_iou, 6),
            "pixel_accuracy": round(self.pixel_accuracy, 6),
            "images": self.images,
            "iou": iou,
        }

    def __str__(self) -> str:
        width = max(map(len, self.iou))
        lines = [
            f"{name:<{width}}  {'-' if np.isnan(value) else f'{100 * value:.1f}':>5}"
            for name, value in self.iou.items()
        ]
        lines.append("-" * (width + 7))
        lines.append(f"{'mean IoU':<{width}}  {100 * self.mean_iou:>5.1f}")
        lines.append(f"{'pixel accuracy':<{width}}  {100 * self.pixel_accuracy:>5.1f}")
        return "\n".join(lines)


def count_pixels(
    target: NDArray[np.uint8], mask: NDArray[np.uint8], *, classes: int
) -> NDArray[np.int64]:
    """Return the confusion matrix of one image, (target class, predicted class), without void."""
    assert target.shape == mask.shape, f"{target.shape} and {mask.shape} differ"
    known = target != IGNORE_INDEX
    pairs = classes * target[known].astype(np.int64) + mask[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


class ConfusionMatrix:
    """Pixel counts by (target class, predicted class), summed over images."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.counts = np.zeros((len(classes), len(classes)), np.int64)
        self.images = 0

    def update(self, target: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        """Count one image: two arrays of the same (height, width); void targets are left out."""
        self.counts += count_pixels(target, mask, classes=len(self.classes))
        self.images += 1

    def scores(self) -> Scores:
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - hits
        total = self.counts.sum()
        with np.errstate(invalid="ignore"):
            iou = hits / union
        return Scores(
            mean_iou=float(np.nanmean(iou)) if total else 0.0,
            pixel_accuracy=float(hits.sum() / total) if total else 0.0,
            iou=dict(zip(self.classes, iou.tolist(), strict=True)),
            images=self.images,
        )
