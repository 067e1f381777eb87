"""Callers that disconnect, that send slowly, or that send requests while the server shuts down.

Each function is one caller. It runs until it is cancelled or has finished.
"""

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from http import HTTPStatus

from benchmarks.connection import Request, open_streams, read_response
from benchmarks.load import LoadGenerator
from benchmarks.results import Outcome

LAST = "asks until the end"
SLOW = "sends byte by byte"
SINGLE_BYTES = 10
"""The number of bytes that a slow caller sends one by one of each head and of each body."""


class Leaving(StrEnum):
    """When a caller disconnects."""

    CONNECTED = "leaves when connected"
    HEAD = "leaves in the head"
    READ = "leaves before the body"
    BODY = "leaves in the body"
    SENT = "leaves when all is sent"
    COMPUTED = "leaves a moment later"
    ANSWERED = "leaves in the answer"


def shuffle_forever(load: LoadGenerator, requests: Sequence[Request]) -> Iterator[Request]:
    """Yield all requests in random order, again and again."""
    while True:
        yield from load.rng.sample(requests, len(requests))


async def keep_leaving(
    load: LoadGenerator,
    requests: Sequence[Request],
    *,
    moments: Iterable[Leaving] = Leaving,
    caller: str = "",
    pause_s: float = 0,
) -> None:
    """Disconnect at each of the moments in turn. Without a name, the caller has the moment's."""
    pairs = zip(shuffle_forever(load, requests), itertools.cycle(moments), strict=False)
    for request, leaving in pairs:
        outcome: Outcome | Exception = Outcome.LEFT
        try:
            await leave(load, request, leaving)
        except (OSError, EOFError) as error:
            outcome = error if leaving is Leaving.ANSWERED else Outcome.CUT_OFF
        load.record(caller or leaving, request, outcome)
        await asyncio.sleep(load.rng.uniform(0, 2 * pause_s))


async def leave(load: LoadGenerator, request: Request, leaving: Leaving) -> None:
    """Close the connection at that moment, by FIN or RST at random."""
    data = request.head + request.body
    sent_bytes = {
        Leaving.CONNECTED: 0,
        Leaving.HEAD: len(request.head) // 2,
        Leaving.READ: len(request.head),
        Leaving.BODY: len(request.head) + len(request.body) // 2,
    }.get(leaving, len(data))
    async with open_streams(load.address) as (reader, writer), asyncio.timeout(load.timeout_s):
        writer.write(data[:sent_bytes])
        await writer.drain()
        if leaving is Leaving.COMPUTED:
            await asyncio.sleep(load.rng.uniform(0, 0.1))
        if leaving is Leaving.ANSWERED:
            await reader.readexactly(1)
        if load.rng.random() < 0.5:
            writer.transport.abort()


async def keep_sending_slowly(
    load: LoadGenerator, requests: Sequence[Request], *, seconds: float
) -> None:
    """Send one request after the other, each over `seconds`."""
    for request in shuffle_forever(load, requests):
        try:
            await send_slowly(load, request, seconds / (2 * SINGLE_BYTES))
        except (OSError, EOFError) as error:
            load.record(SLOW, request, error)


async def send_slowly(load: LoadGenerator, request: Request, pause_s: float) -> None:
    """Raises OSError or EOFError if the request was sent completely and got no response."""
    pieces = [
        piece
        for part in (request.head, request.body)
        for piece in (*(part[i : i + 1] for i in range(SINGLE_BYTES)), part[SINGLE_BYTES:])
    ]
    async with open_streams(load.address) as (reader, writer), asyncio.timeout(load.timeout_s):
        receiving = asyncio.create_task(read_response(reader))
        try:
            while pieces and not receiving.done():  # the server may answer before all is sent
                writer.write(pieces.pop(0))
                await asyncio.wait((receiving,), timeout=pause_s)
            await asyncio.wait((receiving,))
            if pieces and receiving.exception() is not None:
                load.record(SLOW, request, Outcome.CUT_OFF)
            else:
                response = receiving.result()
                was_slow = response.status == HTTPStatus.REQUEST_TIMEOUT
                load.record(SLOW, request, Outcome.REFUSED if was_slow else response)
        finally:
            receiving.cancel()


async def ask_until_refused(load: LoadGenerator, requests: Sequence[Request]) -> None:
    """Send one request after the other until the server accepts no more.

    The body follows after `100 Continue`. From then on the server owes a response.
    """
    for request in shuffle_forever(load, requests):
        was_accepted = False
        try:
            async with (
                open_streams(load.address) as (reader, writer),
                asyncio.timeout(load.timeout_s),
            ):
                writer.write(request.head[:-2] + b"Expect: 100-continue\r\n\r\n")
                response = await read_response(reader)
                if response.status == HTTPStatus.CONTINUE:
                    was_accepted = True
                    writer.write(request.body)
                    response = await read_response(reader)
                load.record(LAST, request, response)
        except (OSError, EOFError) as error:
            if not was_accepted:
                return
            load.record(LAST, request, error)
