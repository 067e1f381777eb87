"""The order of copies, kernels and graphs on a GPU, with stand-ins that write down what happens.

Whether a GPU does what it is told is what the tests marked `gpu` ask.
"""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from model.engines import cuda_graphs
from model.engines.cuda_graphs import RECORDING, WORTH_RECORDING, GraphedFunction
from model.engines.transfer import CudaTransfer, round_up
from model.errors import DeviceLost

CPU = torch.device("cpu")


class StandIn:
    """What `torch.cuda` has, for the memory of the CPU, where all is done at once."""

    def __init__(self, patch):
        self.happened = []
        self.is_lost = False
        self.allocated_on_computing = 0
        self._current = ""
        self._names = iter(["sending", "computing", "returning"])
        patch.setattr(torch.cuda, "Stream", lambda device: _Stream(self, next(self._names)))
        patch.setattr(torch.cuda, "Event", lambda blocking: _Event(self))
        patch.setattr(torch.cuda, "stream", self.use)
        patch.setattr(torch.cuda, "synchronize", self.synchronize)
        patch.setattr(torch.cuda, "graph_pool_handle", object)
        patch.setattr(torch.cuda, "CUDAGraph", lambda: _Graph(self))
        patch.setattr(torch.cuda, "graph", self.record)
        self._empty = torch.empty
        patch.setattr(torch, "empty", self.allocate)
        self._lock = threading.Lock()
        patch.setattr(threading, "Lock", lambda: self._lock)

    def note(self, what):
        self.happened.append(f"{self._current}: {what}" if self._current else what)

    @contextmanager
    def use(self, stream):
        before, self._current = self._current, stream.name
        try:
            yield
        finally:
            self._current = before

    @contextmanager
    def record(self, graph, **options):
        assert RECORDING.locked()
        yield

    def allocate(self, *size, pin_memory=False, **options):
        """Memory of the CPU; without a GPU none is pinned."""
        if self._current == "computing":
            assert self._lock.locked()
            self.allocated_on_computing += 1
        return self._empty(*size, **options)

    def synchronize(self, device):
        assert self._lock.locked()
        assert RECORDING.locked()
        if self.is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.note("all done")


class _Stream:
    device = CPU

    def __init__(self, cuda, name):
        self._cuda, self.name = cuda, name

    def wait_event(self, event):
        self._cuda.note(f"wait for {event.recorded_on}")

    def synchronize(self):
        pass


class _Event:
    recorded_on = None

    def __init__(self, cuda):
        self._cuda = cuda

    def record(self):
        self._cuda.note("record")
        self.recorded_on = self._cuda.happened[-1].partition(":")[0]

    def synchronize(self):
        self._cuda.note(f"wait for {self.recorded_on}")


class _Graph:
    def __init__(self, cuda):
        self._cuda = cuda

    def replay(self):
        self._cuda.note("replay")


@pytest.fixture
def cuda(monkeypatch):
    return StandIn(monkeypatch)


def make_canvases(count):
    return [np.full((2, 3, 3), number, np.uint8) for number in range(count)]


def test_each_step_waits_for_the_one_before(cuda):
    transfer = CudaTransfer(CPU, slots=2)

    def compute(images, result):
        cuda.note(f"compute {len(images)}")
        result.copy_(images[:5, 0, 0, 0])

    for _ in range(2):  # the second one in buffers that are there already
        cuda.happened.clear()
        with transfer.run(make_canvases(5), 5, compute) as result:
            assert result.tolist() == [0, 1, 2, 3, 4]
        assert cuda.happened == [
            "sending: record",
            "computing: wait for sending",
            "computing: compute 6",  # filled up, so that few sizes occur
            "computing: record",
            "returning: wait for computing",
            "returning: record",
            "wait for returning",
        ]


def test_nothing_is_allocated_among_the_kernels_without_their_lock(cuda):
    transfer = CudaTransfer(CPU, slots=1)
    with transfer.run(make_canvases(1), 7, lambda images, result: None) as result:
        assert len(result) == 7
    assert cuda.allocated_on_computing > 0  # the stand-in asserts the lock


