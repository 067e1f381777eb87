"""The places of a batch's masks in one run of bytes, so that a single copy transfers all of them.

Works for arrays and for tensors, which slice and reshape alike. Knows no engine.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from model.engines.base import Array, Region, Size


class MaskLayout:
    """Whole canvases' masks come first, (N, H, W), if an image needs one, and then scaled masks.

    A mask that is not scaled is the top left part of its canvas' mask.
    """

    def __init__(self, canvas: Size, regions: Sequence[Region]) -> None:
        self._shape = (len(regions), *canvas)
        self._regions = regions
        self._scaled = [i for i, region in enumerate(regions) if region.content != region.output]
        whole = len(regions) * canvas[0] * canvas[1]
        self._whole_bytes = whole if len(self._scaled) < len(regions) else 0
        sizes = (regions[i].output[0] * regions[i].output[1] for i in self._scaled)
        self._ends = list(accumulate(sizes, initial=self._whole_bytes))

    @property
    def bytes(self) -> int:
        return self._ends[-1]

    def view_canvases(self, run: Any) -> Any:
        """Return the run's part for whole canvases, (N, H, W), or None if no image needs it."""
        return run[: self._whole_bytes].reshape(self._shape) if self._whole_bytes else None

    def iterate_scaled(self, run: Any) -> Iterator[tuple[int, Any]]:
        """Iterate over the images with a scaled mask and their part of the run, (height, width)."""
        for number, image in enumerate(self._scaled):
            part = run[self._ends[number] : self._ends[number + 1]]
            yield image, part.reshape(self._regions[image].output)

    def copy_masks(self, run: Array) -> list[Array]:
        """Copy the masks out of a filled run, in the order of the regions."""
        scaled = dict(self.iterate_scaled(run))
        canvases = self.view_canvases(run)
        return [
            scaled[image].copy()
            if image in scaled
            else canvases[image, : region.output[0], : region.output[1]].copy()
            for image, region in enumerate(self._regions)
        ]
