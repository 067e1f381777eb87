"""Work whose caller disconnects: waiting work is released at once, running work at its end."""

import asyncio
import gc
import threading
import weakref
from contextlib import suppress

import pytest

from app.observability.metrics import Metrics
from app.scheduling.budget import Budget, Share
from app.scheduling.codec_threads import CodecThreads


class Upload:
    """Stands for the bytes that a piece of work holds."""


@pytest.fixture
def held():
    return Counted()


class Counted:
    def __init__(self):
        self.metrics = Metrics()
        self.threads = CodecThreads(1, gauge=self.metrics.codec_tasks)
        self.budget = Budget(100, unit="bytes", reason="bytes", gauge=self.metrics.upload_bytes)
        self.begun, self.goes_on = threading.Event(), threading.Event()

    @property
    def bytes(self):
        return self.metrics.registry.get_sample_value("seg_upload_bytes")

    @property
    def tasks(self):
        return self.metrics.registry.get_sample_value("seg_codec_tasks")

    def share(self, amount):
        share = Share(self.budget)
        share.take(amount)
        return share

    def block(self, *_):
        self.begun.set()
        assert self.goes_on.wait(60)

    async def blocking(self, share, *arguments):
        task = asyncio.create_task(self.threads.run(self.block, *arguments, held=[share]))
        await asyncio.to_thread(self.begun.wait, 60)
        return task


async def leave(task, share):
    """End the work as a request does that disconnects."""
    share.end()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_work_has_its_result_or_its_exception(held):
    async def scenario():
        assert await held.threads.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await held.threads.run(divmod, 7, 0)
        assert held.tasks == 0

    asyncio.run(scenario())


def test_waiting_work_and_its_bytes_are_released_when_its_caller_disconnects(held):
    async def scenario():
        running, waiting = held.share(10), held.share(40)
        first = await held.blocking(running)
        ran, upload = [], Upload()
        second = asyncio.create_task(held.threads.run(ran.append, upload, held=[waiting]))
        await asyncio.sleep(0)
        assert (held.bytes, held.tasks) == (50, 2)
        there = weakref.ref(upload)
        del upload
        gc.disable()  # at once, not when the collector runs
        try:
            await leave(second, waiting)
            del second
            assert there() is None
        finally:
            gc.enable()
        assert (held.bytes, held.tasks) == (10, 1)
        held.goes_on.set()
        await first
        running.end()
        held.threads.threads.shutdown()
        assert (held.bytes, held.tasks, ran) == (0, 0, [])

    asyncio.run(scenario())


def test_running_work_counts_until_it_ends(held):
    async def scenario():
        share = held.share(60)
        upload = Upload()
        there = weakref.ref(upload)
        task = await held.blocking(share, upload)
        del upload
        await leave(task, share)
        del task
        assert (held.bytes, held.tasks) == (60, 1)
        assert there() is not None
        held.goes_on.set()
        held.threads.threads.shutdown()
        assert (held.bytes, held.tasks) == (0, 0)
        assert there() is None

    asyncio.run(scenario())


def test_an_exception_does_not_keep_the_failed_work_alive(held):
    def fail(upload):
        raise ValueError(id(upload))

    async def scenario():
        upload = Upload()
        there = weakref.ref(upload)
        with pytest.raises(ValueError, match=str(id(upload))) as caught:
            await held.threads.run(fail, upload)
        del upload, caught
        await asyncio.sleep(0)  # what woke this task has the exception until its next step
        assert there() is None

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


def test_a_thousand_cancelled_callers_leak_nothing(held):
    async def scenario():
        running = held.share(1)
        first = await held.blocking(running)
        for _ in range(1000):
            share = held.share(49)
            task = asyncio.create_task(held.threads.run(len, b"", held=[share]))
            await asyncio.sleep(0)
            await leave(task, share)
        assert (held.bytes, held.tasks) == (1, 1)
        assert held.threads.waiting == 0
        held.goes_on.set()
        await first
        running.end()

    asyncio.run(scenario())
