"""A file's cost is measured in a process that does nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.app.corpus import picture, saved
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


SCRIPT = """
import json, sys
from benchmarks.hostile import measure_decoding
print(json.dumps(measure_decoding("a file", sys.stdin.buffer.read())))
"""


def measure(data):
    """From a process that has done nothing before: it has no freed memory to use."""
    command = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(command, cwd=REPOSITORY, input=data, capture_output=True, check=True)
    return json.loads(ended.stdout)


def test_a_picture_takes_as_much_memory_as_it_has_pixels():
    small = measure(saved(picture(), "PNG"))
    assert small["file"] == "a file"
    assert small["outcome"] == "60 x 80"
    large = measure(saved(Image.new("RGB", (5000, 4000)), "PNG"))
    assert large["outcome"] == "4000 x 5000"
    # Pillow's four bytes a pixel; some of them this process had already.
    assert 2 * 20_000_000 < large["memory, MiB"] * 2**20 < 8 * 20_000_000
    assert large["decode, s"] > 0


def test_a_refusal_is_an_outcome():
    assert measure(b"no image")["outcome"] == "unsupported-type"
