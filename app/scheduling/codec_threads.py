"""The codec threads: decode and encode for requests that may be cancelled meanwhile.

Waiting work is dropped as soon as its request is cancelled. Running work continues to its end,
because C code cannot be interrupted, and keeps its shares until then. Knows nothing of images.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from prometheus_client import Gauge

from app.scheduling.budget import Share, ShareEnded
from app.scheduling.threads import start_work_threads

T = TypeVar("T")


class CodecThreads:
    """A thread pool with a first-in, first-out queue that drops cancelled work at once.

    The queue of an executor keeps cancelled work, with its bytes, until a thread reaches it.
    """

    def __init__(self, count: int, *, gauge: Gauge) -> None:
        """`gauge` shows the number of tasks that wait or run."""
        self.threads = start_work_threads(count, "codec")
        self._count = count
        self._gauge = gauge
        self._waiting: OrderedDict[_Work, None] = OrderedDict()
        self._running = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for a thread."""
        return len(self._waiting)

    async def run(
        self,
        function: Callable[..., T],
        *arguments: object,
        held: Sequence[Share] = (),
        first: bool = False,
    ) -> T:
        """Return the function's result. `held` is kept until the function has ended or is dropped.

        With `first`, it runs before all work that already waits; use this for short work of a
        request that has already waited. Raises what the function raises.
        """
        work = _Work(function, arguments, held)
        try:
            self._put(work, first=first)
            result: T = await asyncio.wrap_future(work.future)
            return result
        finally:
            self._drop(work)
            # The exception's traceback refers to this frame, and the future to the exception: with
            # the future in this frame, the cycle would keep the upload until the garbage collector
            # runs.
            del work, function, arguments

    def _put(self, work: "_Work", *, first: bool) -> None:
        work.keep()
        with self._lock:
            self._waiting[work] = None
            self._waiting.move_to_end(work, last=not first)
            self._gauge.inc()
            needs_thread = self._running < self._count
            self._running += needs_thread
        if needs_thread:
            self.threads.submit(self._run_waiting)

    def _drop(self, work: "_Work") -> None:
        """Remove work that still waits."""
        with self._lock:
            if work not in self._waiting:
                return
            del self._waiting[work]
        self._end(work)

    def _run_waiting(self) -> None:
        """Run waiting work on this thread until there is none."""
        while (work := self._take_next()) is not None:
            self._run(work)

    def _take_next(self) -> "_Work | None":
        with self._lock:
            if self._waiting:
                return self._waiting.popitem(last=False)[0]
            self._running -= 1
            return None

    def _run(self, work: "_Work") -> None:
        if not work.future.set_running_or_notify_cancel():
            self._end(work)
            return
        try:
            result = work.function(*work.arguments)
        except BaseException as error:  # raised where the result is awaited, as by an executor
            self._end(work)
            work.future.set_exception(error)
        else:
            self._end(work)
            work.future.set_result(result)
        finally:
            del work  # as in `run`: the traceback refers to this frame, too

    def _end(self, work: "_Work") -> None:
        """Release the work's shares before its result is set, so that the gauges are right."""
        work.let_go()
        self._gauge.dec()


class _Work:
    """A function with its arguments, the shares that it keeps, and the future of its result."""

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[object, ...], held: Sequence[Share]
    ) -> None:
        self.future: Future[Any] = Future()
        self.function = function
        self.arguments = arguments
        self._held = held

    def keep(self) -> None:
        """Keep all of the shares, or none. Raises ShareEnded."""
        kept: list[Share] = []
        try:
            for share in self._held:
                share.keep()
                kept.append(share)
        except ShareEnded:
            for share in kept:
                share.let_go()
            raise

    def let_go(self) -> None:
        """Drop the arguments, whose memory the shares count, then release the shares."""
        self.function, self.arguments = _do_nothing, ()
        for share in self._held:
            share.let_go()


def _do_nothing() -> None:
    """Replace the function of work that has ended."""
