"""Callers of every kind: who wait for their answers, who leave, who are slow, who come last.

Each knows what its answer has to be, and keeps account of what became of its requests. Knows
nothing of the server's process.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from benchmarks.catalogue import Request
from benchmarks.load import Address, Answer, Connection, arrivals, read_answer
from benchmarks.report import Cell

ANSWER_TIMEOUT_S = 120.0
MAX_COMPLAINTS = 20

SLOW = "sends byte by byte"
SLOW_PIECES = 20


class Outcome(StrEnum):
    """What became of a request, in the order of the report's columns."""

    MASK = "mask"
    REFUSED = "refused"
    """With the problem that it got alone, too."""
    OVERLOADED = "503"
    LEFT = "left"
    """Its caller, before the answer."""
    CUT_OFF = "cut off"
    """By the server, before it was sent completely."""
    LOST = "LOST"
    """Sent completely, and not answered."""
    WRONG = "WRONG"
    """Another mask than alone, or a status that it could not get."""


FAILURES = (Outcome.LOST, Outcome.WRONG)


class Leaving(StrEnum):
    """When a caller leaves."""

    CONNECTED = "leaves when connected"
    HEAD = "leaves in the head"
    READ = "leaves before the body"
    BODY = "leaves in the body"
    SENT = "leaves when all is sent"
    COMPUTED = "leaves a moment later"
    ANSWERED = "leaves in the answer"


@dataclass(slots=True)
class Account:
    """What became of all requests: how many by kind of caller and outcome, and what went wrong."""

    counts: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def note(self, kind: str, outcome: Outcome, about: str = "") -> None:
        self.counts[kind, outcome] += 1
        if outcome in FAILURES and len(self.complaints) < MAX_COMPLAINTS:
            self.complaints.append(f"{outcome}: {kind}: {about}")

    @property
    def ended(self) -> int:
        return self.counts.total()

    def of(self, *outcomes: Outcome) -> int:
        return sum(count for (_, outcome), count in self.counts.items() if outcome in outcomes)

    def rows(self) -> list[dict[str, Cell]]:
        kinds = dict.fromkeys(kind for kind, _ in self.counts)
        rows = [self._row(kind, [kind]) for kind in sorted(kinds)]
        return [*rows, self._row("all", list(kinds))]

    def _row(self, name: str, kinds: Sequence[str]) -> dict[str, Cell]:
        by_outcome: dict[str, Cell] = {
            outcome: sum(self.counts[kind, outcome] for kind in kinds) for outcome in Outcome
        }
        total = sum(self.counts[kind, outcome] for kind in kinds for outcome in Outcome)
        return {"caller": name, "requests": total, **by_outcome}


@dataclass(frozen=True, slots=True)
class Judge:
    """`alone`: what each request got with nobody beside it, by the weights' digest."""

    alone: Mapping[Request, Mapping[str, Answer]]
    slow_statuses: frozenset[int] = frozenset({HTTPStatus.REQUEST_TIMEOUT})

    def outcome(self, request: Request, answer: Answer, *, slow: bool = False) -> Outcome:
        """A mask has to be that of the weights that the answer names, byte for byte."""
        alone = self.alone[request]
        if answer.status == HTTPStatus.OK:
            expected = alone.get(answer.headers.get("x-weights-digest", ""))
            same = expected is not None and expected.body == answer.body
            return Outcome.MASK if same else Outcome.WRONG
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return Outcome.OVERLOADED
        allowed = {one.status for one in alone.values()} | (self.slow_statuses if slow else set())
        return Outcome.REFUSED if answer.status in allowed else Outcome.WRONG


