"""What follows a batch that does not fit in a device's memory, which is a list of numbers here."""

import pytest
import torch

from model.engines.batch_limit import BatchLimit
from model.engines.out_of_memory import is_out_of_memory

FULL = torch.OutOfMemoryError("CUDA out of memory")


class Device:
    """Has room for a number of images, and for more of them once its graphs are gone."""

    def __init__(self, *, room, held_by_graphs=0):
        self.room, self.held_by_graphs = room, held_by_graphs
        self.sizes = []

    def compute(self, part):
        size = part.stop - part.start
        self.sizes.append(size)
        if size > self.room - self.held_by_graphs:
            raise FULL
        return list(range(part.start, part.stop))

    def free(self):
        had_any = self.held_by_graphs > 0
        self.held_by_graphs = 0
        return had_any

    def run(self, limit, images, *, pixels_each=100):
        self.sizes.clear()
        found = limit.compute(self.compute, images, pixels_each=pixels_each, free=self.free)
        assert found == list(range(images))
        return self.sizes


def test_what_does_not_fit_is_halved_and_remembered():
    device, limit = Device(room=2), BatchLimit()
    assert device.run(limit, 5) == [5, 2, 2, 1]
    assert device.run(limit, 5) == [2, 2, 1]


def test_the_limit_counts_pixels_and_only_falls():
    device, limit = Device(room=9), BatchLimit()
    assert device.run(limit, 5) == [5]
    limit.halve(800)
    limit.halve(1600)  # refused at the same time, to another caller
    assert device.run(limit, 5, pixels_each=200) == [2, 2, 1]
    assert device.run(limit, 2, pixels_each=1000) == [1, 1]


@pytest.mark.parametrize("images", [1, 4])
def test_a_batch_is_tried_again_once_the_graphs_have_made_room(images):
    limit = BatchLimit()
    assert Device(room=4, held_by_graphs=4).run(limit, images) == [images, images]
    assert limit.pixels is None


def test_a_batch_that_does_not_fit_without_graphs_either_is_halved():
    assert Device(room=2, held_by_graphs=1).run(BatchLimit(), 4) == [4, 4, 2, 2]


def test_an_image_that_never_fits_fails_though_graphs_are_recorded_again():
    device = Device(room=0)
    device.free = lambda: True
    with pytest.raises(torch.OutOfMemoryError):
        device.run(BatchLimit(), 1)
    assert device.sizes == [1, 1]


def test_another_error_is_not_tried_again():
    def fail(part):
        raise RuntimeError("a wrong shape")

    with pytest.raises(RuntimeError, match="a wrong shape"):
        BatchLimit().compute(fail, 4, pixels_each=1, free=lambda: True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FULL, True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_full_memory_has_many_messages(error, expected):
    assert is_out_of_memory(error) is expected
    later = RuntimeError("operation failed due to a previous error during capture")
    later.__context__ = error
    assert is_out_of_memory(later) is expected
