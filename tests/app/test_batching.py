import asyncio
import math
import threading
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.batching import Batcher
from app.errors import InferenceFailed, Overloaded
from app.telemetry import Telemetry
from model.engines.base import Region
from model.predictor import Canvas

LATER = math.inf


def submit(batcher, canvas, due=LATER):
    return batcher.submit(canvas, due)


def canvas(value=0, size=(32, 32)):
    return Canvas(np.full((*size, 3), value, np.uint8), Region(size, size))


class GatedEngine:
    """An engine whose mask is the canvas' red channel; it computes when its gate is open."""

    def __init__(self):
        self.gate = threading.Event()
        self.busy = threading.Semaphore(0)
        self.batches = []

    def predict(self, canvases):
        self.batches.append([int(c.pixels[0, 0, 0]) for c in canvases])
        self.busy.release()
        assert self.gate.wait(30)
        if any(c.pixels[0, 0, 0] == 66 for c in canvases):
            raise RuntimeError("secret detail")
        return [c.pixels[..., 0] for c in canvases]


@asynccontextmanager
async def running(engine, **limits):
    options = {
        "callers": 1,
        "max_queue": 100,
        "max_batch_pixels": 4 * 32 * 32,
        "max_batch_images": 100,
        "stuck_after_s": 60,
    } | limits
    batcher = Batcher(engine.predict, telemetry=Telemetry(), **options)
    async with batcher.running():
        yield batcher
        engine.gate.set()


async def busy(engine, batches=1):
    """Until the engine has begun so many batches."""
    for _ in range(batches):
        await asyncio.get_running_loop().run_in_executor(None, engine.busy.acquire, True, 30)


async def waiting(batcher, *canvases):
    """Submitted canvases, once all of them are in the queue."""
    tasks = [asyncio.create_task(submit(batcher, c)) for c in canvases]
    await asyncio.sleep(0)  # each task runs up to its first wait
    return tasks


def test_a_lone_request_waits_for_nobody():
    async def scenario():
        engine = GatedEngine()
        engine.gate.set()
        async with running(engine) as batcher:
            result = await submit(batcher, canvas(7))
        assert (result.mask == 7).all()
        assert result.batch_size == 1
        assert engine.batches == [[7]]

    asyncio.run(scenario())


def test_what_waits_when_the_engine_is_free_becomes_one_batch():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            first = await waiting(batcher, canvas(1))
            await busy(engine)
            others = await waiting(batcher, canvas(2), canvas(3), canvas(4))
            engine.gate.set()
            results = await asyncio.gather(*first, *others)
        assert engine.batches == [[1], [2, 3, 4]]
        assert [r.mask[0, 0] for r in results] == [1, 2, 3, 4]
        assert [r.batch_size for r in results] == [1, 3, 3, 3]

    asyncio.run(scenario())


def test_a_batch_keeps_to_the_pixel_budget_and_to_one_canvas_size():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            tasks = await waiting(batcher, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, *(canvas(v) for v in (2, 3, 4, 5, 6)))
            tasks += await waiting(batcher, canvas(7, size=(64, 32)), canvas(8))
            tasks += await waiting(batcher, canvas(9, size=(320, 320)))
            engine.gate.set()
            await asyncio.gather(*tasks)
        assert engine.batches == [[1], [2, 3, 4, 5], [6, 8], [7], [9]]

    asyncio.run(scenario())


def test_a_batch_has_no_more_images_than_the_engine_computes_at_once():
    async def scenario():
        engine = GatedEngine()
        async with running(engine, max_batch_images=2) as batcher:
            tasks = await waiting(batcher, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, *(canvas(v) for v in (2, 3, 4)))
            engine.gate.set()
            await asyncio.gather(*tasks)
        assert engine.batches == [[1], [2, 3], [4]]

    asyncio.run(scenario())


def test_as_many_batches_are_computed_at_once_as_the_engine_takes():
    async def scenario():
        engine = GatedEngine()
        async with running(engine, callers=2, max_batch_images=1) as batcher:
            tasks = await waiting(batcher, *(canvas(v) for v in range(5)))
            await busy(engine, batches=2)
            assert sorted(engine.batches) == [[0], [1]]
            engine.gate.set()
            results = await asyncio.gather(*tasks)
        assert sorted(engine.batches) == [[0], [1], [2], [3], [4]]
        assert [r.mask[0, 0] for r in results] == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_an_image_that_the_engine_cannot_take_harms_no_other():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            tasks = await waiting(batcher, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, canvas(66), canvas(2), canvas(4))
            tasks += await waiting(batcher, canvas(3, size=(64, 64)))
            engine.gate.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.batches == [[1], [66, 2, 4], [66], [2, 4], [3]]
        assert isinstance(results[1], InferenceFailed)
        assert "secret" not in results[1].detail
        assert [results[i].mask[0, 0] for i in (0, 2, 3, 4)] == [1, 2, 4, 3]

    asyncio.run(scenario())


