"""Properties of decoding and encoding that hold for any upload and any mask."""

import io
import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from app.codecs.decode import decode_image
from app.codecs.encode import encode_mask
from app.codecs.pillow import prepare_pillow
from app.errors import BrokenImage, TooManyPixels, UnsupportedType
from app.formats import AnswerFormat
from model.pictures import UPRIGHT
from model.scaling import find_content_size, scale_to
from model.weights import Metadata, get_colormap
from tests.app.corpus import damaged, ordinary, saved

LIMIT = 100_000
BACK = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""The transposition that undoes an orientation, for those that do not undo themselves."""

STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"GIF89a", b"BM", b"II*\0\x08\0\0\0",
    b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"RIFF\xff\0\0\0WEBPVP8X", b"RIFF\xff\0\0\0WEBPVP8L",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _our_limit(monkeypatch):
    """As `create_app` leaves it; undone for other tests."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    prepare_pillow()


def pictures(max_side=70):
    shapes = st.tuples(st.integers(1, max_side), st.integers(1, max_side), st.just(3))
    return arrays(np.uint8, shapes)


@cache
def files():
    return [data for family in (ordinary, damaged) for _, data in family()]


@st.composite
def spliced(draw):
    """The start of one file, any bytes, and the end of another."""
    first, last = draw(st.sampled_from(files())), draw(st.sampled_from(files()))
    cut = draw(st.integers(0, len(first)))
    return first[:cut] + draw(st.binary(max_size=50)) + last[draw(st.integers(0, len(last))) :]


starting = st.builds(bytes.__add__, st.sampled_from(STARTS), st.binary(max_size=300))


@settings(max_examples=400)
@given(data=st.binary(max_size=300) | starting | spliced(), max_side=st.sampled_from([0, 32]))
def test_any_bytes_are_an_image_or_one_of_three_problems(data, max_side):
    try:
        decoded = decode_image(data, max_pixels=LIMIT, scaling=scale_to(max_side))
    except (BrokenImage, TooManyPixels, UnsupportedType):
        return
    height, width = decoded.size
    assert 0 < height * width <= LIMIT
    assert decoded.pixels.shape == (*find_content_size(decoded.size, scale_to(max_side)), 3)
    assert decoded.pixels.dtype == np.uint8


@settings(max_examples=150)
@given(
    pixels=pictures(),
    orientation=st.integers(1, 8),
    kind=st.sampled_from(["PNG", "TIFF", "WEBP", "BMP"]),
)
def test_a_lossless_upload_is_decoded_to_its_very_pixels(pixels, orientation, kind):
    upright = Image.fromarray(pixels)
    if kind == "BMP":  # has no EXIF
        data = saved(upright, kind)
    else:
        stored = upright
        if orientation in UPRIGHT:
            stored = upright.transpose(BACK.get(orientation, UPRIGHT[orientation]))
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        data = saved(stored, kind, exif=exif, **options)
    decoded = decode_image(data, max_pixels=LIMIT)
    assert decoded.size == pixels.shape[:2]
    assert np.array_equal(decoded.pixels, pixels)


masks = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, max_side=60)
    | st.tuples(st.just(1), st.integers(1, 5000))
    | st.tuples(st.integers(1, 5000), st.just(1)),
    elements=st.integers(0, 20),
    fill=st.integers(0, 20),
)
views = st.sampled_from(
    [lambda mask: mask, lambda mask: mask.T, lambda mask: mask[::-1, ::2], np.asfortranarray]
)


@settings(max_examples=100)
@given(mask=masks, view=views)
def test_every_answer_reads_back_as_the_mask(mask, view):
    mask, metadata = view(mask), Metadata()
    with Image.open(io.BytesIO(encode_mask(mask, AnswerFormat.PNG, metadata))) as image:
        assert np.array_equal(np.asarray(image), mask)
        assert np.array_equal(np.asarray(image.convert("RGB")), get_colormap(metadata)[mask])
    npy = io.BytesIO(encode_mask(mask, AnswerFormat.NPY, metadata))
    assert np.array_equal(np.load(npy, allow_pickle=False), mask)
    body = json.loads(encode_mask(mask, AnswerFormat.JSON, metadata))
    assert np.array_equal(np.array(body["mask"], np.uint8), mask)
    assert [entry["index"] for entry in body["classes"]] == np.unique(mask).tolist()
    assert sum(entry["pixels"] for entry in body["classes"]) == mask.size
