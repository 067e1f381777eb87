import io
import json
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from app.codecs import jsonmask
from app.codecs.costs import MAX_RUN_LENGTH_PIXELS
from app.codecs.decode import decode_image
from app.codecs.encode import encode_mask, encode_png
from app.codecs.jpegs import MAX_SCANS, SCAN, count_component_samples, is_ordinary
from app.codecs.pictures import DRAFT_MARGIN
from app.codecs.pillow import prepare_pillow
from app.codecs.webp import read_webp_size
from app.errors import BrokenImage, TooManyPixels, UnsupportedType
from app.formats import AnswerFormat
from model.pictures import FORMATS, UPRIGHT
from model.scaling import find_content_size, scale_down, scale_to
from model.weights import Metadata, get_colormap
from tests.app.corpus import blocks, bmp, more_scans, taller, tiff, webp_canvas

LIMIT = 1_000_000


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def _our_limit(monkeypatch):
    """As `create_app` leaves it; undone for other tests."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    prepare_pillow()


@pytest.fixture(scope="module")
def small(photo):
    return Image.fromarray(photo[:90, :120])


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("WEBP", 0), ("JPEG", 12), ("GIF", 40)],
)
def test_every_format_is_decoded(small, kind, tolerance):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    image = decode_image(saved(small, format=kind, **options), max_pixels=LIMIT).pixels
    assert image.shape == (90, 120, 3)
    assert image.dtype == np.uint8
    difference = np.abs(image.astype(int) - np.asarray(small))
    assert difference.mean() <= tolerance / 4


def pillows(data):
    """The pixels that Pillow decodes."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def oriented(image, orientation, **options):
    """A file with that EXIF orientation, which shows `image` when it is turned upright."""
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    if orientation in stored:
        image = image.transpose(stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, exif=exif, quality=95, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_is_turned_upright(small, orientation, kind):
    decoded = decode_image(oriented(small, orientation, format=kind), max_pixels=LIMIT)
    assert decoded.size == (90, 120)
    assert decoded.pixels.shape == (90, 120, 3)
    assert np.abs(decoded.pixels.astype(int) - np.asarray(small)).mean() < 6


def test_a_photo_is_turned_upright_even_if_other_exif_is_damaged(small):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    stored = bytearray(
        saved(small.transpose(Image.Transpose.ROTATE_90), format="JPEG", exif=exif.tobytes())
    )
    entry = stored.index(bytes.fromhex("010f0002"))
    stored[entry + 2 : entry + 4] = bytes.fromhex("000a")  # the maker's name as signed fractions
    assert decode_image(bytes(stored), max_pixels=LIMIT).pixels.shape == (90, 120, 3)


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
    image = decode_image(data, max_pixels=LIMIT).pixels
    assert image.shape == (90, 120, 3)
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_a_cmyk_jpeg_keeps_its_colours(small):
    image = decode_image(
        saved(small.convert("CMYK"), format="JPEG", quality=95), max_pixels=LIMIT
    ).pixels
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
    image = decode_image(saved(Image.fromarray(samples), format="TIFF"), max_pixels=LIMIT).pixels
    assert image[0, :, 0].tolist() == expected


def test_the_first_frame_of_an_animation_is_decoded(small):
    frames = [small.convert("L").convert("RGB"), Image.new("RGB", small.size, (255, 0, 0))]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], format=kind, save_all=True, append_images=frames[1:], **options)
        image = decode_image(data, max_pixels=LIMIT).pixels
        assert np.abs(image.astype(int) - np.asarray(frames[0])).mean() < 4


