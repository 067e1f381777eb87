import numpy as np
import torch

from model.classes import PALETTE
from model.engines.torch_engine import normalise
from model.training.transforms import (
    draw_crop,
    draw_recolouring,
    draw_view,
    void_to_background,
)


def squares(height=90, width=120):
    """An image whose colours encode its target, so that both must be transformed alike."""
    target = np.zeros((height, width), np.uint8)
    target[10:50, 20:70] = 8
    target[50:85, 60:110] = 15
    return PALETTE[target], target


def test_a_crop_takes_the_same_window_of_image_and_target():
    image, target = squares()
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        view = draw_crop(target.shape, size=(40, 60), rng=rng)
        crop, crop_target = view.cut(image), view.cut(target)
        assert crop_target.shape == (40, 60)
        assert np.array_equal(crop, PALETTE[crop_target])
        seen.add(crop_target.tobytes())
    assert len(seen) > 10


def test_a_crop_of_the_whole_image_is_the_image():
    image, target = squares()
    view = draw_crop(target.shape, size=target.shape, rng=np.random.default_rng(0))
    assert np.array_equal(view.cut(image), image)


def make_view(image, target, *, size, fill, seed):
    rng = np.random.default_rng(seed)
    view = draw_view(target.shape, size=size, scale=(0.5, 2.0), rng=rng)
    recolouring = draw_recolouring(rng)
    return view.of_image(image, fill=fill, recolouring=recolouring), view.of_target(target)


def test_augmentation_moves_image_and_target_together(monkeypatch):
    monkeypatch.setattr("model.training.transforms.COLOUR_JITTER", 0.0)
    monkeypatch.setattr("model.training.transforms.GREYSCALE_SHARE", 0.0)
    image, target = squares()
    for seed in range(30):
        view, view_target = make_view(image, target, size=(64, 80), fill=(1, 2, 3), seed=seed)
        assert view.shape == (64, 80, 3)
        assert view_target.shape == (64, 80)
        void = view_target == 255
        assert (view[void] == (1, 2, 3)).all()
        # Colours blend at edges, so each pixel counts as the class of the nearest colour.
        colours = PALETTE[[0, 8, 15]].astype(int)
        distances = np.abs(view[:, :, None].astype(int) - colours).sum(axis=-1)
        seen = np.array([0, 8, 15])[distances.argmin(axis=-1)]
        assert np.mean(seen[~void] == view_target[~void]) > 0.95


def test_cells_move_with_the_image():
    """A map of cells is flipped, scaled and padded with the image."""
    target = np.zeros((96, 160), np.uint8)
    target[16:64, 24:96] = 1
    cells = (np.arange(2) == target[::8, ::8, None]).astype(np.uint8) * 255
    for seed in range(30):
        rng = np.random.default_rng(seed)
        view = draw_view(target.shape, size=(64, 96), scale=(0.5, 2.0), rng=rng)
        seen = view.of_target(target)
        shares = view.of_cells(cells, cell=8) / 255
        assert shares.shape == (8, 12, 2)
        middle = seen[4::8, 4::8]  # the pixel in the middle of each cell
        np.testing.assert_allclose(shares.sum(axis=2), middle != 255, atol=1e-5)
        sure = shares.max(axis=2) > 0.99
        assert sure.any()
        assert np.array_equal(shares.argmax(axis=2)[sure], middle[sure])


def test_augmentation_depends_on_its_generator_alone():
    image, target = squares()
    views = [
        make_view(image, target, size=(64, 64), fill=(0, 0, 0), seed=seed) for seed in (1, 1, 2)
    ]
    assert np.array_equal(views[0][0], views[1][0])
    assert np.array_equal(views[0][1], views[1][1])
    assert not np.array_equal(views[0][0], views[2][0])


def test_void_becomes_background_for_the_notebook():
    assert void_to_background(np.array([[0, 255, 3]], np.uint8)).tolist() == [[0, 0, 3]]


def test_normalisation_is_the_notebooks():
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (image / 255 - mean) / std
    tensor = normalise(torch.from_numpy(image), mean, std)
    assert tensor.shape == (2, 3, 5, 4)
    np.testing.assert_allclose(tensor.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
