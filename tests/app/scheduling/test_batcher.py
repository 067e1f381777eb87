import asyncio
import re
import threading
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.errors import InferenceFailed, Overloaded
from app.observability.metrics import Metrics
from app.observability.stages import Stages
from app.scheduling.batcher import Batcher
from app.scheduling.watchdog import Watchdog
from model.engines.base import Region
from model.predictor import Canvas


def canvas(value=0, size=(32, 32)):
    return Canvas(np.full((*size, 3), value, np.uint8), Region(size, size))


class GatedEngine:
    """An engine whose mask is the canvas' red channel. It computes while its gate is open."""

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
async def running(engine, *, stuck_after_s=60, on_death=lambda: None, **limits):
    options = {"concurrency": 1, "max_batch_pixels": 4 * 32 * 32, "max_batch_images": 100} | limits
    watchdog = Watchdog(stuck_after_s=stuck_after_s, on_death=on_death)
    batcher = Batcher(watchdog=watchdog, metrics=Metrics(), **options)
    async with batcher.running():
        try:
            yield batcher
        finally:
            engine.gate.set()


def submit(batcher, engine, canvas):
    return batcher.submit(engine.predict, canvas, Stages())


async def busy(engine, batches=1):
    """Wait until the engine has started so many batches."""
    for _ in range(batches):
        await asyncio.get_running_loop().run_in_executor(None, engine.busy.acquire, True, 30)


def value(batcher, name):
    """The value of the metric seg_..."""
    text = batcher.metrics.export().decode()
    return float(re.search(rf"^seg_{name} (.*)$", text, re.M)[1])


async def waiting(batcher, engine, *canvases):
    """Submit canvases, and return when all of them are in the queue."""
    tasks = [asyncio.create_task(submit(batcher, engine, c)) for c in canvases]
    await asyncio.sleep(0)  # each task runs up to its first wait
    return tasks


def test_a_single_request_does_not_wait():
    async def scenario():
        engine = GatedEngine()
        engine.gate.set()
        async with running(engine) as batcher:
            mask = await submit(batcher, engine, canvas(7))
        assert (mask == 7).all()
        assert engine.batches == [[7]]

    asyncio.run(scenario())


def test_requests_that_wait_for_the_engine_become_one_batch():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            first = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            others = await waiting(batcher, engine, canvas(2), canvas(3), canvas(4))
            engine.gate.set()
            results = await asyncio.gather(*first, *others)
        assert engine.batches == [[1], [2, 3, 4]]
        assert [r[0, 0] for r in results] == [1, 2, 3, 4]

    asyncio.run(scenario())


def test_an_engine_elsewhere_that_is_full_refuses_the_whole_batch():
    async def scenario():
        engine = GatedEngine()
        full = Overloaded("full", remedy="Try again.", retry_after_s=3)

        def predict(canvases):
            engine.predict(canvases)
            raise full

        async with running(engine) as batcher:
            tasks = [
                asyncio.create_task(batcher.submit(predict, canvas(v), Stages())) for v in (1, 2)
            ]
            await asyncio.sleep(0)
            engine.gate.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results == [full, full]
        assert engine.batches == [[1, 2]]  # it is not tried again in halves
        assert value(batcher, "engine_failures_total") == 0

    asyncio.run(scenario())


def test_a_batch_has_one_canvas_size_and_stays_within_the_pixel_budget():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            tasks = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, engine, *(canvas(v) for v in (2, 3, 4, 5, 6)))
            tasks += await waiting(batcher, engine, canvas(7, size=(64, 32)), canvas(8))
            tasks += await waiting(batcher, engine, canvas(9, size=(320, 320)))
            engine.gate.set()
            await asyncio.gather(*tasks)
        assert engine.batches == [[1], [2, 3, 4, 5], [6, 8], [7], [9]]

    asyncio.run(scenario())


def test_a_batch_has_no_more_images_than_the_engine_computes_at_once():
    async def scenario():
        engine = GatedEngine()
        async with running(engine, max_batch_images=2) as batcher:
            tasks = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, engine, *(canvas(v) for v in (2, 3, 4)))
            engine.gate.set()
            await asyncio.gather(*tasks)
        assert engine.batches == [[1], [2, 3], [4]]

    asyncio.run(scenario())