JPEGS = {
    f"{name}, {'progressive' if progressive else 'baseline'}": options
    | {"progressive": progressive}
    for progressive in (False, True)
    for name, options in {
        "4:4:4": {"subsampling": 0},
        "4:2:2": {"subsampling": 1},
        "4:2:0": {"subsampling": 2},
        "restarts": {"restart_marker_rows": 1},
        "no YCbCr": {"keep_rgb": True},
    }.items()
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("size", [(120, 90), (119, 87), (17, 16), (1, 1), (1, 50), (50, 1)])
def test_a_jpeg_has_the_pixels_that_pillow_gives_it(photo, name, size):
    data = saved(Image.fromarray(photo[: size[1], : size[0]]), format="JPEG", **JPEGS[name])
    decoded = decode_image(data, max_pixels=LIMIT)
    assert decoded.size == size[::-1]
    assert np.array_equal(decoded.pixels, pillows(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("tail", [b"", b"junk" * 50], ids=["", "with junk behind it"])
def test_a_jpeg_of_other_colours_has_the_pixels_that_pillow_gives_it(small, mode, tail):
    data = saved(small.convert(mode), format="JPEG") + tail
    assert np.array_equal(decode_image(data, max_pixels=LIMIT).pixels, pillows(data))


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(JPEGS)),
    damage=st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), max_size=3),
    cut=st.one_of(st.just(0), st.integers(0, 5_000)),
)
def test_a_damaged_jpeg_is_decoded_or_refused_as_by_pillow(name, damage, cut):
    image = Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3))
    data = bytearray(saved(image, format="JPEG", **JPEGS[name]))
    for position, value in damage:
        data[position % len(data)] = value
    data = bytes(data[: max(1, len(data) - cut % len(data))])
    try:
        decoded = decode_image(data, max_pixels=LIMIT).pixels
    except (BrokenImage, UnsupportedType):
        with pytest.raises(Exception):  # noqa: B017, PT011  # whatever it says of it
            pillows(data)
    except TooManyPixels:
        return
    else:
        with Image.open(io.BytesIO(data)) as image:
            upright = image.getexif().get(0x0112) not in UPRIGHT
        assert not upright or np.array_equal(decoded, pillows(data))


@pytest.mark.parametrize("max_side", [0, 16])
@pytest.mark.parametrize("missing", [1, 2, 3, 10, 200])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_broken(small, missing, progressive, max_side):
    data = saved(small, format="JPEG", progressive=progressive)
    with pytest.raises(BrokenImage, match=r"damaged or incomplete\.$"):
        decode_image(data[:-missing], max_pixels=LIMIT, scaling=scale_to(max_side))


def scans_added(count):
    """A progressive JPEG with `count` more scans than it needs."""
    data = saved(Image.new("L", (64, 64), 128), format="JPEG", progressive=True)
    last = [match.start() for match in SCAN.finditer(data)][-1]
    return data[:-2] + data[last:-2] * count + data[-2:]


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded():
    usual = len(SCAN.findall(scans_added(0)))
    most = scans_added(MAX_SCANS - usual)
    assert decode_image(most, max_pixels=LIMIT).pixels.shape == (64, 64, 3)
    with pytest.raises(BrokenImage, match=f"more than {MAX_SCANS} scans"):
        decode_image(scans_added(MAX_SCANS - usual + 1), max_pixels=LIMIT)


def test_a_jpeg_is_ordinary_by_its_coding_and_the_samples_of_its_scans():
    image = Image.new("RGB", (64, 48))
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}):
        assert is_ordinary(saved(image, format="JPEG", **options))
    baseline = saved(image, format="JPEG", subsampling=0)
    frame = baseline.index(b"\xff\xc0")
    head = baseline[frame + 4 :]
    assert count_component_samples(head) == {1: 64 * 48, 2: 64 * 48, 3: 64 * 48}
    odd = head[:1] + struct.pack(">HH", 1, 65) + head[5:]
    assert count_component_samples(odd) == {1: 72 * 8, 2: 72 * 8, 3: 72 * 8}
    for unusual in (
        baseline[:frame] + b"\xff\xc9" + baseline[frame + 2 :],  # arithmetic codes
        baseline[: frame + 4] + b"\x0c" + baseline[frame + 5 :],  # 12 bits
        baseline[: frame + 9] + b"\0" + baseline[frame + 10 :],  # no components
        baseline[: frame + 11] + b"\0" + baseline[frame + 12 :],  # no samples
        baseline[:frame] + baseline[frame : frame + 19] + baseline[frame:],  # two frames
        baseline[:frame] + baseline[frame + 19 :],  # none
    ):
        assert not is_ordinary(unusual)
    for padding in (b"\xff", b"\0", b"\xff\xd0", b"\xff\xfe\0\2"):
        assert is_ordinary(baseline[:-2] + 1000 * padding + baseline[-2:])
        assert not is_ordinary(baseline[:-2] + 2**19 * padding + baseline[-2:])
    noise = Image.effect_noise((800, 600), 255)
    assert is_ordinary(saved(noise, format="JPEG", quality=100))
    camera = saved(Image.new("RGB", (4000, 3000)), format="JPEG")
    assert is_ordinary(camera)
    assert not is_ordinary(saved(Image.new("RGB", (4000, 3400)), format="JPEG"))
    many = saved(Image.new("RGB", (900, 900)), format="JPEG", progressive=True, subsampling=0)
    assert is_ordinary(many)
    assert not is_ordinary(more_scans(many, 90))


