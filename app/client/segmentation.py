"""The result of one photo: its mask as an array, as a picture and as an overlay.

Knows nothing of where the mask was computed.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.schemas import PresentClass


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """A photo and its mask. The mask is decoded at the first access."""

    photo: bytes = field(repr=False)
    """The image file that was sent."""
    png: bytes = field(repr=False)
    """The mask as an indexed PNG file: the pixel values are class indices."""
    names: tuple[str, ...] = field(repr=False)
    """The name of each class, by index."""
    weights: str
    """The digest of the weights that computed the mask."""
    request_id: str = ""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    """The server's stages, and the milliseconds that each took."""

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """Class indices, uint8 of shape (height, width), the size of the upright photo."""
        return np.asarray(self.image)

    @cached_property
    def image(self) -> Image.Image:
        """The mask as a Pillow image of mode P, with the classes' colours as its palette."""
        image = Image.open(io.BytesIO(self.png))
        image.load()
        return image

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.height, self.image.width

    @cached_property
    def classes(self) -> list[PresentClass]:
        """The classes in the mask, by index, with their numbers of pixels."""
        counts = np.bincount(self.mask.ravel())
        return [
            PresentClass(index=int(index), name=self.names[index], pixels=int(counts[index]))
            for index in np.flatnonzero(counts)
        ]

    def select(self, name: str) -> NDArray[np.bool_]:
        """Return where the mask has this class, bool of shape (height, width).

        Raises KeyError for a class that the weights do not have.
        """
        if name not in self.names:
            raise KeyError(f"no class {name!r}: the weights have {', '.join(self.names)}")
        found: NDArray[np.bool_] = self.mask == self.names.index(name)
        return found

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """Return the photo with the classes' colours over it, an RGB image.

        `alpha` is the opacity of the colours, 0 to 1. The background keeps the photo's colours.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha} is not between 0 and 1")
        with Image.open(io.BytesIO(self.photo)) as photo:
            upright = ImageOps.exif_transpose(photo).convert("RGB")
        blended = Image.blend(upright, self.image.convert("RGB"), alpha)
        return Image.composite(blended, upright, Image.fromarray(self.mask != 0))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as an indexed PNG file, byte for byte as the server sent it."""
        with open(path, "wb") as file:
            file.write(self.png)
