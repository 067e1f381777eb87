"""What of the GPU's benchmark runs without one."""

import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import (
    BATCH,
    EXPECTED,
    compare_masks,
    list_canvases,
    list_rows,
    measure_memory,
)
from benchmarks.photos import make_photos
from model.predictor import open_predictor
from model.weights import SHIPPED_WEIGHTS
from tests.conftest import REPOSITORY


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line():
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == "error: there is no CUDA GPU here, so nothing was measured\n"


def test_a_predictor_agrees_with_itself():
    predictor = open_predictor(SHIPPED_WEIGHTS, device="cpu")
    assert compare_masks(predictor, predictor, make_photos(1, (64, 96))) == "100.000%"


class Untouched:
    """A predictor whose memory is what the test says."""

    def __init__(self):
        self.sizes = []

    def __call__(self, image):
        self.sizes.append(image.shape[:2])

    def prepare(self, image):
        return image

    def predict(self, batch):
        assert 1 <= len(batch) <= BATCH


def test_memory_is_read_after_each_half():
    predictor = Untouched()
    found = measure_memory(predictor, 0, iter([3_000_000, 5_000_000]).__next__)
    assert predictor.sizes == list_canvases()
    assert found["MB of GPU memory, canvases of VOC"] == 5
    assert found["MB more after the second half"] == 2


def test_each_figure_stands_beside_what_is_expected():
    rows = list_rows({"ms for one image": 0.5, "images/s of one caller": 100})
    assert [row["expected"] for row in rows] == [EXPECTED["ms for one image"], ""]
