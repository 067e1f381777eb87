import asyncio
import time

import pytest

from app.errors import Overloaded
from app.observability.metrics import Metrics
from app.scheduling.admission import Admission

LATER = 1e9


def admission(*, max_queue=100, max_queue_pixels=1000):
    return Admission(max_queue=max_queue, max_queue_pixels=max_queue_pixels, metrics=Metrics())


def test_a_full_queue_refuses_with_a_time_to_retry():
    async def scenario():
        places = admission(max_queue=2)
        async with places.admit(LATER), places.admit(LATER):
            with pytest.raises(Overloaded) as caught:
                async with places.admit(LATER):
                    pass
            assert caught.value.reason == "queue-full"
            assert caught.value.retry_after_s >= 1
        async with places.admit(LATER):
            pass

    asyncio.run(scenario())


def test_a_deadline_that_cannot_be_met_is_refused_with_the_expected_time():
    async def scenario():
        places = admission()
        places.update_pace(2.0)
        async with places.admit(LATER), places.admit(LATER):
            assert places.predicted_wait_s == pytest.approx(6, abs=0.1)
            places.require_place(time.perf_counter() + 60)
            with pytest.raises(Overloaded, match="about 6 s; there are 2") as caught:
                places.require_place(time.perf_counter() + 2.5)
            assert caught.value.retry_after_s == 4
            assert caught.value.reason == "deadline"
        places = admission()
        places.update_pace(1000.0)
        places.require_place(time.perf_counter() + 1)  # nobody before it: it may try

    asyncio.run(scenario())


def test_work_is_cancelled_at_its_deadline():
    async def scenario():
        places = admission()
        with pytest.raises(Overloaded, match="deadline of this request has passed") as caught:
            async with places.admit(time.perf_counter() + 0.01):
                await asyncio.get_running_loop().create_future()
        assert caught.value.reason == "expired"
        assert caught.value.retry_after_s >= 1
        async with places.admit(LATER):
            assert places.admitted == 1

    asyncio.run(scenario())


def test_a_timeout_inside_the_work_is_not_the_deadlines():
    async def scenario():
        with pytest.raises(TimeoutError):
            async with admission().admit(LATER):
                raise TimeoutError

    asyncio.run(scenario())


def test_the_pace_follows_the_load_slowly():
    places = admission()
    places.update_pace(1.0)
    places.update_pace(2.0)
    assert places.predicted_wait_s == pytest.approx(1.1)


def test_the_pace_is_measured_per_place_in_the_queue(monkeypatch):
    async def scenario():
        now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: now)
        places = admission()
        async with places.admit(LATER), places.admit(LATER), places.admit(LATER):
            now = 106.0
        # The last of three waited for three: 6 s / 3. The second: 6 s / 2, the first: 6 s / 1.
        paces = [2.0, 3.0, 6.0]
        expected = paces[0]
        for pace in paces[1:]:
            expected += 0.1 * (pace - expected)
        assert places.predicted_wait_s == pytest.approx(expected)

    asyncio.run(scenario())


def test_requests_that_fail_early_do_not_change_the_pace():
    async def scenario():
        places = admission()
        places.update_pace(5.0)
        with pytest.raises(ValueError, match="broken"):
            async with places.admit(LATER):
                raise ValueError("broken")
        assert places.predicted_wait_s == 5.0

    asyncio.run(scenario())


def test_pixels_are_bounded_together_and_given_back():
    async def scenario():
        places = admission(max_queue_pixels=100)
        async with places.admit(LATER) as first:
            first.take(1000)  # alone it may: its own limit bounds it
            async with places.admit(LATER) as second:
                with pytest.raises(Overloaded, match="limit is 100") as caught:
                    second.take(1)
                assert caught.value.reason == "pixels"
        async with places.admit(LATER) as first, places.admit(LATER) as second:
            first.take(60)
            second.take(20)

    asyncio.run(scenario())