@pytest.mark.parametrize("max_side", [0, 32])
def test_fill_bytes_of_a_jpeg_are_read_once(monkeypatch, max_side):
    """A decoder gets the bytes that it has not consumed again, with every further block."""
    blocks_read = []
    load_read = JpegImageFile.load_read

    def reads(image, count):
        blocks_read.append(load_read(image, count))
        return blocks_read[-1]

    monkeypatch.setattr(JpegImageFile, "load_read", reads)
    image = saved(Image.new("CMYK", (64, 64)), format="JPEG")
    data = image[:-2] + 2**20 * b"\xff" + image[-2:]
    assert decode_image(data, max_pixels=LIMIT, scaling=scale_to(max_side)).size == (64, 64)
    assert len(blocks_read) == 1


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_a_row_that_is_longer_than_a_block_is_read_once(monkeypatch, kind):
    """A row of 25 megapixels, read in blocks, took 4 s."""
    counts = []

    class Noted(io.BytesIO):
        def read(self, count=-1):
            counts.append(count)
            return super().read(count)

    data = saved(Image.new("RGB", (300_000, 1)), format=kind)
    monkeypatch.setattr("app.codecs.pictures.io.BytesIO", Noted)
    assert decode_image(data, max_pixels=LIMIT).size == (1, 300_000)
    assert sum(count >= ImageFile.MAXBLOCK for count in counts) == 1


def test_a_webps_canvas_size_is_checked_before_it_is_allocated():
    for lossless in (False, True):
        data = saved(Image.new("RGB", (7, 5)), format="WEBP", lossless=lossless)
        assert read_webp_size(data) == (5, 7)
    assert read_webp_size(saved(Image.new("RGBA", (7, 5)), format="WEBP")) == (5, 7)
    assert read_webp_size(webp_canvas(40_000, 300)) == (300, 40_000)
    with pytest.raises(TooManyPixels):
        decode_image(webp_canvas(40_000, 300), max_pixels=LIMIT)


def test_a_large_run_length_coded_bmp_is_refused():
    row = {"height": 1, "bits": 8, "compression": 1, "pixels": b"\1\0\0\0\0\1"}
    most = decode_image(bmp(MAX_RUN_LENGTH_PIXELS, **row), max_pixels=10**9, scaling=scale_to(64))
    assert most.size == (1, MAX_RUN_LENGTH_PIXELS)
    with pytest.raises(TooManyPixels, match=f"has {MAX_RUN_LENGTH_PIXELS + 1} pixels, the limit"):
        decode_image(bmp(MAX_RUN_LENGTH_PIXELS + 1, **row), max_pixels=10**9)