def test_the_engine_gets_as_many_batches_at_once_as_it_accepts():
    async def scenario():
        engine = GatedEngine()
        async with running(engine, concurrency=2, max_batch_images=1) as batcher:
            tasks = await waiting(batcher, engine, *(canvas(v) for v in range(5)))
            await busy(engine, batches=2)
            assert sorted(engine.batches) == [[0], [1]]
            engine.gate.set()
            results = await asyncio.gather(*tasks)
        assert sorted(engine.batches) == [[0], [1], [2], [3], [4]]
        assert [r[0, 0] for r in results] == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_an_image_that_the_engine_refuses_fails_alone():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            tasks = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, engine, canvas(66), canvas(2), canvas(4))
            tasks += await waiting(batcher, engine, canvas(3, size=(64, 64)))
            engine.gate.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.batches == [[1], [66, 2, 4], [66], [2, 4], [3]]
        assert isinstance(results[1], InferenceFailed)
        assert "secret" not in results[1].detail
        assert [results[i][0, 0] for i in (0, 2, 3, 4)] == [1, 2, 4, 3]

    asyncio.run(scenario())


def test_a_batch_that_needs_too_much_memory_is_halved():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            predict = engine.predict

            def small_predict(canvases):
                masks = predict(canvases)
                if len(canvases) > 2:
                    raise MemoryError
                return masks

            engine.predict = small_predict
            tasks = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, engine, *(canvas(v) for v in (2, 3, 4, 5)))
            engine.gate.set()
            results = await asyncio.gather(*tasks)
        assert engine.batches == [[1], [2, 3, 4, 5], [2, 3], [4, 5]]
        assert [r[0, 0] for r in results] == [1, 2, 3, 4, 5]

    asyncio.run(scenario())


def test_a_disconnected_request_is_not_computed():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            (first,) = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            left, stayed = await waiting(batcher, engine, canvas(2), canvas(3))
            left.cancel()
            await asyncio.wait([left])
            engine.gate.set()
            await asyncio.gather(first, stayed)
        assert engine.batches == [[1], [3]]

    asyncio.run(scenario())


def test_an_engine_that_can_stop_is_told_whose_caller_has_left_while_it_computes():
    async def scenario():
        engine, told = GatedEngine(), []
        alone = {"concurrency": 2, "max_batch_images": 1}
        async with running(engine, **alone, abandon=told.append) as batcher:
            canvases = [canvas(value) for value in range(3)]
            left, stayed, waits = await waiting(batcher, engine, *canvases)
            await busy(engine, 2)
            for task in (left, waits):
                task.cancel()
            await asyncio.wait([left, waits])
            engine.gate.set()
            await stayed
        assert [pixels is canvases[0].pixels for pixels in told] == [True]

    asyncio.run(scenario())


def test_a_batch_that_is_being_computed_is_answered_before_the_end():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            (task,) = await waiting(batcher, engine, canvas(5))
            await busy(engine)
        assert task.done()
        assert task.result()[0, 0] == 5

    asyncio.run(scenario())


def test_an_engine_that_loses_a_mask_fails_its_batch_and_not_the_batcher():
    async def scenario():
        engine = GatedEngine()
        engine.gate.set()
        async with running(engine) as batcher:
            predict, engine.predict = engine.predict, lambda _: []
            with pytest.raises(InferenceFailed):
                await submit(batcher, engine, canvas(1))
            engine.predict = predict
            assert (await submit(batcher, engine, canvas(2)))[0, 0] == 2

    asyncio.run(scenario())


def test_if_the_batcher_dies_every_caller_gets_an_error(monkeypatch):
    async def scenario():
        engine = GatedEngine()
        deaths = 0

        def count():
            nonlocal deaths
            deaths += 1

        async with running(engine, on_death=count) as batcher:
            tasks = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, engine, canvas(2), canvas(3, size=(64, 64)))

            def broken():
                raise AssertionError

            monkeypatch.setattr(batcher, "take_batch", broken)
            engine.gate.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert results[0][0, 0] == 1
            assert isinstance(results[1], InferenceFailed)
            assert isinstance(results[2], InferenceFailed)
            assert not batcher.is_alive
            assert deaths == 1

    asyncio.run(scenario())


def test_submitted_requests_are_answered_before_the_end():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            tasks = await waiting(batcher, engine, *(canvas(v) for v in range(10)))
        assert all(task.done() for task in tasks)
        assert [task.result()[0, 0] for task in tasks] == list(range(10))

    asyncio.run(scenario())


def test_a_disconnected_request_leaves_the_queue_at_once():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            (first,) = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            left, *stayed = await waiting(batcher, engine, canvas(2), canvas(3), canvas(4))
            assert value(batcher, "queue_depth") == 3
            left.cancel()
            await asyncio.wait([left])
            assert value(batcher, "queue_depth") == 2
            for task in stayed:
                task.cancel()
            await asyncio.wait(stayed)
            assert value(batcher, "queue_depth") == 0
            assert value(batcher, "queue_oldest_age_seconds") == 0
            assert not batcher.queues
            engine.gate.set()
            await first

    asyncio.run(scenario())


