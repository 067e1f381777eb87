import asyncio

import pytest

from app.scheduling.coalescing import Coalesced


class Work:
    """Counts its runs. Each waits until the test releases it."""

    def __init__(self, error=None):
        self.runs, self.at_once, self.error = 0, 0, error
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self):
        self.runs += 1
        number = self.runs
        self.at_once += 1
        assert self.at_once == 1
        self.begun.set()
        await self.go.wait()
        self.at_once -= 1
        if self.error:
            raise self.error
        return number


def test_callers_during_a_run_share_the_next_run():
    async def scenario():
        work = Work()
        coalesced = Coalesced(work)
        first = asyncio.create_task(coalesced.run())
        await work.begun.wait()
        rest = [asyncio.create_task(coalesced.run()) for _ in range(50)]
        await asyncio.sleep(0)
        work.go.set()
        assert await first == 1
        assert set(await asyncio.gather(*rest)) == {2}
        assert await coalesced.run() == 3
        assert work.runs == 3

    asyncio.run(scenario())


def test_an_error_reaches_exactly_the_callers_of_its_run():
    async def scenario():
        work = Work(ValueError("no"))
        work.go.set()
        coalesced = Coalesced(work)
        shared = [asyncio.create_task(coalesced.run()) for _ in range(3)]
        assert all(
            isinstance(outcome, ValueError)
            for outcome in await asyncio.gather(*shared, return_exceptions=True)
        )
        assert work.runs == 1
        work.error = None
        assert await coalesced.run() == 2

    asyncio.run(scenario())


def test_a_cancelled_caller_does_not_cancel_the_run():
    async def scenario():
        work = Work()
        coalesced = Coalesced(work)
        leaves, stays = (asyncio.create_task(coalesced.run()) for _ in range(2))
        await work.begun.wait()
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        work.go.set()
        assert await stays == 1

    asyncio.run(scenario())
