"""The load generator: closed loops and open loops of requests to one server.

A judge turns each response into an outcome. Knows nothing of the server's process.
"""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from benchmarks.connection import Address, Connection, Request, Response
from benchmarks.results import FAILURES, NO_RESPONSE, Load, Outcome, Result

OVERLOAD = 3
"""An overload sends this many times the measured capacity."""

SETTLE_S = 0.5
"""The pause before a load: threads of an engine may spin for 0.2 s after their last work, and would
slow the next candidate.
"""

TIMEOUT_S = 120

# A refused connection fails at once. Without a pause, its caller would spin.
PAUSE_AFTER_NO_RESPONSE_S = 0.05

MAX_COMPLAINTS = 20

Judge = Callable[[Request, Response], Outcome]


def judge_by_status(_: Request, response: Response) -> Outcome:
    if response.status == HTTPStatus.OK:
        return Outcome.MASK
    overloaded = response.status == HTTPStatus.SERVICE_UNAVAILABLE
    return Outcome.OVERLOADED if overloaded else Outcome.REFUSED


@dataclass(slots=True)
class LoadGenerator:
    """Sends requests to one server. Every request that it starts becomes one result."""

    address: Address
    judge: Judge = judge_by_status
    timeout_s: float = TIMEOUT_S
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    results: list[Result] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """The first failures, as text."""
    started: float = field(default_factory=time.perf_counter)
    cpu_started: float = field(default_factory=time.process_time)

    def finish(self) -> Load:
        wall_s = time.perf_counter() - self.started
        return Load(self.results, wall_s, time.process_time() - self.cpu_started)

    async def run_closed_loop(
        self,
        requests: Sequence[Request],
        *,
        callers: int,
        count: int | None = None,
        seconds: float = math.inf,
    ) -> Load:
        """Share the requests among the callers until `count` are sent or `seconds` have passed.

        Returns after the response to the last request.
        """
        assert count is not None or seconds < math.inf, "a closed loop needs an end"
        until = time.perf_counter() + seconds
        counted = itertools.islice(itertools.cycle(requests), count)
        # The callers take turns because they share this iterator.
        turns = itertools.takewhile(lambda _: time.perf_counter() < until, counted)
        await asyncio.gather(*(self.ask_in_turn(turns) for _ in range(callers)))
        return self.finish()

    async def ask_in_turn(
        self,
        requests: Iterable[Request],
        *,
        caller: str = "",
        keep: bool = True,
        pause_s: float = 0,
    ) -> None:
        """Send each request after the response to the previous one.

        With `keep`, all use one connection; otherwise each opens its own. `pause_s` is the mean of
        the random pauses between them.
        """
        connection = Connection(self.address)
        try:
            for request in requests:
                result = await self.ask(caller, request, connection, due=time.perf_counter())
                if not keep:
                    connection.close()
                if result.status == NO_RESPONSE:
                    await asyncio.sleep(PAUSE_AFTER_NO_RESPONSE_S)
                elif pause_s:
                    await asyncio.sleep(self.rng.uniform(0, 2 * pause_s))
        finally:
            connection.close()

    async def run_open_loop(
        self, due_s: Iterable[float], requests: Iterable[Request], *, caller: str = ""
    ) -> Load:
        """Send each request when it is due, without waiting for earlier ones.

        Idle connections are reused. Latency counts from the due time, so it includes a late start,
        and a stalled server cannot hide it. Returns when all requests have ended.
        """
        idle: list[Connection] = []

        async def arrive(request: Request, due: float) -> None:
            connection = idle.pop() if idle else Connection(self.address)
            await self.ask(caller, request, connection, due=due)
            idle.append(connection)

        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for after_s, request in zip(due_s, requests, strict=False):
                    await asyncio.sleep(started + after_s - time.perf_counter())
                    group.create_task(arrive(request, started + after_s))
        finally:
            for connection in idle:
                connection.close()
        return self.finish()

    async def ask(
        self, caller: str, request: Request, connection: Connection, *, due: float
    ) -> Result:
        try:
            async with asyncio.timeout(self.timeout_s):
                response = await connection.send(request)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            return self.record(caller, request, error, due=due)
        return self.record(caller, request, response, due=due)

    def record(
        self,
        caller: str,
        request: Request,
        what: Response | Outcome | Exception,
        *,
        due: float = math.nan,
    ) -> Result:
        """Record a response, whose outcome the judge decides, or an outcome, or an error."""
        now, status, server_timing = time.perf_counter(), NO_RESPONSE, ""
        if isinstance(what, Response):
            status, server_timing = what.status, what.headers.get("server-timing", "")
            outcome = self.judge(request, what)
        else:
            outcome = what if isinstance(what, Outcome) else Outcome.LOST
        if outcome in FAILURES and len(self.complaints) < MAX_COMPLAINTS:
            self.complaints.append(f"{outcome}: {caller}: {request.name}: {what!r:.500}")
        result = Result(status, now - due, now - self.started, caller, outcome, server_timing)
        self.results.append(result)
        return result


async def run_until(end: Awaitable[object], callers: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run the callers until `end` is done, and cancel them. Raises the exception that ends one.

    A request that this cancels has no result.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(caller) for caller in callers]
        await end
        for task in tasks:
            task.cancel()


def run_closed_loop(
    address: Address,
    requests: Sequence[Request],
    *,
    callers: int,
    count: int | None = None,
    seconds: float = math.inf,
) -> Load:
    """Run a closed loop to its end, with a generator of its own."""
    loop = LoadGenerator(address).run_closed_loop(
        requests, callers=callers, count=count, seconds=seconds
    )
    return asyncio.run(loop)


def run_open_loop(
    address: Address,
    requests: Sequence[Request],
    *,
    rate: float,
    seconds: float,
    seed: int = 0,
    timeout_s: float = TIMEOUT_S,
) -> Load:
    """Run an open loop of random arrivals to its end, with a generator of its own."""
    generator = LoadGenerator(address, timeout_s=timeout_s)
    arrivals = draw_arrivals(rate, seconds, seed)
    return asyncio.run(generator.run_open_loop(arrivals, itertools.cycle(requests)))


def draw_arrivals(rate: float, seconds: float, seed: int | None) -> Iterator[float]:
    """Yield arrivals, in seconds after the start: Poisson by `seed`, or evenly spaced if None."""
    rng = random.Random(seed)
    at_s = 0.0
    while (at_s := at_s + (1 / rate if seed is None else rng.expovariate(rate))) < seconds:
        yield at_s