def test_large_buffers_have_little_room_to_spare():
    assert [round_up(count) for count in (1, 2, 3, 1000)] == [1, 2, 4, 1024]
    assert round_up(64 << 20) == 64 << 20
    assert round_up((64 << 20) + 1) == 80 << 20
    assert round_up(96 << 20) == 96 << 20


def test_a_call_that_fails_gives_its_buffers_back(cuda):
    transfer = CudaTransfer(CPU, slots=1)

    def fail(images, result):
        raise ValueError("a wrong shape")

    for _ in range(2):  # with its buffers lost, the second call would wait for ever
        with (
            pytest.raises(ValueError, match="a wrong shape"),
            transfer.run(make_canvases(1), 1, fail),
        ):
            pass
        assert cuda.happened[-1] == "all done"


def test_an_error_after_which_nothing_works_is_a_lost_device(cuda):
    transfer = CudaTransfer(CPU, slots=1)

    def fail(images, result):
        cuda.is_lost = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with (
        pytest.raises(DeviceLost, match="illegal memory access"),
        transfer.run(make_canvases(1), 1, fail),
    ):
        pass


def run_shapes(function, *sizes):
    return [function(torch.zeros(1, size, size, 3)) for size in sizes]


def test_a_shape_is_recorded_when_it_comes_again_and_again(cuda):
    computed = []
    stream = torch.cuda.Stream(CPU)
    function = GraphedFunction(lambda images: computed.append(images.shape[1]) or images, stream)
    run_shapes(function, *[32] * (WORTH_RECORDING - 1))
    assert cuda.happened == []
    run_shapes(function, 32, 32)
    assert cuda.happened == ["replay", "replay"]
    assert len(computed) == WORTH_RECORDING + 1  # before the recording, and for it


def test_the_graphs_are_few_and_the_last_used(cuda, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    function = GraphedFunction(lambda images: images, torch.cuda.Stream(CPU))
    for size in (32, 64, 32, 96):
        run_shapes(function, *[size] * WORTH_RECORDING)
    cuda.happened.clear()
    run_shapes(function, 32, 96)
    assert cuda.happened == ["replay", "replay"]
    run_shapes(function, 64)  # it was forgotten
    assert cuda.happened == ["replay", "replay"]


def test_many_shapes_that_come_in_turns_are_not_recorded(cuda):
    function = GraphedFunction(lambda images: images, torch.cuda.Stream(CPU))
    sizes = range(1, cuda_graphs.MAX_COUNTED + 2)
    for _ in range(2 * WORTH_RECORDING):
        run_shapes(function, *sizes)
    assert cuda.happened == []


def test_with_more_shapes_than_graphs_few_are_recorded(cuda):
    """160 shapes in random order: each of the 64 least recent ones would soon come again."""
    recorded = []
    function = GraphedFunction(
        lambda images: recorded.append(RECORDING.locked()) or images, torch.cuda.Stream(CPU)
    )
    order = np.random.RandomState(0).randint(1, 161, 3000)
    run_shapes(function, *order[:2000])
    recorded.clear()
    run_shapes(function, *order[2000:])
    assert 0 < sum(recorded) <= 1000 // cuda_graphs.CALLS_PER_EVICTION


def test_without_a_recording_the_network_runs_all_the_same(cuda, caplog):
    def compute(images):
        if RECORDING.locked():
            raise RuntimeError("operation not permitted when stream is capturing")
        return images

    function = GraphedFunction(compute, torch.cuda.Stream(CPU))
    answers = run_shapes(function, *[32] * 3 * WORTH_RECORDING)
    assert all(answer.shape[1] == 32 for answer in answers)
    assert cuda.happened == []
    assert caplog.text.count("without CUDA graphs") == 1
    assert not function.forget()


def test_a_recording_without_memory_is_tried_later(cuda):
    room = [False, True]

    def compute(images):
        if RECORDING.locked() and not room.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images

    function = GraphedFunction(compute, torch.cuda.Stream(CPU))
    with pytest.raises(torch.OutOfMemoryError):
        run_shapes(function, *[32] * WORTH_RECORDING)
    run_shapes(function, *[32] * (WORTH_RECORDING - 1))
    assert cuda.happened == []
    run_shapes(function, 32)
    assert cuda.happened == ["replay"]
    assert function.forget()
