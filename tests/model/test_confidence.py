"""The confidence of every engine is the softmax of PyTorch's own layers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.predictor import open_predictor
from tests.model.test_engines import reference_logits


@pytest.mark.parametrize("engine", ["torch", "native", "ncnn"])
@pytest.mark.parametrize(("size", "max_side"), [((64, 96), 0), ((1, 50), 0), ((200, 300), 96)])
def test_the_confidence_is_the_softmax_of_the_masks_class(
    notebook_network, weights_file, photo, engine, size, max_side
):
    try:
        predictor = open_predictor(weights_file, engine=engine, device="cpu", max_side=max_side)
    except Exception as error:
        pytest.skip(f"{engine} does not run here: {error}")
    image = photo[: size[0], : size[1]]
    canvas = predictor.prepare(image)
    (confidence,) = predictor.measure_confidence([canvas])
    assert (confidence.shape, confidence.dtype) == (size, np.uint8)

    logits = reference_logits(notebook_network, canvas.pixels)
    height, width = canvas.region.content
    logits = logits[:, :height, :width]
    if canvas.region.content != size:
        logits = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    expected = 255 * torch.softmax(logits, 0).amax(0).numpy()
    assert np.abs(confidence - expected).max() <= 0.51
    (mask,) = predictor.predict([canvas])
    shown = torch.softmax(logits, 0).numpy()
    of_mask = 255 * np.take_along_axis(shown, mask[None].astype(np.int64), 0)[0]
    assert np.abs(confidence - of_mask).max() <= 0.6


def test_concurrent_callers_get_the_confidence_they_would_get_alone(weights_file, photo):
    predictor = open_predictor(weights_file, device="cpu")
    canvases = [predictor.prepare(np.roll(photo, 37 * i, axis=1)[:96]) for i in range(6)]
    alone = [predictor.measure_confidence([canvas])[0] for canvas in canvases]
    with ThreadPoolExecutor(predictor.engine.callers_at_once) as pool:
        masks = [pool.submit(predictor.predict, [canvas]) for canvas in canvases]
        together = list(
            pool.map(lambda canvas: predictor.measure_confidence([canvas])[0], canvases)
        )
        assert all(mask.result()[0].shape == (96, 451) for mask in masks)
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))