def test_a_batch_that_needs_too_much_memory_is_halved():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            predict = batcher._predict

            def small_predict(canvases):
                masks = predict(canvases)
                if len(canvases) > 2:
                    raise MemoryError
                return masks

            batcher._predict = small_predict
            tasks = await waiting(batcher, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, *(canvas(v) for v in (2, 3, 4, 5)))
            engine.gate.set()
            results = await asyncio.gather(*tasks)
        assert engine.batches == [[1], [2, 3, 4, 5], [2, 3], [4, 5]]
        assert [r.mask[0, 0] for r in results] == [1, 2, 3, 4, 5]

    asyncio.run(scenario())


def test_a_caller_who_left_is_not_computed():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            (first,) = await waiting(batcher, canvas(1))
            await busy(engine)
            left, stayed = await waiting(batcher, canvas(2), canvas(3))
            left.cancel()
            await asyncio.wait([left])
            engine.gate.set()
            await asyncio.gather(first, stayed)
        assert engine.batches == [[1], [3]]

    asyncio.run(scenario())


def test_more_than_the_queue_holds_is_refused_with_a_time_to_come_back():
    async def scenario():
        engine = GatedEngine()
        engine.gate.set()
        async with running(engine, max_queue=2) as batcher:
            with batcher.admitted(LATER), batcher.admitted(LATER):
                with pytest.raises(Overloaded) as caught, batcher.admitted(LATER):
                    pass
                assert int(caught.value.headers["Retry-After"]) >= 1
            with batcher.admitted(LATER):
                await submit(batcher, canvas(1))

    asyncio.run(scenario())


def test_a_batch_that_is_being_computed_is_answered_before_the_end():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            (task,) = await waiting(batcher, canvas(5))
            await busy(engine)
        assert task.done()
        assert task.result().mask[0, 0] == 5

    asyncio.run(scenario())


def test_an_engine_that_loses_a_mask_fails_its_batch_and_not_the_batcher():
    async def scenario():
        engine = GatedEngine()
        engine.gate.set()
        async with running(engine) as batcher:
            predict, batcher._predict = batcher._predict, lambda _: []
            with pytest.raises(InferenceFailed):
                await submit(batcher, canvas(1))
            batcher._predict = predict
            assert (await submit(batcher, canvas(2))).mask[0, 0] == 2

    asyncio.run(scenario())


def test_when_the_batcher_dies_nobody_waits_for_ever(monkeypatch):
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            tasks = await waiting(batcher, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, canvas(2), canvas(3, size=(64, 64)))

            def broken():
                raise AssertionError

            monkeypatch.setattr(batcher, "_next_batch", broken)
            engine.gate.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert results[0].mask[0, 0] == 1
            assert isinstance(results[1], InferenceFailed)
            assert isinstance(results[2], InferenceFailed)
            assert not batcher.is_alive
            assert isinstance(batcher._task.exception(), AssertionError)

    asyncio.run(scenario())


def test_what_was_submitted_is_answered_before_the_end():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            tasks = await waiting(batcher, *(canvas(v) for v in range(10)))
        assert all(task.done() for task in tasks)
        assert [task.result().mask[0, 0] for task in tasks] == list(range(10))

    asyncio.run(scenario())


def test_what_cannot_be_met_is_refused_with_the_time_that_it_would_take():
    async def scenario():
        engine = GatedEngine()
        engine.gate.set()
        async with running(engine) as batcher:
            batcher._note_pace(2.0)
            with batcher.admitted(LATER), batcher.admitted(LATER):
                assert batcher.predicted_wait_s == pytest.approx(6)
                batcher.require_place(time.perf_counter() + 60)
                with pytest.raises(Overloaded, match="about 6 s; there are 2") as caught:
                    batcher.require_place(time.perf_counter() + 2.5)
                assert caught.value.headers["Retry-After"] == "4"
            batcher._note_pace(1000.0)
            batcher.require_place(time.perf_counter() + 1)  # nobody before it: it may try

    asyncio.run(scenario())


def test_an_engine_that_is_stuck_is_noticed_and_its_callers_are_answered():
    async def scenario():
        engine = GatedEngine()
        async with running(engine, stuck_after_s=0) as batcher:
            assert batcher.is_alive
            stuck = asyncio.create_task(submit(batcher, canvas(1), due=time.perf_counter() + 0.1))
            await busy(engine)
            assert not batcher.is_alive
            with pytest.raises(Overloaded, match="time for this request is over"):
                await stuck
            engine.gate.set()
            await asyncio.gather(*batcher._computing)
            assert batcher.is_alive

    asyncio.run(scenario())


def test_the_pace_follows_the_load_slowly():
    async def scenario():
        async with running(GatedEngine()) as batcher:
            batcher._note_pace(1.0)
            batcher._note_pace(2.0)
            assert batcher.predicted_wait_s == pytest.approx(1.2)

    asyncio.run(scenario())


def test_who_still_waits_at_the_deadline_is_answered_and_not_computed():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            (first,) = await waiting(batcher, canvas(1))
            await busy(engine)
            late = asyncio.create_task(submit(batcher, canvas(2), due=time.perf_counter()))
            (other,) = await waiting(batcher, canvas(3))
            engine.gate.set()
            results = await asyncio.gather(first, late, other, return_exceptions=True)
        assert engine.batches == [[1], [3]]
        assert isinstance(results[1], Overloaded)
        assert results[2].mask[0, 0] == 3

    asyncio.run(scenario())
