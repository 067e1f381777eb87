import importlib.util
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from app.codecs import deflate, png
from app.codecs.png import make_indexed_png

shapes = array_shapes(min_dims=2, max_dims=2, max_side=70)


def palette_of(colours):
    return np.random.default_rng(colours).integers(0, 256, (colours, 3), dtype=np.uint8)


def opened(data):
    """The indices and the palette that Pillow reads. It checks every chunk."""
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
        return np.asarray(image), np.array(image.getpalette(), np.uint8).reshape(-1, 3)


def chunks_of(data):
    position = len(png.SIGNATURE)
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        name = data[position + 4 : position + 8]
        content = data[position + 8 : position + 8 + length]
        (crc,) = struct.unpack_from(">I", data, position + 8 + length)
        assert crc == zlib.crc32(name + content)
        yield name, content
        position += 12 + length


@settings(deadline=None)
@given(data=st.data(), colours=st.integers(1, 256))
def test_indices_and_palette_come_back(data, colours):
    indices = data.draw(arrays(np.uint8, shapes, elements=st.integers(0, colours - 1)))
    palette = palette_of(colours)
    seen, seen_palette = opened(make_indexed_png(indices, palette))
    assert np.array_equal(seen, indices)
    assert np.array_equal(seen_palette, palette)


@pytest.mark.parametrize(
    "view",
    [
        lambda whole: whole.T,
        lambda whole: whole[::-1, ::-1],
        lambda whole: whole[3:40:5, 1::2],
        lambda whole: np.asfortranarray(whole),
        lambda whole: np.broadcast_to(whole[:1], (20, whole.shape[1])),
    ],
    ids=["transposed", "reversed", "sliced", "columns first", "broadcast"],
)
def test_the_memorys_order_does_not_matter(view):
    whole = np.random.default_rng(0).integers(0, 21, (50, 60), dtype=np.uint8)
    indices = view(whole)
    seen, _ = opened(make_indexed_png(indices, palette_of(21)))
    assert np.array_equal(seen, indices)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (700, 900)])
def test_any_shape_comes_back(shape):
    indices = np.random.default_rng(1).integers(0, 21, shape, dtype=np.uint8)
    seen, _ = opened(make_indexed_png(indices, palette_of(21)))
    assert np.array_equal(seen, indices)


def test_the_file_follows_the_standard():
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = palette_of(21)
    data = make_indexed_png(indices, palette)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    header, colours, pixels, end = chunks_of(data)
    assert header == (b"IHDR", struct.pack(">2I5B", 4, 3, 8, 3, 0, 0, 0))
    assert colours == (b"PLTE", palette.tobytes())
    assert pixels[0] == b"IDAT"
    rows = np.frombuffer(zlib.decompress(pixels[1]), np.uint8).reshape(3, 5)
    assert rows[:, 0].tolist() == [0, 0, 0]
    assert np.array_equal(rows[:, 1:], indices)
    assert end == (b"IEND", b"")


def test_encoding_does_not_change_the_indices():
    indices = np.zeros((5, 6), np.uint8)
    indices.setflags(write=False)
    assert np.array_equal(opened(make_indexed_png(indices, palette_of(2)))[0], indices)


def test_more_colours_than_eight_bits_hold_are_a_bug():
    with pytest.raises(AssertionError, match="257 colours, 256 at most"):
        make_indexed_png(np.zeros((2, 2), np.uint8), np.zeros((257, 3), np.uint8))


def test_the_standard_library_compresses_without_isa_l(monkeypatch):
    monkeypatch.setitem(sys.modules, "isal", None)
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    spec = importlib.util.spec_from_file_location("deflate_without_isal", deflate.__file__)
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    assert other.compress is zlib.compress
    monkeypatch.setattr(png, "compress", other.compress)
    monkeypatch.setattr(png, "crc32", other.crc32)
    indices = np.random.default_rng(2).integers(0, 21, (40, 50), dtype=np.uint8)
    palette = palette_of(21)
    seen, seen_palette = opened(make_indexed_png(indices, palette))
    assert np.array_equal(seen, indices)
    assert np.array_equal(seen_palette, palette)
