"""The codec threads: they decode and encode for callers who may leave meanwhile.

Work that waits is forgotten at once when its caller leaves; work that runs goes on to its end, for
C cannot be interrupted. Until then it keeps its shares. Knows nothing of images.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from prometheus_client import Gauge

from app.scheduling.budget import Share, ShareEnded
from app.scheduling.threads import work_threads

T = TypeVar("T")


class CodecThreads:
    """First come, first served. An executor's own queue keeps what was cancelled, with its bytes,
    until a thread comes to it; this one does not.
    """

    def __init__(self, count: int, *, gauge: Gauge) -> None:
        """`gauge` shows how much work waits or runs."""
        self.threads = work_threads(count, "codec")
        self._count = count
        self._gauge = gauge
        self._waiting: OrderedDict[_Work, None] = OrderedDict()
        self._running = 0
        self._lock = threading.Lock()

    async def run(
        self,
        function: Callable[..., T],
        *arguments: object,
        held: Sequence[Share] = (),
        first: bool = False,
    ) -> T:
        """The function's result. `held` is kept until the function has ended or is forgotten.

        `first`: before what waits already, for short work of a request that has waited. Raises
        what the function does.
        """
        work = _Work(function, arguments, held)
        try:
            self._put(work, first=first)
            result: T = await asyncio.wrap_future(work.future)
            return result
        finally:
            self._take_out(work)
            # An exception has this frame in its traceback, and the future has the exception: with
            # the future in this frame they would hold the upload until the garbage collector runs.
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
            self.threads.submit(self._work)

    def _take_out(self, work: "_Work") -> None:
        with self._lock:
            if work not in self._waiting:
                return
            del self._waiting[work]
        self._end(work)

    def _work(self) -> None:
        """In a thread, until nothing waits."""
        while (work := self._next()) is not None:
            self._run(work)

    def _next(self) -> "_Work | None":
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
        except BaseException as error:  # the caller's, as it is with an executor
            self._end(work)
            work.future.set_exception(error)
        else:
            self._end(work)
            work.future.set_result(result)
        finally:
            del work  # see `run`: this frame is in the traceback, too

    def _end(self, work: "_Work") -> None:
        """Before its caller knows of it, so that who has an answer sees what is true after it."""
        work.let_go()
        self._gauge.dec()


class _Work:
    def __init__(
        self, function: Callable[..., Any], arguments: tuple[object, ...], held: Sequence[Share]
    ) -> None:
        self.future: Future[Any] = Future()
        self.function = function
        self.arguments = arguments
        self._held = held

    def keep(self) -> None:
        """All of its shares or none. Raises ShareEnded."""
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
        """First of what the shares stand for, then of the shares."""
        self.function, self.arguments = _nothing, ()
        for share in self._held:
            share.let_go()


def _nothing() -> None:
    """What is left of work that has ended."""
