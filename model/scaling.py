"""The size that the network sees of an image, and the one way to scale a picture down to it.

Imports nothing but Pillow: decoders in processes of their own begin with it.
"""

from PIL import Image

Size = tuple[int, int]
"""(height, width)"""

SERVED_SIDE = 480
"""The longest side that the network sees where nobody says otherwise, in pixels. Images of up to
320 x 480 pixels are not scaled, as the notebook's are not; see docs/performance.md.
"""

GAP = 64
"""What is to be scaled down by twice that or more is averaged by whole factors first, to at least
this many times the size. One step alone would need 16 bytes of weights for each pixel of a side.
"""


def content_size(size: Size, max_side: int) -> Size:
    """The size after scaling: `size` unless its longer side exceeds `max_side` (0: never)."""
    longer = max(size)
    if max_side == 0 or longer <= max_side:
        return size
    height, width = (max(1, round(side * max_side / longer)) for side in size)
    return height, width


def scale_down(
    picture: Image.Image, content: Size, *, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Every scaling goes this way. `box`: the part that counts (left, upper, right, lower)."""
    return picture.resize(content[::-1], Image.Resampling.BILINEAR, box=box, reducing_gap=GAP)
