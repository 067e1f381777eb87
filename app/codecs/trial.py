"""Tries out new weights before they are used: predicts masks and encodes every answer format.

Runs at the start and at each reload. Knows nothing of HTTP.
"""

import numpy as np

from app.codecs.answers import make_answer
from app.formats import AnswerFormat, AnswerOptions
from model.engines.base import Array
from model.predictor import Predictor

# A small size and the size of VOC's photos, because engines choose their kernels by shape.
WARM_UP_SIZES = ((64, 64), (375, 500))


def try_out(predictor: Predictor) -> None:
    """Raise if the predictor does not work, or if an answer cannot be encoded."""
    metadata = predictor.metadata
    classes = len(metadata.classes)
    for size in WARM_UP_SIZES:
        image = np.zeros((*size, 3), np.uint8)
        mask = predictor(image)
        assert mask.shape == size
        assert mask.max() < classes
        (confidence,) = predictor.measure_confidence([predictor.prepare(image)])
        assert confidence.shape == size
    mask = make_mask_of_every_class(classes)
    for answer_format in AnswerFormat:
        for media_type in answer_format.media_types:
            options = AnswerOptions(format=answer_format, media_type=media_type)
            photo = np.zeros((*mask.shape, 3), np.uint8)
            made = make_answer(mask, options, metadata, photo=photo)
            assert made.whole, f"an empty answer in {answer_format}"


def make_mask_of_every_class(classes: int) -> Array:
    """Return a mask (2, classes) that has every class index in each row."""
    row = np.arange(classes, dtype=np.uint8)
    return np.stack([row, row[::-1]])
