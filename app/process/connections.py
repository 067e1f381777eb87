"""The limits of one connection.

Limits the number of connections, the bytes of a request's head, and the time for a head, for the
rest of an unread body, between requests, and for the client to read an answer. Knows nothing of
images; `app.http` limits the time and the bytes of a body that is read.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from app.errors import BadRequest, HeadTooLarge, RequestTimeout, TooManyConnections
from app.process.protocol import Connection

MAX_HEAD_BYTES = 64 * 2**10
"""The limit of the request line and all header fields; browsers and proxies send a few KiB."""

MIN_SENT_BYTES = 64 * 2**10

MAX_PIPELINED = 16
"""The limit of requests that wait behind another; each takes 5 KB of memory for 20 bytes sent."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The settings of the limits. With `max_connections=0`, the number is not limited.

    `send_timeout_s` is the time in which the client must read MIN_SENT_BYTES of an answer.
    """

    max_connections: int = 0
    head_timeout_s: float = 10
    send_timeout_s: float = 10


class LimitedConnection(Connection):
    """A connection with timers for reading and for the answer, besides uvicorn's idle timer."""

    def __init__(self, *, limits: ConnectionLimits, **rest: Any) -> None:
        super().__init__(**rest)
        self._limits = limits
        self._awaits_head = True
        self._unparsed_bytes = 0
        self._sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Writers resume when the socket has taken all bytes, so an answer is counted until then.
        transport.set_write_buffer_limits(high=0)
        self._metrics.connections.inc()
        if 0 < self._limits.max_connections < len(self.connections):
            self._metrics.connections_refused.inc()
            if len(self.connections) > 2 * self._limits.max_connections:
                self.transport.abort()  # without an answer
                return
            self._refuse(
                TooManyConnections(
                    f"All {self._limits.max_connections} connections are taken.",
                    remedy="Try again in 1 s.",
                    retry_after_s=1,
                )
            )
        else:
            self._start_timer(self._limits.head_timeout_s, self._on_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._metrics.connections.dec()
        self._stop_watching_sending()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._discards:
            return
        if self._awaits_head and self._timer is None:  # the first byte after an answer
            self._start_timer(self._limits.head_timeout_s, self._on_slow_head)
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEAD_BYTES and not self._discards:
            self._refuse(_make_head_too_large())

    def on_headers_complete(self) -> None:
        head_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if head_bytes > MAX_HEAD_BYTES:
            raise _make_head_too_large()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise BadRequest(
                f"More than {MAX_PIPELINED} requests wait on this connection.",
                remedy="Await answers, or open more connections.",
            )
        super().on_headers_complete()
        self._stop_timer()
        self._awaits_head = False
        self._unparsed_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._awaits_head = True
        self._unparsed_bytes = 0
        super().on_message_complete()
        if self.cycle.response_complete:  # the connection is idle only now
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_sending()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._watch_sending()

    def _close(self) -> None:
        super()._close()
        self._watch_sending()

    def _on_slow_head(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # The client waits for the previous answer before it completes the next head.
            self._start_timer(self._limits.head_timeout_s, self._on_slow_head)
        elif self.cycle is None and not self._unparsed_bytes:
            self.transport.close()  # an unused connection, as browsers open them: nothing to answer
        else:
            limit_s = self._limits.head_timeout_s
            self._refuse(
                RequestTimeout(
                    f"The request's head did not arrive within {limit_s:g} s.",
                    remedy="Send the whole head at once.",
                )
            )

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching_sending()
        if self.transport.is_closing():
            self._watch_sending()

    def _watch_sending(self) -> None:
        """Abort the connection if the client stops reading, or the answer would be held forever."""
        self._stop_watching_sending()
        if unsent_bytes := self.transport.get_write_buffer_size():
            self._sending = self.loop.call_later(
                self._limits.send_timeout_s, self._on_sending, unsent_bytes - MIN_SENT_BYTES
            )

    def _on_sending(self, most_bytes: int) -> None:
        if self.transport.get_write_buffer_size() > most_bytes:
            self.transport.abort()
        else:
            self._watch_sending()

    def _stop_watching_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None


def _make_head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The request's head has more than {MAX_HEAD_BYTES} bytes.",
        remedy="Send fewer or shorter header fields.",
    )
