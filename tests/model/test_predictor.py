import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.predictor import canvas_size, content_size, open_predictor
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


def test_an_image_is_scaled_only_above_max_side(predictor, notebook_network, photo):
    assert predictor.prepare(photo, max_side=451).region.content == (300, 451)
    canvas = predictor.prepare(photo, max_side=224)
    assert canvas.region.content == (149, 224)
    assert canvas.size == (160, 224)
    (mask,) = predictor.predict([canvas])
    assert mask.shape == (300, 451)
    logits = reference_logits(notebook_network, canvas.pixels)[None, :, :149, :224]
    expected = F.interpolate(logits, (300, 451), mode="bilinear", align_corners=False)[0]
    assert np.mean(mask == torch.argmax(expected, dim=0).numpy()) >= 0.999


def test_sizes():
    assert content_size((3000, 4000), 1024) == (768, 1024)
    assert content_size((3000, 4000), 0) == (3000, 4000)
    assert content_size((1, 10000), 100) == (1, 100)
    assert canvas_size((1, 33)) == (32, 64)
    assert canvas_size((320, 480)) == (320, 480)
