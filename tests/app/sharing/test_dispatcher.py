"""The worker's side: what it sends to engine processes, and what it does when they end."""

import asyncio
import signal
import subprocess
import sys

import numpy as np
import pytest

from app.errors import InferenceFailed
from app.sharing.heartbeat import Heartbeat
from app.sharing.memory import SMALL_BYTES
from app.sharing.messages import (
    Cancel,
    Done,
    Dropped,
    Failed,
    Load,
    Ping,
    Pong,
    Refused,
    Segment,
    Unknown,
    Welcome,
)
from app.sharing.queue import ATTEMPTS
from tests.app.sharing.scripted import (
    DIGEST,
    OTHER_DIGEST,
    Hold,
    make_canvas,
    working,
)


async def connect(worker, *engines, images=1):
    """Connect engine processes that have loaded the weights in use."""
    worker.use()
    for engine in engines:
        await engine.accept()
        await engine.load(images=images)
    await worker.wait_until_ready()


async def answer(engine, value=1):
    """Compute the next image, as an engine does."""
    message, frame = await engine.receive(Segment)
    frame.begin()
    frame.mask[:] = value
    engine.channel.send(Done(message.number, 1000))
    return message


def test_an_image_goes_to_the_engine_and_its_mask_comes_back(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            hold = Hold()
            mask = worker.submit(make_canvas(7), held=hold)
            message, frame = await engine.receive(Segment)
            assert message.digest.hex() == DIGEST
            assert not message.confidence
            assert (frame.canvas == 7).all()
            frame.mask[:] = 3
            assert hold.count == 1
            engine.channel.send(Done(message.number, 1000))
            assert ((await mask) == 3).all()
            assert hold.count == 0

    asyncio.run(scenario())


def test_a_large_image_has_memory_of_its_own(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            canvas = make_canvas(9, (1024, 1024), (2000, 2000))
            assert canvas.pixels.nbytes < SMALL_BYTES
            mask = worker.submit(canvas, held=Hold())
            message, frame = await engine.receive(Segment)
            assert message.offset == 0
            assert (frame.canvas == 9).all()
            frame.mask[:] = np.arange(2000, dtype=np.uint16).astype(np.uint8)
            engine.channel.send(Done(message.number, 1000))
            assert ((await mask)[5] == np.arange(2000, dtype=np.uint16).astype(np.uint8)).all()

    asyncio.run(scenario())


def test_each_image_goes_to_the_engine_with_the_fewest_images(tmp_path):
    async def scenario():
        async with working(tmp_path, 2) as (worker, first, second):
            await connect(worker, first, second)
            masks = [worker.submit(make_canvas()) for _ in range(6)]
            await asyncio.sleep(0)
            for engine in (first, second):
                for _ in range(2):  # as many as keep it busy, twice
                    await engine.receive(Segment)
                assert engine.messages.empty()
            assert worker.metrics.registry.get_sample_value("seg_queue_depth") == 2
            for mask in masks:
                mask.cancel()
            await asyncio.wait(masks)

    asyncio.run(scenario())


def test_another_engine_computes_what_one_that_ended_has_lost(tmp_path):
    async def scenario():
        async with working(tmp_path, 2) as (worker, first, second):
            await connect(worker, first)
            masks = [worker.submit(make_canvas()) for _ in range(2)]
            for _ in masks:
                await first.receive(Segment)
            await second.accept()
            await second.load()
            first.end()
            for value, mask in enumerate(masks):
                await answer(second, value)
                assert ((await mask) == value).all(), "in their order"

    asyncio.run(scenario())


def test_the_successor_computes_what_the_only_engine_has_lost(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            hold = Hold()
            mask = worker.submit(make_canvas(5), held=hold)
            await engine.receive(Segment)
            worker.changed.clear()
            engine.end()
            await worker.changed.wait()
            assert not worker.dispatcher.has_engine
            await engine.accept()
            await engine.load()
            assert hold.count == 1
            await answer(engine, 4)
            assert ((await mask) == 4).all()
            assert hold.count == 0
            assert worker.dispatcher.has_engine

    asyncio.run(scenario())


def test_an_image_that_ends_every_engine_is_given_to_a_few_only(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            culprit, innocent = (worker.submit(make_canvas()) for _ in range(2))
            for turn in range(ATTEMPTS):
                _, frame = await engine.receive(Segment)
                await engine.receive(Segment)
                frame.begin()
                engine.end()
                await engine.accept()
                await engine.load()
                assert culprit.done() == (turn == ATTEMPTS - 1)
            with pytest.raises(InferenceFailed):
                await culprit
            await answer(engine, 6)
            assert ((await innocent) == 6).all(), "it only waited"

    asyncio.run(scenario())


def test_a_cancelled_image_is_dropped_and_keeps_its_memory_until_then(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            hold = Hold()
            masks = [worker.submit(make_canvas(), held=hold) for _ in range(3)]
            (first, _), (second, _) = [await engine.receive(Segment) for _ in range(2)]
            for mask in masks:
                mask.cancel()
            await asyncio.wait(masks)
            assert hold.count == 2, "the third was in this process's queue"
            assert await engine.receive(Cancel) == Cancel(first.number)
            assert await engine.receive(Cancel) == Cancel(second.number)
            engine.channel.send(Dropped(first.number))
            engine.channel.send(Done(second.number, 1))  # it was too late
            await hold.free.wait()

    asyncio.run(scenario())


def test_an_image_on_which_the_engine_fails_fails_alone(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            culprit, innocent = (worker.submit(make_canvas()) for _ in range(2))
            message, _ = await engine.receive(Segment)
            engine.channel.send(Failed(message.number))
            with pytest.raises(InferenceFailed):
                await culprit
            await answer(engine)
            await innocent

    asyncio.run(scenario())


def test_an_engine_loads_again_the_weights_that_it_has_forgotten(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            mask = worker.submit(make_canvas())
            message, _ = await engine.receive(Segment)
            engine.channel.send(Unknown(message.number))
            await engine.load()
            await answer(engine, 2)
            assert ((await mask) == 2).all()

    asyncio.run(scenario())


def test_a_request_keeps_the_weights_of_its_arrival(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            worker.use(OTHER_DIGEST)
            await engine.load(digest=OTHER_DIGEST)
            old, new = (
                worker.submit(make_canvas()),
                worker.submit(make_canvas(), digest=OTHER_DIGEST),
            )
            assert (await answer(engine)).digest.hex() == DIGEST
            assert (await answer(engine)).digest.hex() == OTHER_DIGEST
            await asyncio.gather(old, new)

    asyncio.run(scenario())


def test_an_engine_that_refuses_the_weights_in_use_is_asked_again(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            worker.use()
            await engine.accept()
            message = await engine.receive(Load)
            engine.channel.send(Refused(message.number, "no memory"))
            await engine.ended.wait()
            await connect(worker, engine)

    asyncio.run(scenario())


def test_an_engine_that_refuses_old_weights_fails_their_images_only(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            old = worker.submit(make_canvas(), digest=OTHER_DIGEST)
            message = await engine.receive(Load)
            new = worker.submit(make_canvas())
            engine.channel.send(Refused(message.number, "no memory"))
            with pytest.raises(InferenceFailed):
                await old
            await answer(engine)
            await new

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "message", [Done(99, 1), Ping(), Welcome(1, 1), b"", b"\xff", b"\x07", 9000 * b"x"]
)
def test_an_engine_that_is_out_of_order_loses_its_images_to_its_successor(tmp_path, message):
    async def scenario():
        async with working(tmp_path) as (worker, engine):
            await connect(worker, engine)
            mask = worker.submit(make_canvas())
            await engine.receive(Segment)
            if isinstance(message, bytes):
                engine.connection.send(message)
            else:
                engine.channel.send(message)
            await engine.ended.wait()
            await engine.accept()
            await engine.load()
            await answer(engine)
            await mask

    asyncio.run(scenario())


def test_what_waits_at_the_end_is_failed(tmp_path):
    async def scenario():
        async with working(tmp_path) as (worker, _):
            worker.use()
            hold = Hold()
            mask = worker.submit(make_canvas(), held=hold)
            await asyncio.sleep(0)
        with pytest.raises(InferenceFailed):
            await mask
        assert hold.count == 0

    asyncio.run(scenario())


def test_an_engine_process_that_does_not_react_is_killed(tmp_path):
    """Here it is another process: a suspended one would be connected, too."""

    async def scenario():
        sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        async with working(tmp_path, stuck_after_s=0.1) as (worker, engine):
            worker.use()
            await engine.accept(pid=sleeper.pid)
            await engine.load()
            await worker.wait_until_ready()
            mask = worker.submit(make_canvas())
            await engine.receive(Segment)
            await engine.receive(Ping)
            engine.channel.send(Pong())  # as long as it reacts, it may compute
            await engine.receive(Ping)
            await engine.ended.wait()
            assert sleeper.wait(60) == -signal.SIGKILL
            await engine.accept()
            await engine.load()
            await answer(engine)
            await mask

    asyncio.run(scenario())


def test_nobody_is_watched_who_has_no_work():
    async def scenario():
        pings, silent, is_idle = asyncio.Queue(), asyncio.Event(), asyncio.Event()
        work = [True, True, True, False]

        def has_work():
            if not (still := work.pop(0) if work else True):
                is_idle.set()
            return still

        heartbeat = Heartbeat(
            0.001,
            has_work=has_work,
            ping=lambda: pings.put_nowait("ping"),
            on_silent=silent.set,
        )
        heartbeat.expect()
        for _ in range(2):
            await pings.get()
            heartbeat.hear()
        await is_idle.wait()
        assert not silent.is_set()
        heartbeat.expect()
        await silent.wait()
        assert pings.qsize() == 1

    asyncio.run(scenario())
