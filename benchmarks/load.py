"""A load generator: callers who wait for their answers, or arrivals at a rate.

Knows HTTP/1.1 with keep-alive and Content-Length, and nothing of what is sent. It shares the cores
with the server that it loads, so a request is bytes made beforehand, and an answer is split, not
parsed; what it costs all the same is in every result.
"""

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

NO_ANSWER = 0
"""The status of a request that got none: connection refused or broken, or no answer in time."""

# A refused connection fails in no time; without a pause its caller would do nothing but try.
PAUSE_AFTER_NO_ANSWER_S = 0.05

BOUNDARY = "benchmark-boundary-7d5f2c"


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of one request. `seconds` count from when it was due, not from when it left.

    `ended_s` counts from the start of the run.
    """

    status: int
    seconds: float
    ended_s: float
    body_bytes: int = 0
    server_timing: str = ""

    def stages_ms(self) -> dict[str, float]:
        """The milliseconds of each stage that the server told in its Server-Timing header."""
        stages = {}
        for entry in filter(None, self.server_timing.split(",")):
            name, _, milliseconds = entry.strip().partition(";dur=")
            stages[name] = float(milliseconds)
        return stages


@dataclass(frozen=True, slots=True)
class Load:
    """The samples of one run, in the order in which they ended, and what the run took."""

    samples: Sequence[Sample]
    wall_s: float
    client_cpu_s: float

    @property
    def statuses(self) -> dict[int, int]:
        """Number of requests by status."""
        return dict(Counter(sample.status for sample in self.samples))

    @property
    def throughput(self) -> float:
        """Good answers a second, until the last of them; 0 where there are none."""
        ends = [sample.ended_s for sample in self.samples if sample.status == HTTPStatus.OK]
        return len(ends) / max(ends) if ends else 0.0

    @property
    def client_share(self) -> float:
        """The part of one core that the generator itself used."""
        return self.client_cpu_s / self.wall_s

    def count(self, status: int) -> int:
        return sum(sample.status == status for sample in self.samples)

    def share(self, status: int) -> float:
        return self.count(status) / len(self.samples)

    def latency_ms(self, quantile: float, *, status: int = HTTPStatus.OK) -> float:
        """Nearest rank among the answers with that status; NaN where there are none."""
        return percentile(
            [1000 * sample.seconds for sample in self.samples if sample.status == status], quantile
        )


def percentile(values: Sequence[float], quantile: float) -> float:
    """The smallest value that at least that part of all values does not exceed; NaN for none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(quantile * len(values)) - 1)]


def get_request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode()


def upload_request(path: str, data: bytes, *, media_type: str = "image/jpeg") -> bytes:
    """A POST of one file in the field `file` of a form, as browsers and curl send it."""
    opening = (
        f"--{BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="file"; filename="file"\r\n'
        f"Content-Type: {media_type}\r\n\r\n"
    ).encode()
    body = opening + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return post_request(path, body, headers=headers)


def post_request(path: str, body: bytes, *, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: benchmark\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """One keep-alive connection: opened at its first request, and again after it was closed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Raises OSError or EOFError where the server cannot be reached or breaks off."""
        try:
            reader, writer = await self._opened()
            # Not drained: an overloaded server may answer before it has read all of it.
            writer.write(request)
            answer = await read_answer(reader)
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and _ended(self._streams[0]):
            self.close()  # the server closes connections that were idle for some seconds
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._address.host, self._address.port)
        return self._streams


def _ended(reader: asyncio.StreamReader) -> bool:
    return reader.at_eof() or reader.exception() is not None


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Raises OSError or EOFError where the server breaks off. `100 Continue` is an answer, too."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.rstrip().split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(status_line.split(" ", 2)[1]), headers, body)


async def ask_once(address: Address, request: bytes) -> Answer:
    """On a connection of its own."""
    connection = Connection(address)
    try:
        return await connection.ask(request)
    finally:
        connection.close()


async def closed_loop(
    address: Address,
    requests: Sequence[bytes],
    *,
    callers: int,
    count: int | None = None,
    seconds: float = math.inf,
    timeout_s: float = 120,
) -> Load:
    """Each caller sends its next request when its last one is answered.

    The requests are taken in turns until `count` were sent or `seconds` are over; those sent by
    then are awaited and counted, and so is the time until the last answer.
    """
    assert count is not None or seconds < math.inf, "a closed loop has to end"
    run = _Run(address, timeout_s)
    turns = _turns(requests, count, seconds)

    async def call() -> None:
        connection = Connection(address)
        try:
            for request in turns:
                sample = await run.sample(connection, request, due=time.perf_counter())
                if sample.status == NO_ANSWER:
                    await asyncio.sleep(PAUSE_AFTER_NO_ANSWER_S)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call())
    return run.ended()


def _turns(requests: Sequence[bytes], count: int | None, seconds: float) -> Iterator[bytes]:
    """One iterator for all callers."""
    until = time.perf_counter() + seconds
    for number, request in enumerate(itertools.cycle(requests)):
        if number == count or time.perf_counter() >= until:
            return
        yield request


async def open_loop(
    address: Address,
    requests: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    seed: int | None = 0,
    timeout_s: float = 120,
) -> Load:
    """Requests arrive at `rate` a second, whatever became of those before.

    A Poisson process by `seed`, evenly spaced for None. Idle connections are used again, new ones
    opened where there are none. A late start counts as waiting, so a stalled server hides nothing.
    """
    run = _Run(address, timeout_s)
    idle: list[Connection] = []

    async def arrive(request: bytes, due: float) -> None:
        connection = idle.pop() if idle else Connection(address)
        await run.sample(connection, request, due=due)
        idle.append(connection)

    async with asyncio.TaskGroup() as group:
        started = time.perf_counter()
        for request, after_s in zip(
            itertools.cycle(requests), arrivals(rate, seconds, seed), strict=False
        ):
            await asyncio.sleep(started + after_s - time.perf_counter())
            group.create_task(arrive(request, started + after_s))
    for connection in idle:
        connection.close()
    return run.ended()


def arrivals(rate: float, seconds: float, seed: int | None) -> Iterator[float]:
    """Seconds of each arrival after the start: Poisson by `seed`, evenly spaced for None."""
    rng = random.Random(seed)
    at = 0.0
    while True:
        at += 1 / rate if seed is None else rng.expovariate(rate)
        if at >= seconds:
            return
        yield at


@dataclass(slots=True)
class _Run:
    """The samples so far. Every request that is begun becomes one."""

    address: Address
    timeout_s: float
    samples: list[Sample] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    cpu_started: float = field(default_factory=time.process_time)

    async def sample(self, connection: Connection, request: bytes, *, due: float) -> Sample:
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await connection.ask(request)
        except (OSError, EOFError):  # TimeoutError is an OSError
            answer = Answer(NO_ANSWER, {}, b"")
        now = time.perf_counter()
        sample = Sample(
            answer.status,
            now - due,
            now - self.started,
            len(answer.body),
            answer.headers.get("server-timing", ""),
        )
        self.samples.append(sample)
        return sample

    def ended(self) -> Load:
        return Load(
            self.samples,
            wall_s=time.perf_counter() - self.started,
            client_cpu_s=time.process_time() - self.cpu_started,
        )
