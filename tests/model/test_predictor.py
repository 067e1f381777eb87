import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from model.engines.choice import start_engine
from model.errors import EngineError
from model.predictor import find_canvas_size, open_predictor
from model.scaling import (
    SERVED,
    UNSCALED,
    Scaling,
    find_content_size,
    scale_down,
    scale_to,
)
from tests.model.test_engines import reference_logits


@pytest.fixture(scope="module")
def predictor(weights_file):
    return open_predictor(weights_file, device="cpu")


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 97), (31, 33), (32, 32), (100, 451), (300, 451)]
)
def test_a_mask_has_the_images_size_and_equals_the_padded_forward_pass(
    predictor, notebook_network, photo, height, width
):
    image = photo[:height, :width]
    mask = predictor(image)
    assert mask.shape == (height, width)
    canvas = np.empty((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.uint8)
    canvas[:] = (124, 116, 104)
    canvas[:height, :width] = image
    expected = reference_logits(notebook_network, canvas).argmax(dim=0)[:height, :width]
    assert np.mean(mask == expected.numpy()) >= 0.999


def test_the_service_scales_larger_images_than_the_notebooks_to_its_best_size():
    assert find_content_size((320, 480), SERVED) == (320, 480)
    assert find_content_size((480, 480), SERVED) == (480, 480)
    assert find_content_size((481, 100), SERVED) == (384, 80)
    assert find_content_size((375, 500), SERVED) == (288, 384)
    assert find_content_size((3000, 4000), SERVED) == (288, 384)


@pytest.mark.parametrize(
    ("scaling", "size"),
    [
        (Scaling(max_side=0, unscaled_side=480), (375, 500)),
        (Scaling(max_side=1024, unscaled_side=480), (375, 500)),
        (Scaling(max_side=400, unscaled_side=0), (300, 400)),
        (scale_to(0), (375, 500)),
        (scale_to(500), (375, 500)),
        (scale_to(100), (75, 100)),
    ],
)
def test_an_image_of_more_than_both_sides_is_scaled(scaling, size):
    assert find_content_size((375, 500), scaling) == size


def test_an_image_is_scaled_only_above_max_side(predictor, notebook_network, photo):
    assert predictor.prepare(photo, scaling=scale_to(451)).region.content == (300, 451)
    canvas = predictor.prepare(photo, scaling=scale_to(224))
    assert canvas.region.content == (149, 224)
    assert canvas.size == (160, 224)
    (mask,) = predictor.predict([canvas])
    assert mask.shape == (300, 451)
    logits = reference_logits(notebook_network, canvas.pixels)[None, :, :149, :224]
    expected = F.interpolate(logits, (300, 451), mode="bilinear", align_corners=False)[0]
    assert np.mean(mask == torch.argmax(expected, dim=0).numpy()) >= 0.999


def test_an_image_may_be_scaled_already(predictor, photo):
    scaled = np.asarray(scale_down(Image.fromarray(photo), (149, 224)))
    canvas = predictor.prepare(scaled, scaling=scale_to(224), size=(300, 451))
    expected = predictor.prepare(photo, scaling=scale_to(224))
    assert canvas.region == expected.region
    assert np.array_equal(canvas.pixels, expected.pixels)


def test_an_image_may_be_scaled_in_part(predictor, photo):
    half = np.asarray(Image.fromarray(photo).reduce(2))
    assert half.shape == (150, 226, 3)
    canvas = predictor.prepare(half, scaling=scale_to(100), size=(300, 451))
    assert canvas.region.content == (67, 100)
    assert canvas.region.output == (300, 451)
    expected = predictor.prepare(photo, scaling=scale_to(100))
    assert np.abs(canvas.pixels.astype(int) - expected.pixels).mean() < 3


def test_content_and_canvas_sizes_follow_from_the_image_size():
    assert find_content_size((3000, 4000), scale_to(1024)) == (768, 1024)
    assert find_content_size((3000, 4000), UNSCALED) == (3000, 4000)
    assert find_content_size((1, 10000), scale_to(100)) == (1, 100)
    assert find_canvas_size((1, 33)) == (32, 64)
    assert find_canvas_size((320, 480)) == (320, 480)


class OverflowingEngine:
    """Like a GPU on which these weights exceed the range of float16."""

    description, device = "an engine in float16", "cuda:0"

    def segment(self, canvases, regions):
        return [np.full(region.output, 255, np.uint8) for region in regions]


def start_overflowing(weights, *, precision, **options):
    if precision in ("auto", "float16"):
        return OverflowingEngine()
    return start_engine(weights, engine="torch", device="cpu", precision=precision)


def test_auto_falls_back_to_float32_where_the_masks_are_wrong(
    predictor, weights_file, photo, monkeypatch, caplog
):
    monkeypatch.setattr("model.predictor.start_engine", start_overflowing)
    exact = open_predictor(weights_file, precision="auto")
    assert np.mean(exact(photo) == predictor(photo)) >= 0.999
    assert "an engine in float16 does not compute the network" in caplog.text
    with pytest.raises(EngineError, match="SEG_PRECISION=float32 is exact"):
        open_predictor(weights_file, precision="float16")
