"""Training sees the same pixels of a file as the service."""

import numpy as np
import pytest
from PIL import Image

from app.codecs.decode import decode_image
from model.class_list import VOC
from model.errors import DatasetError
from model.training.masks import read_mask
from model.training.photos import read_photo, read_size
from model.training.samples import Sample, holds_crop
from tests.app.codecs.test_decode import oriented

LIMIT = 10**6
KINDS = ["JPEG", "PNG", "WEBP", "TIFF"]


@pytest.fixture
def small(photo):
    return Image.fromarray(photo[:60, :90])


@pytest.mark.parametrize("orientation", range(0, 10))
@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_is_upright_as_in_the_service(tmp_path, small, orientation, kind):
    data = oriented(small, orientation, format=kind)
    path = tmp_path / f"a photo.{kind.lower()}"
    path.write_bytes(data)
    expected = decode_image(data, max_pixels=LIMIT)
    assert np.array_equal(read_photo(path), expected.pixels)
    assert read_size(path) == expected.size == (60, 90)
    assert holds_crop(Sample("a", path, path), (60, 90))
    assert not holds_crop(Sample("a", path, path), (61, 90))


@pytest.mark.parametrize(
    "exif", [b"nonsense", b"Exif\0\0MM\0*\0\0\0\x08", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_damaged_exif_leaves_the_photo_as_it_is(tmp_path, small, exif):
    small.save(tmp_path / "a.jpg", exif=exif)
    expected = decode_image((tmp_path / "a.jpg").read_bytes(), max_pixels=LIMIT)
    assert np.array_equal(read_photo(tmp_path / "a.jpg"), expected.pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_a_png_of_any_mode_is_seen_as_in_the_service(tmp_path, small, mode):
    picture = small.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257 - 99)
    picture.save(tmp_path / "a.png")
    expected = decode_image((tmp_path / "a.png").read_bytes(), max_pixels=LIMIT)
    assert np.array_equal(read_photo(tmp_path / "a.png"), expected.pixels)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_a_tiff_of_floats_is_seen_as_in_the_service(tmp_path, small, top):
    samples = np.asarray(small.convert("L")).astype(np.float32) / 255 * top
    samples[0, 0] = np.nan
    Image.fromarray(samples).save(tmp_path / "a.tiff")
    expected = decode_image((tmp_path / "a.tiff").read_bytes(), max_pixels=LIMIT)
    assert np.array_equal(read_photo(tmp_path / "a.tiff"), expected.pixels)


def test_a_photo_on_its_side_fits_an_upright_mask_alone(tmp_path, small):
    (tmp_path / "a.jpg").write_bytes(oriented(small, 6, format="JPEG"))
    Image.new("L", small.size).save(tmp_path / "upright.png")
    Image.new("L", small.size[::-1]).save(tmp_path / "stored.png")
    image, target = Sample("a", tmp_path / "a.jpg", tmp_path / "upright.png").read(VOC)
    assert image.shape[:2] == target.shape == (60, 90)
    with pytest.raises(DatasetError, match=r"is 90 x 60, its image 60 x 90.* upright"):
        Sample("a", tmp_path / "a.jpg", tmp_path / "stored.png").read(VOC)
    mask = np.zeros((60, 90), np.uint8)
    mask[:20] = 7
    (tmp_path / "m.png").write_bytes(oriented(Image.fromarray(mask), 6, format="PNG"))
    assert np.array_equal(read_mask(tmp_path / "m.png", VOC), mask), "a mask's EXIF counts, too"
