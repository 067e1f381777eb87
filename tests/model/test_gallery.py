import numpy as np
import pytest
from PIL import Image

from model.gallery import GAP, HEIGHT, main
from model.predictor import open_predictor
from model.scaling import SERVED
from model.weights import get_colormap
from tests.conftest import PHOTO


def test_each_photo_is_above_its_mask_and_both(weights_file, photo, tmp_path):
    square = photo[:HEIGHT, :HEIGHT]
    Image.fromarray(square).save(tmp_path / "square.png")
    arguments = [tmp_path / "gallery.png", tmp_path / "square.png", PHOTO]
    main([*map(str, arguments), f"--weights={weights_file}"])
    picture = np.asarray(Image.open(tmp_path / "gallery.png"))
    wide = round(photo.shape[1] * HEIGHT / photo.shape[0])
    assert picture.shape == (3 * HEIGHT + 2 * GAP, HEIGHT + GAP + wide, 3)
    rows = [picture[top : top + HEIGHT, :HEIGHT] for top in (0, HEIGHT + GAP, 2 * (HEIGHT + GAP))]
    predictor = open_predictor(weights_file, device="cpu", scaling=SERVED)
    mask = predictor(square)
    colours = get_colormap(predictor.metadata)[mask]
    assert np.array_equal(rows[0], square)
    assert np.array_equal(rows[1], colours)
    assert np.array_equal(rows[2][mask == 0], square[mask == 0])
    blended = 0.4 * square[mask != 0] + 0.6 * colours[mask != 0]
    assert np.abs(rows[2][mask != 0] - blended).max() <= 1


def test_photos_are_read_as_the_service_reads_them(weights_file, photo, tmp_path):
    """Among them PNGs of 16 bits, which Pillow's own conversion makes white."""
    levels = photo[:HEIGHT, :HEIGHT, 1]
    Image.fromarray(levels.astype(np.uint16) << 8).save(tmp_path / "deep.png")
    main([str(tmp_path / "out.png"), str(tmp_path / "deep.png"), f"--weights={weights_file}"])
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(picture[:HEIGHT, :, 0], levels)


def test_a_photo_that_cannot_be_read_is_one_line(weights_file, tmp_path):
    with pytest.raises(SystemExit, match=r"error: nothing\.jpg is missing"):
        main([str(tmp_path / "out.png"), "nothing.jpg", f"--weights={weights_file}"])
