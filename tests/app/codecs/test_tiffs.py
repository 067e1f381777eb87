"""TIFFs that would cost far more than their pixels are refused before any is decoded."""

import io
import random
import struct
import zlib

import pytest
from PIL import Image

from app.codecs import costs, tiffs
from app.codecs.costs import require_modest
from app.codecs.decode import decode_image
from app.codecs.jpegs import SAMPLE_S, SCAN_S, estimate_scans_s
from app.codecs.pictures import open_upload
from app.codecs.stripping import MAX_OFFSETS, strip_file
from app.errors import BrokenImage, TooCostly, TooManyPixels
from tests.app.corpus import (
    blocks,
    ccitt_strips,
    jpeg_segment,
    jpeg_strips,
    more_scans,
    picture,
    saved,
    taller,
    tiff,
)

MAX_PIXELS = 25_000_000
GREY = {258: 8, 262: 1, 277: 1}


def look_at(data, *, max_pixels=MAX_PIXELS):
    """Raise the error for which the header is refused. Decodes nothing."""
    with open_upload(strip_file(data), max_pixels=max_pixels) as upload:
        require_modest(upload.image, upload.data, max_pixels=max_pixels)
        return upload.image.tile[0].codec_name


def divided(width, height, block, count, **tags):
    """A TIFF of that many strips. `tags` are named by their numbers, such as t259."""
    offsets, lengths, pixels = blocks(block, count)
    more = {int(name[1:]): value for name, value in tags.items()}
    return tiff(GREY | {256: width, 257: height, 273: offsets, 279: lengths} | more, pixels=pixels)


