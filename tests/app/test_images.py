import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from app.accept import AnswerFormat
from app.errors import BrokenImage, TooManyPixels, UnsupportedType
from app.images import decode, drop_pillows_limit, encode, encode_png, present_classes
from model.weights import Metadata, colormap

LIMIT = 1_000_000


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def _our_limit(monkeypatch):
    """As `create_app` leaves it; undone for other tests."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    drop_pillows_limit()


@pytest.fixture(scope="module")
def small(photo):
    return Image.fromarray(photo[:90, :120])


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("WEBP", 0), ("JPEG", 12), ("GIF", 40)],
)
def test_every_format_is_decoded(small, kind, tolerance):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    image = decode(saved(small, format=kind, **options), max_pixels=LIMIT)
    assert image.shape == (90, 120, 3)
    assert image.dtype == np.uint8
    difference = np.abs(image.astype(int) - np.asarray(small))
    assert difference.mean() <= tolerance / 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_is_turned_upright(small, orientation, kind):
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = small
    for turn in turns.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(saved(stored, format=kind, exif=exif, quality=95), max_pixels=LIMIT)
    assert image.shape == (90, 120, 3)
    assert np.abs(image.astype(int) - np.asarray(small)).mean() < 6


def test_a_photo_is_turned_upright_though_the_rest_of_its_exif_is_damaged(small):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    stored = bytearray(
        saved(small.transpose(Image.Transpose.ROTATE_90), format="JPEG", exif=exif.tobytes())
    )
    entry = stored.index(bytes.fromhex("010f0002"))
    stored[entry + 2 : entry + 4] = bytes.fromhex("000a")  # the maker's name as signed fractions
    assert decode(bytes(stored), max_pixels=LIMIT).shape == (90, 120, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(small, mode):
    if mode == "I;16":
        grey = np.asarray(small.convert("L")).astype(np.uint16)
        data = saved(Image.fromarray(grey * 257), format="PNG")
        expected = np.repeat(grey[..., None], 3, axis=2)
    else:
        stored = small.convert("P").convert("PA") if mode == "PA" else small.convert(mode)
        kind = "PNG" if mode in ("1", "L", "LA", "P", "RGBA") else "TIFF"
        data = saved(stored, format=kind)
        expected = np.asarray(stored.convert("RGB"))
    image = decode(data, max_pixels=LIMIT)
    assert image.shape == (90, 120, 3)
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_a_cmyk_jpeg_keeps_its_colours(small):
    image = decode(saved(small.convert("CMYK"), format="JPEG", quality=95), max_pixels=LIMIT)
    assert np.abs(image.astype(int) - np.asarray(small)).mean() < 6


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0, 65535, 32768]], np.int32), [0, 255, 128]),
        (np.array([[0.0, 1.0, 0.5]], np.float32), [0, 255, 127]),
        (np.array([[0.0, 255.0, 128.0]], np.float32), [0, 255, 128]),
        (np.array([[np.nan, 0.25, 1.0]], np.float32), [0, 63, 255]),
    ],
)
def test_deep_samples_are_brought_to_eight_bits(samples, expected):
    image = decode(saved(Image.fromarray(samples), format="TIFF"), max_pixels=LIMIT)
    assert image[0, :, 0].tolist() == expected


def test_of_an_animation_the_first_frame_is_taken(small):
    frames = [small.convert("L").convert("RGB"), Image.new("RGB", small.size, (255, 0, 0))]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], format=kind, save_all=True, append_images=frames[1:], **options)
        image = decode(data, max_pixels=LIMIT)
        assert np.abs(image.astype(int) - np.asarray(frames[0])).mean() < 4


def test_a_photo_with_a_second_picture_in_it_is_decoded(small):
    data = saved(small, format="MPO", save_all=True, append_images=[small])
    assert decode(data, max_pixels=LIMIT).shape == (90, 120, 3)


def png_of_claimed_size(width, height):
    """A PNG of a few bytes whose header claims any size."""

    def chunk(name, content):
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(1001, 1000), (10_000, 10_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_from_the_header(size):
    with pytest.raises(TooManyPixels):
        decode(png_of_claimed_size(*size), max_pixels=LIMIT)


def test_our_limit_goes_before_pillows():
    with pytest.raises(TooManyPixels, match="20000 x 20000 = 400000000 pixels, the limit is 3999"):
        decode(png_of_claimed_size(20_000, 20_000), max_pixels=399_999_999)


def test_the_limit_itself_is_allowed():
    data = saved(Image.new("L", (1000, 1000)), format="PNG")
    assert decode(data, max_pixels=LIMIT).shape == (1000, 1000, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_truncated_image_is_broken(small, kind):
    data = saved(small, format=kind)
    with pytest.raises((BrokenImage, UnsupportedType)) as caught:
        decode(data[: len(data) // 2], max_pixels=LIMIT)
    if kind in ("JPEG", "PNG"):
        assert caught.type is BrokenImage


@pytest.mark.parametrize(
    "data",
    [b"?", b"%PDF-1.7 not an image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 64],
)
def test_what_is_no_image_is_unsupported(data):
    with pytest.raises(UnsupportedType, match="not an image of a supported format"):
        decode(data, max_pixels=LIMIT)


def test_a_format_off_the_list_is_unsupported(small):
    for kind in ("PPM", "ICO", "TGA", "PCX"):
        with pytest.raises(UnsupportedType):
            decode(saved(small, format=kind), max_pixels=LIMIT)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 10_000),
)
def test_damaged_bytes_give_an_image_or_a_problem(kind, damage, cut):
    image = Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3))
    data = bytearray(saved(image, format=kind))
    for position, value in damage:
        data[position % len(data)] = value
    data = data[: max(1, len(data) - cut % len(data))]
    try:
        decoded = decode(bytes(data), max_pixels=LIMIT)
    except (BrokenImage, TooManyPixels, UnsupportedType):
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3
    assert decoded.shape[2] == 3


masks = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 20)
)


@settings(deadline=None)
@given(mask=masks)
def test_a_png_is_both_the_indices_and_the_colours(mask):
    metadata = Metadata()
    with Image.open(io.BytesIO(encode_png(mask, metadata))) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), mask)
        assert np.array_equal(np.asarray(image.convert("RGB")), colormap(metadata)[mask])


@settings(deadline=None)
@given(mask=masks)
def test_an_npy_is_the_mask(mask):
    data = encode(mask, AnswerFormat.NPY, Metadata())
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, mask)


def test_present_classes_are_counted():
    mask = np.array([[0, 8, 8], [8, 0, 15]], np.uint8)
    assert present_classes(mask, Metadata().classes) == [
        {"index": 0, "name": "background", "pixels": 2},
        {"index": 8, "name": "cat", "pixels": 3},
        {"index": 15, "name": "person", "pixels": 1},
    ]
