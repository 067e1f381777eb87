"""The size at which the network sees an image, and how a picture is scaled down to it.

Imports nothing but Pillow, because decoder processes import it when they start.
"""

from typing import NamedTuple

from PIL import Image

Size = tuple[int, int]
"""(height, width)"""


class Scaling(NamedTuple):
    """Which images are scaled down before the network sees them, and to which size, in pixels."""

    max_side: int = 0
    """The longer side of a scaled image; 0 never scales."""

    unscaled_side: int = 0
    """An image whose longer side is at most this is not scaled, even if it exceeds `max_side`."""

    @property
    def largest_side(self) -> int:
        """The longest side that the network sees, unless `max_side` is 0."""
        return max(self.max_side, self.unscaled_side)

    def describe(self) -> str:
        """Return a description of the images that the network sees, for cards."""
        if self.max_side == 0:
            return "whole images at their original size"
        larger = f"those of more than {self.largest_side} pixels"
        return f"whole images, {larger} scaled to {self.max_side}"


UNSCALED = Scaling()

SERVED = Scaling(max_side=384, unscaled_side=480)
"""The service's default. At 384 pixels the masks are best (docs/performance.md). The notebook's
images, 320 x 480 pixels, are not scaled, so that their masks are the notebook's.
"""

GAP = 64
"""A picture that is scaled down by twice this factor or more is first averaged by a whole factor,
to at least this many times the final size. A single step would need 16 bytes of weights for each
pixel of a side.
"""


def scale_to(max_side: int) -> Scaling:
    """Scale all images down whose longer side exceeds `max_side` (0: none)."""
    return Scaling(max_side, max_side)


def find_content_size(size: Size, scaling: Scaling) -> Size:
    """Return the size after scaling."""
    longer = max(size)
    if scaling.max_side == 0 or longer <= scaling.largest_side:
        return size
    height, width = (max(1, round(side * scaling.max_side / longer)) for side in size)
    return height, width


def scale_down(
    picture: Image.Image, content: Size, *, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Scale a picture down; nothing else does. `box`: its part (left, upper, right, lower)."""
    return picture.resize(content[::-1], Image.Resampling.BILINEAR, box=box, reducing_gap=GAP)
