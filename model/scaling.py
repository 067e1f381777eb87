"""The size at which the network sees an image, and how a picture is scaled down to it.

Imports nothing but Pillow, because decoder processes import it when they start.
"""

from PIL import Image

Size = tuple[int, int]
"""(height, width)"""

SERVED_SIDE = 480
"""The default of the longest side that the network sees, in pixels. Like the notebook's, images of
up to 320 x 480 pixels are not scaled; see docs/performance.md.
"""

GAP = 64
"""A picture that is scaled down by twice this factor or more is first averaged by a whole factor,
to at least this many times the final size. A single step would need 16 bytes of weights for each
pixel of a side.
"""


def find_content_size(size: Size, max_side: int) -> Size:
    """The size after scaling: `size` unless its longer side exceeds `max_side` (0: never)."""
    longer = max(size)
    if max_side == 0 or longer <= max_side:
        return size
    height, width = (max(1, round(side * max_side / longer)) for side in size)
    return height, width


def scale_down(
    picture: Image.Image, content: Size, *, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Scale a picture down; nothing else does. `box`: its part (left, upper, right, lower)."""
    return picture.resize(content[::-1], Image.Resampling.BILINEAR, box=box, reducing_gap=GAP)
