"""Limits the cost of decoding: refuses files that cost much more than their pixels suggest.

Reads only headers; decodes nothing.
"""

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from app.codecs.jpegs import require_few_scans
from app.codecs.tiffs import require_modest_tiff
from app.errors import TooManyPixels
from model.scaling import Size

CPU_S = 1.0
CPU_S_PER_PIXEL = 120e-9
"""The limit of CPU time for one file: 4 s for 25 megapixels. The slowest valid files took 20 to 30
ns per pixel on the machine where this was measured.
"""

MAX_RUN_LENGTH_PIXELS = 2_000_000
"""The limit of run-length coded BMPs. Pillow decodes them in Python: a file of 60 bytes can take
0.12 s and 20 MB per megapixel.
"""


def compute_max_seconds(pixels: int) -> float:
    """Return the limit of CPU time for an image of so many pixels."""
    return CPU_S + CPU_S_PER_PIXEL * pixels


def require_few_pixels(size: Size, max_pixels: int) -> None:
    height, width = size
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The image has {width} x {height} = {width * height} pixels, "
            f"the limit is {max_pixels}.",
            remedy="Scale the image down before sending it.",
        )


def require_modest(image: Image.Image, data: bytes, *, max_pixels: int) -> None:
    """Raise if decoding the file would cost much more than its number of pixels suggests."""
    if isinstance(image, JpegImageFile):
        require_few_scans(data)
    elif isinstance(image, TiffImageFile):
        seconds = compute_max_seconds(image.width * image.height)
        require_modest_tiff(image, data, max_pixels=max_pixels, max_seconds=seconds)
    elif isinstance(image, BmpImageFile) and image.tile[0].codec_name == "bmp_rle":
        pixels = image.width * image.height
        if pixels > MAX_RUN_LENGTH_PIXELS:
            raise TooManyPixels(
                f"The run-length coded BMP has {pixels} pixels, "
                f"the limit is {MAX_RUN_LENGTH_PIXELS}.",
                remedy="Save it without run-length coding, or as PNG.",
            )
