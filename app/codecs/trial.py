"""The trial of new weights before they are used: predicts masks and encodes every answer format.

Runs at the start and at each reload. Knows nothing of HTTP.
"""

import numpy as np

from app.codecs.encode import encode_mask
from app.formats import AnswerFormat
from model.engines.base import Array
from model.predictor import Predictor

# A small size and that of VOC's photos, because engines choose their kernels by shape.
WARM_UP_SIZES = ((64, 64), (375, 500))


def try_out(predictor: Predictor) -> None:
    """Raise if the predictor does not work."""
    classes = len(predictor.metadata.classes)
    for height, width in WARM_UP_SIZES:
        mask = predictor(np.zeros((height, width, 3), np.uint8))
        assert mask.shape == (height, width)
        assert mask.max() < classes
    for answer in AnswerFormat:
        body = encode_mask(make_mask_of_every_class(classes), answer, predictor.metadata)
        assert body, f"an empty answer in {answer}"


def make_mask_of_every_class(classes: int) -> Array:
    """Return a mask (2, classes) that has every class index in each row."""
    row = np.arange(classes, dtype=np.uint8)
    return np.stack([row, row[::-1]])
