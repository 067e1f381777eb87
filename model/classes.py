"""Pascal VOC's class names, its colormap and the index that means "ignore this pixel".

Knows nothing of images or networks; standard library and numpy only, so anything may import it.
"""

import numpy as np
from numpy.typing import NDArray

CLASSES: tuple[str, ...] = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
IGNORE_INDEX = 255
"""The void border of a VOC mask: in the target it means "unknown"; it is never predicted."""

MAX_CLASSES = IGNORE_INDEX
"""A mask has one byte a pixel: classes 0 to 254, and void. The native engine has the same limit."""


def voc_colormap(entries: int = 256) -> NDArray[np.uint8]:
    """Return the VOC colormap as an array of shape (entries, 3), RGB.

    Bits 0, 3, 6 of an index become the top bits of red, bits 1, 4, 7 of green and bits 2, 5, 8 of
    blue (`VOClabelcolormap.m` of the VOC2012 development kit). Entry 255, void, is (224, 224, 192).
    """
    indices = np.arange(entries)
    colormap = np.zeros((entries, 3), np.uint8)
    for channel in range(3):
        for bit in range(3):
            top_bit = (indices >> (3 * bit + channel)) & 1
            colormap[:, channel] |= (top_bit << (7 - bit)).astype(np.uint8)
    return colormap


PALETTE: NDArray[np.uint8] = voc_colormap()
PALETTE.flags.writeable = False
