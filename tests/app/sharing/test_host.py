"""The side of an engine process: what it answers to workers, also to those out of order."""

import asyncio
import os
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from app.observability.metrics import Metrics
from app.settings import Settings
from app.sharing.batching import BatchingEngine
from app.sharing.channel import Channel, connect, listen
from app.sharing.dispatcher import name_socket
from app.sharing.host import Host
from app.sharing.memory import SMALL_BYTES, Frame, SharedMemory
from app.sharing.messages import (
    VERSION,
    Cancel,
    Done,
    Dropped,
    Failed,
    Hello,
    Load,
    Loaded,
    Ping,
    Pong,
    Refused,
    Segment,
    Unknown,
    Welcome,
)
from model.errors import DeviceLost, EngineError
from model.predictor import Predictor
from model.weights import Metadata
from tests.app.sharing.scripted import DIGEST, OTHER_DIGEST

CULPRIT, GATED, LOST = 66, 67, 68
"""The first pixel of images that the engine refuses, computes when the gate opens, or with which it
loses its device.
"""


class GatedEngine:
    """Its mask is the canvas' red channel, as far as that is a class."""

    description, device = "gated", "cpu"
    callers_at_once, images_per_call = 1, 8

    def __init__(self):
        self.gate = threading.Event()
        self.busy = threading.Semaphore(0)
        self.batches = []

    def segment(self, canvases, regions):
        colours = [int(canvas[0, 0, 0]) for canvas in canvases]
        self.batches.append(colours)
        if CULPRIT in colours:
            raise RuntimeError("secret detail")
        if LOST in colours:
            raise DeviceLost("secret detail")
        if GATED in colours:
            self.busy.release()
            assert self.gate.wait(300)
        masks = [np.minimum(canvas[..., 0], 20) for canvas in canvases]
        return [mask[: r.output[0], : r.output[1]] for mask, r in zip(masks, regions, strict=True)]

    measure_confidence = segment


class ScriptedWorker:
    """The other end of an engine process' connection."""

    def __init__(self, folder):
        self.connection = connect(name_socket(folder, 0))
        self.messages = asyncio.Queue()
        self.ended = asyncio.Event()
        self.channel = Channel(
            self.connection,
            on_message=lambda message, _: self.messages.put_nowait(message),
            on_end=self.ended.set,
        )
        self.memory = SharedMemory(16 * SMALL_BYTES)

    async def greet(self):
        self.channel.send(Hello(VERSION), self.memory.open_again())
        assert await self.messages.get() == Welcome(VERSION, os.getpid())

    async def load(self, digest=DIGEST, number=1):
        file = os.open(__file__, os.O_RDONLY)
        self.channel.send(Load(number, bytes.fromhex(digest)), file)
        return await self.messages.get()

    def send(self, number, colour, *, size=(32, 32), digest=DIGEST, **changes):
        """Send an image, and return its frame."""
        offset = number % 16 * SMALL_BYTES
        message = Segment(
            number, offset, bytes.fromhex(digest), False, *size, *size, *size, "an-id"
        )
        self.channel.send(message._replace(**changes))
        frame = Frame(self.memory.map, offset, size, size)
        frame.canvas[:] = colour
        return frame

    def close(self):
        self.channel.close()
        self.memory.close()


@asynccontextmanager
async def hosting(folder, monkeypatch, **settings):
    """An engine process' work, a worker that it has welcomed, and the engine."""
    engine, deaths = GatedEngine(), asyncio.Queue()

    def open_gated(path, **_):
        assert Path(path).read_bytes() == Path(__file__).read_bytes()
        return Predictor(engine, Metadata(digest=DIGEST))

    monkeypatch.setattr("app.loading.open_predictor", open_gated)
    batching = BatchingEngine(
        Settings(**{"stuck_after_s": 600} | settings),
        metrics=Metrics(),
        give_up=deaths.put_nowait,
    )
    listener = listen(name_socket(folder, 0))
    host = Host(listener, batching, number=0)
    running = asyncio.create_task(host.run())
    worker = ScriptedWorker(folder)
    await worker.greet()
    engine.deaths = deaths
    try:
        yield host, worker, engine
    finally:
        engine.gate.set()
        worker.close()
        host.stop()
        await running
        listener.close()