def test_the_oldest_age_is_that_of_the_first_request_in_any_queue(monkeypatch):
    async def scenario():
        engine = GatedEngine()
        now = 1000.0
        monkeypatch.setattr(time, "time", lambda: now)
        async with running(engine) as batcher:
            tasks = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            assert value(batcher, "queue_oldest_age_seconds") == 0
            for size in ((64, 64), (32, 32), (64, 64)):
                now += 1
                tasks += await waiting(batcher, engine, canvas(2, size=size))
            now += 3
            assert value(batcher, "queue_oldest_age_seconds") == 5
            engine.gate.set()
            await asyncio.gather(*tasks)
            assert value(batcher, "queue_oldest_age_seconds") == 0

    asyncio.run(scenario())


def test_the_metrics_say_how_full_a_batch_was():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            tasks = await waiting(batcher, engine, canvas(1))
            await busy(engine)
            tasks += await waiting(batcher, engine, canvas(2), canvas(3), canvas(4))
            engine.gate.set()
            await asyncio.gather(*tasks)
            assert value(batcher, "batch_size_sum") == 4
            assert value(batcher, "batch_fill_ratio_sum") == 1 / 4 + 3 / 4

    asyncio.run(scenario())


def test_requests_for_different_weights_do_not_share_a_batch():
    async def scenario():
        old, new = GatedEngine(), GatedEngine()
        async with running(old) as batcher:
            tasks = await waiting(batcher, old, canvas(1))
            await busy(old)
            tasks += await waiting(batcher, old, canvas(2))
            tasks += await waiting(batcher, new, canvas(3))
            tasks += await waiting(batcher, old, canvas(4))
            new.gate.set()
            old.gate.set()
            results = await asyncio.gather(*tasks)
        assert old.batches == [[1], [2, 4]]
        assert new.batches == [[3]]
        assert [r[0, 0] for r in results] == [1, 2, 3, 4]

    asyncio.run(scenario())


def test_a_stuck_engine_is_noticed_and_its_callers_are_answered():
    async def scenario():
        engine = GatedEngine()
        async with running(engine, stuck_after_s=0) as batcher:
            assert batcher.is_alive
            with pytest.raises(InferenceFailed):
                await submit(batcher, engine, canvas(1))
            assert not batcher.is_alive
            engine.gate.set()
            await asyncio.gather(*batcher.computing)
            assert batcher.is_alive, "it was slow, not stuck"

    asyncio.run(scenario())


def test_a_stuck_engine_is_noticed_later_if_its_images_are_large(monkeypatch):
    async def scenario():
        loop, delays = asyncio.get_running_loop(), []
        call_later = loop.call_later

        def note(delay, *rest):
            delays.append(delay)
            return call_later(delay, *rest)

        monkeypatch.setattr(loop, "call_later", note)
        engine = GatedEngine()
        large = Canvas(np.zeros((32, 64, 3), np.uint8), Region((1, 64), (1, 25_000_000)))
        async with running(engine, stuck_after_s=10) as batcher:
            task = asyncio.create_task(submit(batcher, engine, large))
            await busy(engine)
            limit_s = 10 + 1e-6 * (32 * 64 + 25_000_000)
            assert delays[0] == pytest.approx(limit_s / 2)  # then the meter starts
            engine.gate.set()
            await task

    asyncio.run(scenario())


def test_shutting_down_does_not_wait_for_a_stuck_engine(monkeypatch):
    monkeypatch.setattr("app.scheduling.watchdog.GRACE_S", 0)
    engine = GatedEngine()

    async def scenario():
        died = asyncio.Event()
        async with running(engine, stuck_after_s=0, on_death=died.set) as batcher:
            stuck, waits = await waiting(batcher, engine, canvas(1), canvas(2, size=(64, 64)))
            await died.wait()
            batcher.give_up()
            for task in (stuck, waits):
                with pytest.raises(InferenceFailed):
                    await task
            assert not batcher.is_alive
            monkeypatch.setattr(
                engine, "gate", threading.Event()
            )  # closing the engine does not open this one
        assert engine.batches == [[1]], "still in the engine, and left there"

    opens = engine.gate
    try:
        asyncio.run(scenario())
    finally:
        opens.set()


def test_a_request_is_in_the_stage_where_it_is():
    async def scenario():
        engine = GatedEngine()
        async with running(engine) as batcher:
            stages = [Stages(), Stages()]
            tasks = []
            for which in stages:
                tasks.append(asyncio.create_task(batcher.submit(engine.predict, canvas(1), which)))
                await busy(engine) if which is stages[0] else await asyncio.sleep(0)
            assert [which.current for which in stages] == ["inference", "queue"]
            engine.gate.set()
            await asyncio.gather(*tasks)
            assert [which.current for which in stages] == ["inference", "inference"]

    asyncio.run(scenario())
