"""The notebook's loop in the training benchmark, compared with our own step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.notebook import NotebookImages, normalize_images
from benchmarks.train import (
    BOOK,
    FLOAT32,
    LOOPS,
    TOLERANCE,
    Plan,
    compare_losses,
    measure_epochs,
    open_loop,
)
from benchmarks.voc import choose_samples, make_voc
from model.class_list import VOC
from model.training.recipe import PRESETS


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    make_voc(folder, 8, size=(70, 100))
    return choose_samples(folder, (64, 64), 8)


PLAN = Plan(images=8, rounds=1, batch_size=4, crop=(64, 64), workers=0)


def test_our_d2l_step_loses_and_learns_what_the_books_does(samples):
    assert compare_losses(PLAN, samples) < TOLERANCE


def test_the_book_normalises_images_and_counts_void_as_background(samples):
    image, target = NotebookImages(samples, size=(70, 100))[3]
    expected_image, expected_target = samples[3].read(VOC)
    assert 255 in expected_target
    pixels = torch.from_numpy(expected_image.copy()).permute(2, 0, 1)
    torch.testing.assert_close(
        image, normalize_images(pixels), rtol=0, atol=0.2
    )  # another JPEG decoder
    assert np.array_equal(target, np.where(expected_target == 255, 0, expected_target))


def test_a_crop_of_the_book_is_the_same_window_of_image_and_mask(samples):
    images = NotebookImages(samples[:1], size=(64, 64))
    images.images[0] = images.masks[0].float()
    torch.manual_seed(0)
    for _ in range(5):
        image, target = images[0]
        red, green, blue = image.long()
        assert torch.equal(images.index_of[(red * 256 + green) * 256 + blue], target)


def test_each_loop_trains_its_epochs_in_a_process_of_its_own(samples):
    loops = [BOOK, "d2l"]
    seconds, peaks_mib = measure_epochs(replace(PLAN, workers=1), samples, loops)
    assert list(seconds) == list(peaks_mib) == loops
    assert all(len(values) == 1 for values in seconds.values())
    assert min(peaks_mib.values()) > 100


def test_bfloat16_is_compared_with_float32_in_the_same_run():
    assert FLOAT32 in LOOPS
    plan = Plan()
    one, other = plan.choose_recipe("default"), plan.choose_recipe(FLOAT32)
    assert one.precision == PRESETS["default"].precision == "auto"
    assert other == replace(one, precision="float32")


def test_too_few_images_are_named_with_their_remedy(tmp_path):
    make_voc(tmp_path, 2, size=(70, 100))
    with pytest.raises(SystemExit, match=r"has 2 images of 64 x 96 or more .* --images"):
        choose_samples(tmp_path, (64, 96), 3)


def test_our_loop_goes_through_its_epochs(samples):
    loop = open_loop("d2l", PLAN, samples)
    loop.train_epoch()
    loop.train_epoch()
    assert (loop.training.step, loop.training.epoch) == (4, 2)