def cut_tiles(width, height, *, side):
    tiles = -(-width // side) * -(-height // side)
    offsets, lengths, pixels = blocks(zlib.compress(bytes(side * side)), tiles)
    return tiff(
        {
            256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 273: None, 279: None,
            322: side, 323: side, 324: offsets, 325: lengths,
        },
        pixels=pixels,
    )  # fmt: skip


def test_a_tiffs_tiles_count_with_their_part_outside_the_picture():
    assert decode_image(cut_tiles(16, 20, side=1408), max_pixels=LIMIT).size == (20, 16)
    with pytest.raises(TooManyPixels, match="cover 20070400 pixels, the limit is 2000000"):
        decode_image(cut_tiles(16, 20, side=4480), max_pixels=LIMIT)
    assert decode_image(cut_tiles(999, 999, side=64), max_pixels=LIMIT).size == (999, 999)
    for side in (0, 2**31):
        data = tiff({322: side, 323: side, 324: 8, 325: 9, 259: 8, 273: None, 279: None})
        with pytest.raises((BrokenImage, TooManyPixels)):
            decode_image(data, max_pixels=LIMIT)


def test_a_tiff_with_overlapping_strips_is_refused():
    grey = {256: 1000, 257: 1000, 258: 1, 262: 1, 277: 1}
    most = tiff(grey | {278: 999, 273: [8] * 4, 279: [125_000] * 4}, pixels=bytes(125_000))
    assert decode_image(most, max_pixels=LIMIT).size == (1000, 1000)
    over = tiff(grey | {278: 999, 273: [8] * 5, 279: [125_000] * 5}, pixels=bytes(125_000))
    with pytest.raises(TooManyPixels, match="strips or tiles cover 2999000 pixels"):
        decode_image(over, max_pixels=LIMIT)


def test_a_jpeg_in_a_tiff_is_not_larger_than_the_limit():
    jpeg = saved(Image.new("RGB", (500, 16)), format="JPEG", progressive=True)
    tags = {256: 500, 257: 16, 259: 7, 262: 6, 278: 16, 279: len(jpeg)}
    assert decode_image(tiff(tags, pixels=taller(jpeg, 2000)), max_pixels=LIMIT).size == (16, 500)
    with pytest.raises(TooManyPixels, match="JPEG in the TIFF has 500 x 2001 = 1000500 pixels"):
        decode_image(tiff(tags, pixels=taller(jpeg, 2001)), max_pixels=LIMIT)


def test_pillows_warnings_are_off():
    """Python keeps the text of each warning, and here each file would have a different one."""
    with warnings.catch_warnings(record=True) as caught:
        prepare_pillow()
        for count in (2, 3):
            tag_twice = tiff({256: [16] * count})
            decode_image(tag_twice, max_pixels=LIMIT)
    assert not caught


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("max_side", [32, 75, 224])
def test_a_scaled_photo_is_upright_and_has_its_original_size(photo, orientation, kind, max_side):
    data = oriented(Image.fromarray(photo), orientation, format=kind)
    decoded = decode_image(data, max_pixels=LIMIT, scaling=scale_to(max_side))
    content = find_content_size((300, 451), scale_to(max_side))
    assert decoded.size == (300, 451)
    assert decoded.pixels.shape == (*content, 3)
    expected = np.asarray(scale_down(Image.fromarray(photo), content))
    difference = np.abs(decoded.pixels.astype(int) - expected)
    if kind == "JPEG":
        assert difference.mean() < 4
    else:  # a rotated picture is scaled along the other side first, with rounding in between
        assert difference.max() <= (1 if orientation > 4 else 0)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    max_side=st.integers(32, 420),
    orientation=st.integers(1, 8),
    kind=st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP"]),
)
def test_the_scaled_size_depends_on_the_upload_alone(size, max_side, orientation, kind):
    height, width = size
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    decoded = decode_image(
        oriented(image, orientation, format=kind), max_pixels=LIMIT, scaling=scale_to(max_side)
    )
    assert decoded.size == size
    assert decoded.pixels.shape == (*find_content_size(size, scale_to(max_side)), 3)


