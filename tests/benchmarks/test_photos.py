"""The photos that benchmarks send."""

import io

import pytest
from PIL import Image

from benchmarks.photos import make_photos, read_photos


def test_made_photos_differ_and_are_the_same_every_time():
    photos = make_photos(3, (60, 80))
    assert photos == make_photos(3, (60, 80))
    assert len(set(photos)) == 3
    assert all(Image.open(io.BytesIO(photo)).size == (80, 60) for photo in photos)


def test_a_folder_gives_its_photos_of_the_size(tmp_path):
    for name, size in (("b.jpg", (80, 60)), ("a.jpeg", (80, 60)), ("c.jpg", (60, 80))):
        Image.new("RGB", size).save(tmp_path / name, "JPEG")
    assert read_photos(tmp_path, 2, (60, 80)) == [
        (tmp_path / name).read_bytes() for name in ("a.jpeg", "b.jpg")
    ]
    with pytest.raises(FileNotFoundError, match=r"3 JPEG photos 80 pixels wide .* found 2"):
        read_photos(tmp_path, 3, (60, 80))