def tiled(width, height, side, block, **tags):
    count = -(-width // side) * -(-height // side)
    offsets, lengths, _ = blocks(block, count)
    own = {"t273": None, "t279": None, "t322": side, "t323": side, "t324": offsets, "t325": lengths}
    return divided(width, height, block, count, **own | tags)


@pytest.mark.parametrize("compression", [2, 3, 4, 32771])
def test_a_fax_with_very_long_rows_is_refused(compression):
    """libtiff takes up to 16 bytes for each pixel of a row."""
    one_bit = {"t258": 1, "t259": compression, "t278": 1}
    assert look_at(divided(tiffs.MAX_FAX_WIDTH, 1, bytes(8), 1, **one_bit)) == "libtiff"
    with pytest.raises(TooCostly, match="rows of 1048577 pixels, the limit is 1048576"):
        look_at(divided(tiffs.MAX_FAX_WIDTH + 1, 1, bytes(8), 1, **one_bit))
    tile = tiled(MAX_PIXELS, 1, MAX_PIXELS, bytes(8), **one_bit | {"t278": None, "t323": 1})
    with pytest.raises(TooCostly, match="rows of 25000000 pixels"):
        look_at(tile)


def test_the_two_tiffs_that_once_stopped_the_service_are_refused():
    for attack in (ccitt_strips(), jpeg_strips()):
        assert 520_000 < len(attack) < 530_000
        with pytest.raises(BrokenImage, match="overlap in the file"):
            look_at(attack)


def test_both_are_also_refused_for_their_cost():
    for compression in (2, 3, 4, 32771):
        attack = ccitt_strips(compression=compression, shared=False)
        with pytest.raises(TooCostly, match=r"may take \d\d\.\d s .* is 4\.0 s: 65.* strips"):
            look_at(attack)
    with pytest.raises(TooCostly, match=r"may take \d+\.\d s"):
        look_at(jpeg_strips(shared=False, strips=2_000))


def test_the_bytes_of_a_strip_are_not_decoded_twice():
    packed = zlib.compress(bytes(50), 9)
    shared = tiff(
        GREY | {256: 10, 257: 10, 259: 8, 278: 5, 273: [8, 8], 279: [len(packed)] * 2},
        pixels=packed,
    )
    overlapping = tiff(
        GREY | {256: 10, 257: 10, 259: 8, 278: 5, 273: [8, 8 + len(packed) - 1], 279: [40, 40]},
        pixels=packed * 2,
    )
    without_lengths = divided(10, 10, packed, 2, t259=8, t278=5, t279=None)
    for data in (shared, overlapping, without_lengths):
        with pytest.raises(BrokenImage, match="overlap in the file"):
            look_at(data)
    assert decode_image(divided(10, 10, packed, 2, t259=8, t278=5), max_pixels=100).size == (10, 10)
    last = divided(10, 10, zlib.compress(bytes(100)), 1, t259=8, t279=None)
    assert decode_image(last, max_pixels=100).size == (10, 10)


def test_the_number_of_strips_is_what_the_rows_need():
    packed = zlib.compress(b"\0")
    few_offsets = divided(1, MAX_OFFSETS + 1, packed, 1, t259=8, t278=1)
    with pytest.raises(BrokenImage, match=f"has {MAX_OFFSETS + 1} strips or tiles, the limit is"):
        look_at(few_offsets)
    planes = divided(1, 20_000, packed, 9, t259=8, t278=1, t277=4, t258=[8] * 4, t262=5, t284=2)
    with pytest.raises(BrokenImage, match="has 80000 strips or tiles"):
        look_at(planes)
    with pytest.raises(BrokenImage, match="has 1000000 strips or tiles"):
        look_at(tiled(1000, 1000, 1, packed, t259=8, t324=[8], t325=[9]))
    assert look_at(divided(1, MAX_OFFSETS, packed, MAX_OFFSETS, t259=8, t278=1)) == "libtiff"


def test_strips_and_tiles_at_once_and_sides_that_are_no_numbers_are_refused():
    packed = zlib.compress(bytes(256))
    with pytest.raises(BrokenImage, match="has strips and tiles"):
        look_at(tiled(16, 16, 16, packed, t259=8, t273=[8], t279=[9]))
    for tags in ({"t278": 0}, {"t323": 0}):
        with pytest.raises(BrokenImage):
            look_at(divided(16, 16, packed, 1, t259=8, **tags))
    floats = tiff(GREY | {259: 8, 278: 16, 279: 9}, kinds={278: 12}, pixels=packed)
    with pytest.raises(BrokenImage, match="tag 278 is not a positive number"):
        look_at(floats)
    with pytest.raises(BrokenImage, match="tag 273 has no whole numbers"):
        look_at(tiff(GREY | {259: 8, 273: 8}, kinds={273: 12}, pixels=packed))


def test_blocks_count_with_their_codecs_padding(monkeypatch):
    """A JPEG of one pixel has a block of 8 x 8 pixels, or of 32 x 32 with subsampling."""
    monkeypatch.setattr(costs, "CPU_S", 0.15)
    jpeg = saved(Image.new("RGB", (1, 8)), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    sampled = jpeg[: frame + 11] + b"\x44" + jpeg[frame + 12 :]
    assert sampled[frame + 10 : frame + 12] == b"\1\x44"
    ycbcr = {"t258": [8] * 3, "t262": 6, "t277": 3}
    strips = 10_000
    assert look_at(divided(1, 8 * strips, jpeg, strips, t259=7, t278=8, **ycbcr)) == "libtiff"
    with pytest.raises(TooCostly):
        look_at(divided(1, 8 * strips, sampled, strips, t259=7, t278=8, **ycbcr))


def test_a_jpegs_scans_count_as_those_of_its_largest_frame():
    jpeg = saved(Image.new("L", (640, 480)), "JPEG", progressive=True)
    scans = jpeg.count(b"\xff\xda\0")
    usual = estimate_scans_s(jpeg, 0)
    assert usual == pytest.approx(scans * (640 * 480 * SAMPLE_S + SCAN_S))
    assert estimate_scans_s(more_scans(jpeg, 90), 0) == pytest.approx(90 / scans * usual)
    frame = jpeg.index(b"\xff\xc2")
    header = jpeg[frame : frame + 13]
    tiny = header[:5] + struct.pack(">HH", 1, 1) + header[9:]
    for disguised in (
        jpeg[: frame + 13] + jpeg_segment(0xFE, tiny) + jpeg[frame + 13 :],
        jpeg[:frame] + jpeg_segment(0xFE, tiny) + jpeg[frame:],
        jpeg[:frame] + jpeg_segment(0xFE, tiny[:5]) + jpeg[frame:],  # the frame would be its size
    ):
        assert estimate_scans_s(disguised, 0) >= usual
    arithmetic = jpeg[:frame] + b"\xff\xca" + jpeg[frame + 2 :]
    assert estimate_scans_s(arithmetic, 0) > 9 * usual
    without_frame = jpeg[:frame] + jpeg[frame + 13 :]
    assert estimate_scans_s(without_frame, 640 * 480) == pytest.approx(usual)
    twice = jpeg[: frame + 9] + b"\2" + jpeg[frame + 10 : frame + 13] * 2 + jpeg[frame + 13 :]
    assert estimate_scans_s(twice, 0) >= 2 * scans * 640 * 480 * SAMPLE_S
    assert estimate_scans_s(jpeg[: jpeg.index(b"\xff\xda\0") + 3], 0) == 0
    assert estimate_scans_s(random.Random(1).randbytes(10_000), 100) >= 0


def test_a_jpegs_frame_does_not_hide_behind_another():
    jpeg = saved(Image.new("RGB", (500, 16)), "JPEG", progressive=True)
    tall = taller(jpeg, 2001)
    frame = tall.index(b"\xff\xc2")
    hidden = tall[:frame] + jpeg_segment(0xFE, tall[frame : frame + 5]) + tall[frame:]
    tags = {256: 500, 257: 16, 259: 7, 262: 6, 278: 16}
    for data in (tall, hidden):
        with pytest.raises(TooManyPixels, match=r"= 1[01]\d{5} pixels, the limit is 1000000"):
            look_at(tiff(tags | {279: len(data)}, pixels=data), max_pixels=1_000_000)


@pytest.mark.parametrize("compression", [5, 8, 32773, 34925, 50000, 50001])
@pytest.mark.parametrize("samples", [{}, {"t258": [16] * 4, "t262": 2, "t277": 4, "t338": 2}])
def test_photos_are_not_refused(compression, samples):
    """Only the header is read, so the strips need not be valid."""
    for strips, rows in ((3000, 1), (47, 64), (1, 3000)):
        data = divided(4000, 3000, bytes(100), strips, t259=compression, t278=rows, **samples)
        assert look_at(data) == "libtiff"
    for side in (16, 256, 3600):
        data = tiled(4000, 3000, side, bytes(100), t259=compression, **samples)
        assert look_at(data) == "libtiff"


@pytest.mark.parametrize("compression", [2, 3, 4])
def test_faxes_are_not_refused(compression):
    for strips, rows in ((4900, 1), (1, 4900)):
        words = bytes(100)
        data = divided(5000, 4900, words, strips, t259=compression, t278=rows, t258=1)
        assert look_at(data) == "libtiff"


def test_pictures_of_the_largest_size_are_not_refused():
    for width, height in ((5000, 5000), (1, MAX_PIXELS), (MAX_PIXELS, 1)):
        assert look_at(divided(width, height, bytes(100), 1, t259=8, t278=height)) == "libtiff"
    jpeg = saved(Image.new("RGB", (5000, 5000)), "JPEG", progressive=True)
    ycbcr = {"t258": [8] * 3, "t262": 6, "t277": 3}
    assert look_at(divided(5000, 5000, jpeg, 1, t259=7, t278=5000, **ycbcr)) == "libtiff"


def test_uncompressed_tiffs_cost_what_they_cover():
    data = divided(100, 100, bytes(100), 100, t278=1)
    assert look_at(data) == "raw"
    over = tiff(GREY | {256: 100, 257: 100, 278: 99, 273: [8] * 6}, pixels=bytes(9900))
    with pytest.raises(TooManyPixels, match="cover 30000 pixels, the limit is 20000"):
        look_at(over, max_pixels=10_000)


def test_the_estimate_is_compared_with_the_time_of_a_decoder(monkeypatch):
    data = ccitt_strips(rows=100_000, strips=100, shared=False)
    assert look_at(data) == "libtiff"
    monkeypatch.setattr(costs, "CPU_S", 0.1)
    with pytest.raises(TooCostly, match=r"take 0\.2 s to decode, the limit for its size is 0\.1 s"):
        look_at(data)
    monkeypatch.setattr(tiffs, "FAX_ROW_S", 0)
    assert look_at(data) == "libtiff"


def test_pages_after_the_first_do_not_count():
    pages = [picture(64, 64) for _ in range(3)]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:], compression="jpeg")
    assert decode_image(file.getvalue(), max_pixels=64 * 64).size == (64, 64)