@pytest.mark.parametrize(("width", "height"), [(1601, 1203), (1600, 1200), (1607, 97)])
def test_scaling_in_the_jpeg_decoder_changes_little(photo, width, height):
    large = Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS)
    data = saved(large, format="JPEG", quality=90)
    for max_side in (64, 100, 200, 333, 400):
        content = find_content_size((height, width), scale_to(max_side))
        full = Image.fromarray(pillows(data))
        expected = np.asarray(scale_down(full, content)).astype(int)
        decoded = decode_image(data, max_pixels=10 * LIMIT, scaling=scale_to(max_side))
        assert decoded.size == (height, width)
        assert decoded.pixels.shape == expected.shape
        assert np.abs(decoded.pixels - expected).mean() < 1.5
    for max_side in (width // (2 * DRAFT_MARGIN) + 2, width // 2, width - 1, width):
        content = find_content_size((height, width), scale_to(max_side))
        decoded = decode_image(data, max_pixels=10 * LIMIT, scaling=scale_to(max_side))
        assert np.array_equal(decoded.pixels, scale_down(Image.fromarray(pillows(data)), content))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_a_jpeg_of_any_colours_is_scaled(photo, mode):
    data = saved(Image.fromarray(photo).convert(mode), format="JPEG", quality=95)
    decoded = decode_image(data, max_pixels=LIMIT, scaling=scale_to(64))
    assert decoded.size == (300, 451)
    expected = scale_down(Image.fromarray(pillows(data)), (43, 64))
    assert np.abs(decoded.pixels.astype(int) - np.asarray(expected)).mean() < 2


def test_the_limit_is_on_the_uploads_own_pixels(photo):
    data = saved(Image.fromarray(photo), format="JPEG")
    with pytest.raises(TooManyPixels, match="451 x 300 = 135300 pixels, the limit is 135299"):
        decode_image(data, max_pixels=135_299, scaling=scale_to(32))
    assert decode_image(data, max_pixels=135_300, scaling=scale_to(32)).size == (300, 451)


def test_a_photo_with_a_second_picture_in_it_is_decoded(small):
    other = small.transpose(Image.Transpose.ROTATE_180)
    data = saved(small, format="MPO", save_all=True, append_images=[other])
    assert np.array_equal(decode_image(data, max_pixels=LIMIT).pixels, pillows(data))
    assert decode_image(data, max_pixels=LIMIT, scaling=scale_to(32)).pixels.shape == (24, 32, 3)


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
        decode_image(png_of_claimed_size(*size), max_pixels=LIMIT)


def test_our_pixel_limit_replaces_pillows():
    with pytest.raises(TooManyPixels, match="20000 x 20000 = 400000000 pixels, the limit is 3999"):
        decode_image(png_of_claimed_size(20_000, 20_000), max_pixels=399_999_999)


def test_the_limit_itself_is_allowed():
    data = saved(Image.new("L", (1000, 1000)), format="PNG")
    assert decode_image(data, max_pixels=LIMIT).pixels.shape == (1000, 1000, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_truncated_image_is_broken(small, kind):
    data = saved(small, format=kind)
    with pytest.raises((BrokenImage, UnsupportedType)) as caught:
        decode_image(data[: len(data) // 2], max_pixels=LIMIT)
    if kind in ("JPEG", "PNG"):
        assert caught.type is BrokenImage


@pytest.mark.parametrize(
    "data",
    [b"?", b"%PDF-1.7 not an image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 64],
)
def test_a_file_that_is_not_an_image_is_unsupported(data):
    with pytest.raises(UnsupportedType, match="not an image of a supported format"):
        decode_image(data, max_pixels=LIMIT)


def test_an_image_of_another_format_is_unsupported(small):
    for kind in ("PPM", "ICO", "TGA", "PCX"):
        with pytest.raises(UnsupportedType):
            decode_image(saved(small, format=kind), max_pixels=LIMIT)


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
        decoded = decode_image(bytes(data), max_pixels=LIMIT).pixels
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
        assert np.array_equal(np.asarray(image.convert("RGB")), get_colormap(metadata)[mask])


@settings(deadline=None)
@given(mask=masks, step=st.sampled_from([1, 2, -1]))
def test_an_npy_is_the_mask(mask, step):
    mask = mask[:, ::step]
    data = encode_mask(mask, AnswerFormat.NPY, Metadata())
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, mask)
    usual = io.BytesIO()
    np.save(usual, np.ascontiguousarray(mask))
    assert data == usual.getvalue()


@settings(deadline=None)
@given(mask=masks, step=st.sampled_from([1, 2, -1]))
def test_a_json_is_the_mask(mask, step):
    mask = mask[:, ::step]
    body = json.loads(encode_mask(mask, AnswerFormat.JSON, Metadata()))
    assert (body["height"], body["width"]) == mask.shape
    assert np.array_equal(np.array(body["mask"], np.uint8), mask)


def test_present_classes_are_counted():
    mask = np.array([[0, 8, 8], [8, 0, 15]], np.uint8)
    assert jsonmask.list_present(jsonmask.count(mask), Metadata().classes) == [
        {"index": 0, "name": "background", "pixels": 2},
        {"index": 8, "name": "cat", "pixels": 3},
        {"index": 15, "name": "person", "pixels": 1},
    ]


def test_the_classes_of_a_large_mask_are_counted_in_pieces():
    mask = np.random.default_rng(0).integers(0, 21, (701, 353), dtype=np.uint8)
    mask[mask == 7] = 0
    present = jsonmask.list_present(jsonmask.count(mask), range(21))
    counted = {entry["index"]: entry["pixels"] for entry in present}
    values, pixels = np.unique(mask, return_counts=True)
    assert counted == dict(zip(values.tolist(), pixels.tolist(), strict=True))
