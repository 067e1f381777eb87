"""The watchdog tells work that is stuck from work that has no processor."""

import asyncio
import itertools
import threading
from contextlib import contextmanager

import pytest

from app.scheduling import starvation, watchdog
from app.scheduling.watchdog import Watchdog

ENDLESS_S = 1e9


def watch(start_meter, *, limit_s, until):
    """Watch work that ends when `until`, an awaitable of the watchdog, does."""

    async def scenario():
        stuck, dead = asyncio.Event(), asyncio.Event()
        dog = Watchdog(stuck_after_s=limit_s, on_death=dead.set, start_meter=start_meter)
        with dog.watching("batch", stuck.set):
            await until(stuck, dead)
        return stuck.is_set(), dead.is_set(), dog.is_healthy

    return asyncio.run(scenario())


def test_work_that_needs_no_processor_is_stuck_at_the_limit_and_given_up(monkeypatch):
    monkeypatch.setattr(watchdog, "GRACE_S", 0)
    ends = watch(lambda: lambda: 0.0, limit_s=0.01, until=lambda stuck, dead: dead.wait())
    assert ends == (True, True, False)


def test_starved_work_is_not_stuck():
    """The meter says that the work has never run. It is asked again and again, and then it ends."""
    asked = asyncio.Event()
    times = itertools.count()

    def start_meter():
        def measure_s():
            if next(times) == 5:
                asked.set()
            return ENDLESS_S

        return measure_s

    # The work is stuck at MAX_FACTOR times its limit; so the limit is long, half of it skipped.
    with soon():
        ends = watch(start_meter, limit_s=3600, until=lambda stuck, dead: asked.wait())
    assert ends == (False, False, True)


def test_starved_work_that_runs_no_longer_is_stuck():
    waits_s = itertools.chain([ENDLESS_S] * 3, itertools.repeat(-ENDLESS_S))
    with soon():
        is_stuck, _, _ = watch(
            lambda: lambda: next(waits_s), limit_s=3600, until=lambda stuck, dead: stuck.wait()
        )
    assert is_stuck
    assert next(waits_s) == -ENDLESS_S  # not before


def test_a_meter_that_always_says_starved_does_not_hide_stuck_work(monkeypatch):
    monkeypatch.setattr(watchdog, "MAX_FACTOR", 2)
    ends = watch(
        lambda: lambda: ENDLESS_S,
        limit_s=0.01,
        until=lambda stuck, dead: stuck.wait(),
    )
    assert ends[0]


@contextmanager
def soon():
    """Every timer of an event loop fires at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            asyncio.BaseEventLoop, "call_later", lambda loop, _, *call: loop.call_soon(*call)
        )
        yield


def write_waits(folder, **waits_ns):
    for thread, wait_ns in waits_ns.items():
        (folder / thread.removeprefix("t")).mkdir(exist_ok=True)
        (folder / thread.removeprefix("t") / "schedstat").write_text(f"7 {wait_ns} 3\n")


def test_the_longest_wait_of_a_thread_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(starvation, "TASKS", tmp_path)
    write_waits(tmp_path, t1=5_000_000_000, t2=0)
    measure_s = starvation.start_meter()
    assert measure_s() == 0
    write_waits(tmp_path, t1=5_500_000_000, t2=2_000_000_000, t3=1_000_000_000)
    assert measure_s() == 2
    (tmp_path / "2" / "schedstat").write_text("0\n")  # another kernel
    (tmp_path / "3" / "schedstat").unlink()  # the thread has ended
    assert measure_s() == 0.5


def test_only_threads_that_may_compute_count(monkeypatch, tmp_path):
    """A codec that waits for a processor says nothing of the engine."""
    monkeypatch.setattr(starvation, "TASKS", tmp_path)
    ended = threading.Event()
    threads = [threading.Thread(target=ended.wait, name=name) for name in ("codec_0", "engine_0")]
    for thread in threads:
        thread.start()
    try:
        codec, engine = (f"t{thread.native_id}" for thread in threads)
        own = f"t{threading.get_native_id()}"
        write_waits(tmp_path, **{codec: 0, engine: 0, own: 0})
        measure_s = starvation.start_meter()
        write_waits(tmp_path, **{codec: 9_000_000_000, own: 9_000_000_000})
        assert measure_s() == 0
        write_waits(tmp_path, **{engine: 1_000_000_000})
        assert measure_s() == 1
    finally:
        ended.set()


def test_where_nothing_is_counted_nothing_is_starved(monkeypatch, tmp_path):
    monkeypatch.setattr(starvation, "TASKS", tmp_path / "none")
    assert starvation.start_meter()() == 0