async def is_busy(engine):
    await asyncio.to_thread(engine.busy.acquire)


def test_images_of_several_workers_share_a_batch(tmp_path, monkeypatch):
    async def scenario():
        async with hosting(tmp_path, monkeypatch) as (_, worker, engine):
            assert await worker.load() == Loaded(1, 8, "cpu", "gated")
            other = ScriptedWorker(tmp_path)
            await other.greet()
            worker.send(2, GATED)
            await is_busy(engine)
            frames = [worker.send(3, 1), worker.send(4, 2), other.send(1, 3)]
            for one in (worker, other):
                one.channel.send(Ping())
                assert await one.messages.get() == Pong(), "all images have arrived"
            engine.gate.set()
            answers = [await worker.messages.get() for _ in range(3)]
            assert {type(one) for one in answers} == {Done}
            assert {one.number for one in answers} == {2, 3, 4}
            assert isinstance(await other.messages.get(), Done)
            assert sorted(engine.batches[-1]) == [1, 2, 3]
            assert [int(frame.mask[5, 5]) for frame in frames] == [1, 2, 3]
            assert all(frame.has_begun for frame in frames)
            other.close()

    asyncio.run(scenario())


def test_an_image_of_unknown_weights_is_not_computed(tmp_path, monkeypatch):
    async def scenario():
        async with hosting(tmp_path, monkeypatch) as (_, worker, _):
            worker.send(1, 1)
            assert await worker.messages.get() == Unknown(1)
            await worker.load(number=2)
            worker.send(1, 1, digest=OTHER_DIGEST)
            assert await worker.messages.get() == Unknown(1)

    asyncio.run(scenario())


def test_an_image_on_which_the_engine_fails_fails_alone(tmp_path, monkeypatch):
    async def scenario():
        async with hosting(tmp_path, monkeypatch) as (_, worker, engine):
            await worker.load()
            worker.send(2, GATED)
            await is_busy(engine)
            worker.send(3, CULPRIT)
            worker.send(4, 1)
            worker.channel.send(Ping())
            assert await worker.messages.get() == Pong()
            engine.gate.set()
            answers = {
                one.number: type(one) for one in [await worker.messages.get() for _ in "123"]
            }
            assert answers == {2: Done, 3: Failed, 4: Done}

    asyncio.run(scenario())


def test_a_cancelled_image_is_answered_after_its_last_use(tmp_path, monkeypatch):
    async def scenario():
        async with hosting(tmp_path, monkeypatch) as (_, worker, engine):
            await worker.load()
            worker.send(2, GATED)
            await is_busy(engine)
            worker.send(3, 1)
            for number in (2, 3, 3, 99):
                worker.channel.send(Cancel(number))
            assert await worker.messages.get() == Dropped(3), "it has only waited"
            worker.channel.send(Ping())
            assert await worker.messages.get() == Pong()
            engine.gate.set()
            assert await worker.messages.get() == Dropped(2)
            assert engine.batches[-1] == [GATED]

    asyncio.run(scenario())


def test_images_of_a_worker_that_ends_are_dropped(tmp_path, monkeypatch):
    async def scenario():
        async with hosting(tmp_path, monkeypatch) as (_, worker, engine):
            await worker.load()
            other = ScriptedWorker(tmp_path)
            await other.greet()
            worker.send(2, GATED)
            await is_busy(engine)
            other.send(1, 1)
            other.channel.send(Ping())
            assert await other.messages.get() == Pong()
            other.close()
            last = ScriptedWorker(tmp_path)
            await last.greet()  # the end of the other one has been noticed by now
            worker.send(3, 2)
            engine.gate.set()
            assert [type(await worker.messages.get()) for _ in "12"] == [Done, Done]
            assert engine.batches[-1] == [2]
            last.close()

    asyncio.run(scenario())


