"""Containers keep a file's first picture, and drop everything else before it is decoded."""

import contextlib
import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.codecs.exif import read_orientation
from app.codecs.stripping import MAX_OFFSETS, MAX_PARTS, strip_file
from app.errors import BrokenImage
from tests.app import corpus
from tests.app.corpus import gif, jpeg_segment, picture, png, saved, tiff

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def first_picture(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            turned = image.getexif().get(0x0112, 1)
            image.info.pop("transparency", None)
            deep = image.mode.startswith(("I", "F"))
            return np.asarray(image if deep else image.convert("RGB")), turned


@pytest.mark.parametrize(
    "family", [corpus.ordinary, corpus.modes, corpus.orientations, corpus.animated]
)
def test_the_first_picture_stays_as_it_is(family):
    for name, data in family():
        try:
            pixels, turned = first_picture(data)
        except (OSError, ValueError):
            continue  # neither can be read
        left_pixels, left_turned = first_picture(strip_file(data))
        assert np.array_equal(left_pixels, pixels), name
        assert left_turned == turned, name


def test_metadata_and_further_pictures_are_left_out():
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [picture(), picture().rotate(90), picture().rotate(180)]
    much = {"exif": exif, "icc_profile": bytes(50_000), "xmp": b"<" * 50_000}
    for kind in ("JPEG", "PNG", "TIFF"):
        plain = saved(frames[0], kind, exif=exif)
        assert len(strip_file(saved(frames[0], kind, **much))) < len(plain) + (
            101_000 if kind == "TIFF" else 100  # a TIFF keeps its bytes, but no tag points to them
        )
    with Image.open(io.BytesIO(strip_file(saved(frames[0], "TIFF", **much)))) as image:
        assert not {700, 34665, 34675} & set(image.tag_v2)
    for kind in ("PNG", "TIFF"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        with Image.open(io.BytesIO(strip_file(data))) as image:
            assert image.n_frames == 1


def test_an_ordinary_jpeg_is_not_copied():
    data = saved(picture(), "JPEG")
    assert strip_file(data) is data


JPEG = saved(picture(), "JPEG")
MANY = {
    "JPEG": lambda n: JPEG[:2] + jpeg_segment(0xFE, b"") * n + JPEG[2:],
    "JPEG of restarts": lambda n: JPEG[:2] + b"\xff\xd0" * n + JPEG[2:],
    "PNG": lambda n: png(9, 9, before=[(b"prVt", b"")] * n),
    "PNG behind": lambda n: png(9, 9, after=[(b"tEXt", b"k\0")] * n),
    "GIF": lambda n: gif((9, 9), (9, 9), before=b"!\xfe\0" * n),
    "GIF of blocks": lambda n: gif((9, 9), (9, 9), before=b"!\xfe" + b"\1a" * n + b"\0"),
    "GIF of junk": lambda n: gif((9, 9), (9, 9), before=b"\0" * n),
    "TIFF": lambda n: tiff({40_000 + i: 1 for i in range(n)}, big=True),
}


@pytest.mark.parametrize("kind", MANY)
def test_a_file_of_very_many_parts_is_refused(kind):
    most = min(MAX_PARTS - 100, 20_000)
    assert len(strip_file(MANY[kind](most))) < 3 * most + 2_000 or kind == "TIFF"
    if kind == "TIFF":  # a tag's number has 16 bits
        data = tiff({}, big=True)
        at = int.from_bytes(data[8:16], "little")
        data = data[:at] + (2**40).to_bytes(8, "little") + bytes(20) * (MAX_PARTS + 1)
    else:
        data = MANY[kind](MAX_PARTS + 1)
    with pytest.raises(BrokenImage, match=f"more than {MAX_PARTS} parts"):
        strip_file(data)


@pytest.mark.parametrize("big", [False, True])
def test_a_tiffs_tags_have_few_values(big):
    most = tiff({273: [8] * MAX_OFFSETS}, big=big)
    assert len(strip_file(most)) < len(most) + 400
    for tag, count in ((273, MAX_OFFSETS + 1), (274, 17), (258, 1000), (320, 769)):
        with pytest.raises(BrokenImage, match=f"tag {tag} has {count} values, the limit is"):
            strip_file(tiff({tag: [1] * count}, big=big))
    with pytest.raises(BrokenImage, match="tag 273 has 17 values, the limit is 16"):
        strip_file(tiff({273: [8] * 17}, kinds={273: 5}, big=big))


def test_a_gifs_disposal_is_left_out_and_its_transparent_colour_is_not():
    usual, transparent = b"!\xf9\4\x08\0\0\0\0", b"!\xf9\4\x09\0\0\7\0"
    data = gif((9, 9), (9, 9), disposal=2)
    assert usual in data
    left = strip_file(data.replace(usual, transparent))
    assert left == data.replace(usual, b"!\xf9\4\1\0\0\7\0")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("kind", [3, 4])
def test_the_orientation_is_read(order, prefix, kind):
    for value in (*range(10), 65535):
        block = tiff({271: 1, 274: value}, kinds={274: kind}, order=order, only=True)
        assert read_orientation(prefix + block) == value


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        tiff({274: 6}, only=True)[:-8],
        tiff({274: [6, 6, 6]}, only=True),
        tiff({274: 6}, kinds={274: 5}, only=True),
        tiff({271: 6}, only=True),
    ],
)
def test_an_orientation_that_cannot_be_read_is_upright(block):
    assert read_orientation(block) == 1


STARTS = (
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
)


@settings(max_examples=300)
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=200))
def test_any_bytes_give_bytes_or_a_problem(start, rest):
    with contextlib.suppress(BrokenImage):
        assert isinstance(strip_file(start + rest), bytes)
    assert isinstance(read_orientation(start + rest), int)
