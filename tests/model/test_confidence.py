"""The confidence of every engine is the softmax of PyTorch's own layers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.predictor import open_predictor
from model.scaling import scale_to
from tests.model.test_engines import reference_logits


@pytest.mark.parametrize("engine", ["torch", "native", "ncnn"])
@pytest.mark.parametrize(("size", "max_side"), [((64, 96), 0), ((1, 50), 0), ((200, 300), 96)])
def test_the_confidence_is_the_softmax_of_the_masks_class(
    notebook_network, weights_file, photo, engine, size, max_side
):
    try:
        predictor = open_predictor(
            weights_file, engine=engine, device="cpu", scaling=scale_to(max_side)
        )
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


@pytest.mark.parametrize("engine", ["torch", "native", "ncnn"])
@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1), (40_000, 5), (1100, 1300)])
def test_a_much_larger_mask_than_the_content_is_what_its_pixels_say(
    notebook_network, weights_file, photo, engine, size
):
    # One upload of 25 megapixels in a line took 11 s, which stopped the engine as stuck.
    try:
        predictor = open_predictor(weights_file, engine=engine, device="cpu", scaling=scale_to(64))
    except Exception as error:
        pytest.skip(f"{engine} does not run here: {error}")
    height, width = size
    part = photo[: min(height, 300), : min(width, 400)]
    rows, columns = (
        np.arange(side) * known // side for side, known in zip(size, part.shape[:2], strict=True)
    )
    canvas = predictor.prepare(part[rows][:, columns])
    (mask,), (confidence,) = predictor.predict([canvas]), predictor.measure_confidence([canvas])
    assert mask.shape == confidence.shape == size
    # Every 97th pixel alone, in float64.
    logits = scaled_logits(notebook_network, canvas)
    assert np.mean(mask.ravel()[::97] == logits.argmax(0)) >= 0.999
    expected = 255 / np.exp(logits - logits.max(0)).sum(0)
    assert np.abs(confidence.ravel()[::97] - expected).max() <= 0.55


def scaled_logits(network, canvas):
    """The logits (C, N) of every 97th pixel of the mask, interpolated between the canvas' own."""
    (height, width), output = canvas.region.content, canvas.region.output
    own = reference_logits(network, canvas.pixels).double().numpy()[:, :height, :width]
    pixels = np.arange(0, output[0] * output[1], 97)
    places = (pixels // output[1], pixels % output[1])
    (down, right) = (
        np.clip((place + 0.5) * source / side - 0.5, 0, source - 1)
        for place, source, side in zip(places, (height, width), output, strict=True)
    )
    y, x = down.astype(int), right.astype(int)
    below, beside = np.minimum(y + 1, height - 1), np.minimum(x + 1, width - 1)
    right, down = right - x, down - y
    upper = own[:, y, x] * (1 - right) + own[:, y, beside] * right
    lower = own[:, below, x] * (1 - right) + own[:, below, beside] * right
    return upper * (1 - down) + lower * down


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