def test_it_ends_when_it_is_told_to_and_all_workers_have_ended(tmp_path, monkeypatch):
    async def scenario():
        async with hosting(tmp_path, monkeypatch) as (host, worker, engine):
            await worker.load()
            host.stop()
            worker.send(2, 1)
            assert isinstance(await worker.messages.get(), Done)
            assert engine.batches[-1] == [1]

    asyncio.run(scenario())


def test_weights_that_do_not_work_are_refused_with_the_reason(tmp_path, monkeypatch):
    async def scenario():
        async with hosting(tmp_path, monkeypatch, weights=tmp_path / "w") as (_, worker, _):
            refused = await worker.load(OTHER_DIGEST, number=5)
            assert refused.number == 5
            assert refused.text.startswith(f"{tmp_path / 'w'}: the file has changed")

            errors = [EngineError("no memory"), ValueError("secret detail")]

            def fail(_, **__):
                raise errors.pop(0)

            monkeypatch.setattr("app.loading.open_predictor", fail)
            assert await worker.load(number=6) == Refused(6, "no memory")
            assert await worker.load(number=7) == Refused(7, "The weights do not work.")

    asyncio.run(scenario())


def test_a_lost_device_ends_the_process(tmp_path, monkeypatch):
    async def scenario():
        async with hosting(tmp_path, monkeypatch) as (_, worker, engine):
            await worker.load()
            worker.send(2, LOST)
            assert await engine.deaths.get() is True

    asyncio.run(scenario())


def test_a_stuck_engine_fails_its_batch_and_ends_the_process(tmp_path, monkeypatch):
    async def scenario():
        async with hosting(tmp_path, monkeypatch, stuck_after_s=0.1) as (_, worker, engine):
            await worker.load()
            worker.send(2, GATED)
            assert await worker.messages.get() == Failed(2)
            assert await engine.deaths.get() is False

    asyncio.run(scenario())


def of_image(**changes):
    return lambda worker: worker.send(2, 1, **changes)


@pytest.mark.parametrize(
    "break_order",
    [
        pytest.param(lambda worker: worker.connection.send(b"\xffgarbage"), id="garbage"),
        pytest.param(lambda worker: worker.connection.send(b"\x05\x01"), id="truncated"),
        pytest.param(lambda worker: worker.connection.send(9000 * b"x"), id="too long"),
        pytest.param(lambda worker: worker.channel.send(Pong()), id="of the other side"),
        pytest.param(lambda worker: worker.channel.send(Hello(VERSION)), id="hello again"),
        pytest.param(lambda worker: worker.channel.send(Load(1, bytes(32))), id="no weights"),
        pytest.param(of_image(offset=2**40), id="outside of the memory"),
        pytest.param(of_image(offset=1), id="not aligned"),
        pytest.param(of_image(height=0), id="no height"),
        pytest.param(of_image(width=33), id="no canvas"),
        pytest.param(of_image(content_width=33), id="larger than its canvas"),
        pytest.param(of_image(output_height=2**32 - 1), id="larger than its memory"),
        pytest.param(lambda worker: [worker.send(2, 1) for _ in "12"], id="the same twice"),
    ],
)
def test_a_worker_that_is_out_of_order_is_disconnected(tmp_path, monkeypatch, break_order):
    async def scenario():
        async with hosting(tmp_path, monkeypatch) as (_, worker, _):
            await worker.load()
            other = ScriptedWorker(tmp_path)
            await other.greet()
            break_order(other)
            await other.ended.wait()
            other.close()
            worker.send(2, 1)
            assert isinstance(await worker.messages.get(), Done)

    asyncio.run(scenario())


@pytest.mark.parametrize("version", [0, VERSION])
def test_a_worker_must_greet_with_its_version_and_memory(tmp_path, monkeypatch, version):
    async def scenario():
        async with hosting(tmp_path, monkeypatch):
            other = ScriptedWorker(tmp_path)
            memory = None if version == VERSION else other.memory.open_again()
            other.channel.send(Hello(version), memory)
            await other.ended.wait()
            other.close()
            early = ScriptedWorker(tmp_path)
            early.channel.send(Ping())
            await early.ended.wait()
            early.close()

    asyncio.run(scenario())
