"""A file's cost is measured in a process that does nothing else."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.hostile import measured
from tests.app.corpus import picture, saved

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


def test_a_picture_takes_as_much_memory_as_it_has_pixels():
    small = measured("small", saved(picture(), "PNG"))
    assert small["file"] == "small"
    assert small["outcome"] == "60 x 80"
    large = measured("large", saved(Image.new("RGB", (5000, 4000)), "PNG"))
    assert large["outcome"] == "4000 x 5000"
    # Pillow's four bytes a pixel; some of them this process had already.
    assert 2 * 20_000_000 < large["memory, MiB"] * 2**20 < 8 * 20_000_000
    assert large["decode, s"] > 0


def test_a_refusal_is_an_outcome():
    assert measured("text", b"no image")["outcome"] == "unsupported-type"