@dataclass(slots=True)
class Callers:
    """Everybody who asks one server; each method is one caller, until it is cancelled or done."""

    address: Address
    judge: Judge
    rng: random.Random
    account: Account = field(default_factory=Account)

    async def wait(
        self, kind: str, requests: Sequence[Request], *, keep: bool, pause_s: float
    ) -> None:
        """One request after the other; on one connection, or on one each."""
        connection = Connection(self.address)
        try:
            for request in self._shuffled(requests):
                await self.ask(kind, request, connection)
                if not keep:
                    connection.close()
                await asyncio.sleep(self.rng.uniform(0, 2 * pause_s))
        finally:
            connection.close()

    async def ask(self, kind: str, request: Request, connection: Connection) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await connection.ask(request.data)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            self.account.note(kind, Outcome.LOST, f"{request.name}: {error!r}")
        else:
            self._judged(kind, request, answer)

    async def arrive(
        self, kind: str, requests: Sequence[Request], *, rate: float, seconds: float
    ) -> None:
        """Many, at `rate` a second, whatever became of those before; until all are answered."""
        idle: list[Connection] = []

        async def arrive_one(request: Request) -> None:
            connection = idle.pop() if idle else Connection(self.address)
            await self.ask(kind, request, connection)
            idle.append(connection)

        started = time.perf_counter()
        due = arrivals(rate, seconds, self.rng.randrange(2**32))
        try:
            async with asyncio.TaskGroup() as group:
                for request, after_s in zip(self._shuffled(requests), due, strict=False):
                    await asyncio.sleep(started + after_s - time.perf_counter())
                    group.create_task(arrive_one(request))
        finally:
            for connection in idle:
                connection.close()

    async def leave(self, requests: Sequence[Request], *, pause_s: float) -> None:
        """At every stage in turns, politely (FIN) or not (RST)."""
        stages = itertools.cycle(Leaving)
        for request, leaving in zip(self._shuffled(requests), stages, strict=False):
            try:
                await self._leave(request, leaving)
                self.account.note(leaving, Outcome.LEFT)
            except (OSError, EOFError) as error:
                whole = leaving is Leaving.ANSWERED
                outcome = Outcome.LOST if whole else Outcome.CUT_OFF
                self.account.note(leaving, outcome, f"{request.name}: {error!r}")
            await asyncio.sleep(self.rng.uniform(0, 2 * pause_s))

    async def _leave(self, request: Request, leaving: Leaving) -> None:
        head_bytes = len(request.head)
        sent_bytes = {
            Leaving.CONNECTED: 0,
            Leaving.HEAD: head_bytes // 2,
            Leaving.READ: head_bytes,
            Leaving.BODY: (head_bytes + len(request.data)) // 2,
        }.get(leaving, len(request.data))
        async with self._connected() as (reader, writer), asyncio.timeout(ANSWER_TIMEOUT_S):
            writer.write(request.data[:sent_bytes])
            await writer.drain()
            if leaving is Leaving.COMPUTED:
                await asyncio.sleep(self.rng.uniform(0, 0.1))
            if leaving is Leaving.ANSWERED:
                await reader.readexactly(1)
            if self.rng.random() < 0.5:
                writer.transport.abort()

    async def crawl(self, requests: Sequence[Request], *, seconds: float) -> None:
        """Sends the first bytes of each head and each body one by one; that takes `seconds`."""
        for request in self._shuffled(requests):
            try:
                await self._crawl(request, seconds / SLOW_PIECES)
            except (OSError, EOFError) as error:
                self.account.note(SLOW, Outcome.LOST, f"{request.name}: {error!r}")

    async def _crawl(self, request: Request, pause_s: float) -> None:
        """Raises OSError or EOFError where the request was sent completely and not answered."""
        async with (
            self._connected() as (reader, writer),
            asyncio.timeout(ANSWER_TIMEOUT_S),
            _meanwhile(read_answer(reader)) as answering,
        ):
            pieces = _pieces(request)
            for piece in pieces:
                writer.write(piece)
                await asyncio.wait((answering,), timeout=pause_s)
                if answering.done():  # or broken off, before all was sent
                    break
            was_sent = next(pieces, None) is None
            if not was_sent and answering.exception() is not None:
                self.account.note(SLOW, Outcome.CUT_OFF)
            else:
                self._judged(SLOW, request, await answering, slow=True)

    async def ask_until_the_end(self, kind: str, requests: Sequence[Request]) -> None:
        """One after the other, until the server takes none.

        The body follows when the server has asked for it: from then on it owes an answer.
        """
        for request in self._shuffled(requests):
            was_taken = False
            try:
                async with self._connected() as (reader, writer), asyncio.timeout(ANSWER_TIMEOUT_S):
                    writer.write(request.head[:-2] + b"Expect: 100-continue\r\n\r\n")
                    answer = await read_answer(reader)
                    if answer.status == HTTPStatus.CONTINUE:
                        was_taken = True
                        writer.write(request.body)
                        answer = await read_answer(reader)
                    self._judged(kind, request, answer)
            except (OSError, EOFError) as error:
                if not was_taken:
                    return
                self.account.note(kind, Outcome.LOST, f"{request.name}: {error!r}")

    @asynccontextmanager
    async def _connected(
        self,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    def _judged(self, kind: str, request: Request, answer: Answer, *, slow: bool = False) -> None:
        outcome = self.judge.outcome(request, answer, slow=slow)
        about = f"{request.name}: {answer.status} {answer.headers} {answer.body[:200]!r}"
        self.account.note(kind, outcome, about)

    def _shuffled(self, requests: Sequence[Request]) -> Iterator[Request]:
        """All of them in an order of its own, again and again."""
        own = list(requests)
        while True:
            self.rng.shuffle(own)
            yield from own


@asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, Answer]) -> AsyncIterator[asyncio.Task[Answer]]:
    """`work` as a task, which ends with the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


def _pieces(request: Request) -> Iterator[bytes]:
    single = SLOW_PIECES // 2
    for part in (request.head, request.body):
        yield from (part[i : i + 1] for i in range(single))
        yield part[single:]
