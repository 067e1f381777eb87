"""What new weights have to do before they serve: masks, and every answer that is made of them.

Runs at the start and at each reload, beside what serves; knows nothing of HTTP.
"""

import numpy as np

from app.codecs.encode import encode_mask
from app.formats import AnswerFormat
from model.engines.base import Array
from model.predictor import Predictor

# One small, one of the size of VOC's photos: the engine's libraries choose kernels by shape.
WARM_UP_SIZES = ((64, 64), (375, 500))


def try_out(predictor: Predictor) -> None:
    """Raises whatever stands against serving with it."""
    classes = len(predictor.metadata.classes)
    for height, width in WARM_UP_SIZES:
        mask = predictor(np.zeros((height, width, 3), np.uint8))
        assert mask.shape == (height, width)
        assert mask.max() < classes
    for answer in AnswerFormat:
        body = encode_mask(mask_of_every_class(classes), answer, predictor.metadata)
        assert body, f"an empty answer in {answer}"


def mask_of_every_class(classes: int) -> Array:
    """Two rows that hold each index, (2, classes)."""
    row = np.arange(classes, dtype=np.uint8)
    return np.stack([row, row[::-1]])
