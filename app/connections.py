"""What one connection may do, and for how long: uvicorn's HTTP/1.1 with limits.

Bounds the number of connections, the bytes of a request's head, and the time for a head, for the
rest of a body that nobody reads any more, between requests, and for taking an answer. Knows nothing
of images; the time and the bytes of a body that is read are bounded in `limits` and `uploads`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.errors import BadRequest, HeadTooLarge, Problem, RequestTimeout, TooManyConnections
from app.headers import SECURITY_HEADERS
from app.metrics import Metrics
from app.telemetry import http_date

MAX_HEAD_BYTES = 64 * 2**10
"""Of the request line and all header fields; browsers and proxies send a few KiB."""

LINGER_S = 5
"""For the rest of a body whose request is answered: closing at once would take the answer from a
caller who is still sending (RFC 9112, 9.6).
"""

MIN_SENT_BYTES = 64 * 2**10

MAX_PIPELINED = 16
"""Requests that wait behind one that is being answered; 20 bytes of a caller make 5 KB of ours."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`max_connections`: 0 is no limit. `send_timeout_s`: for each MIN_SENT_BYTES of an answer."""

    max_connections: int = 0
    head_timeout_s: float = 10
    send_timeout_s: float = 10


class LimitedConnection(HttpToolsProtocol):
    """Besides uvicorn's timer for idle connections, one for what is read and one for the answer."""

    def __init__(self, *, limits: ConnectionLimits, metrics: Metrics, **rest: Any) -> None:
        super().__init__(**rest)
        self._limits = limits
        self._metrics = metrics
        self._is_refused = False
        self._awaits_head = True
        self._has_body_to_come = False
        self._bytes_without_news = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Writers go on when the socket has all: an answer's bytes are counted until then.
        transport.set_write_buffer_limits(high=0)
        self._metrics.connections.inc()
        if 0 < self._limits.max_connections < len(self.connections):
            self._metrics.connections_refused.inc()
            if len(self.connections) > 2 * self._limits.max_connections:
                self.transport.abort()  # not even time for an answer
                return
            self._refuse(
                TooManyConnections(
                    f"All {self._limits.max_connections} connections are taken.",
                    remedy="Try again in 1 s.",
                    headers={"Retry-After": "1"},
                )
            )
        else:
            self._start_timer(self._limits.head_timeout_s, self._on_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._metrics.connections.dec()
        self._stop_timer()
        self._stop_watching_sending()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._awaits_head and self._timer is None:  # the first byte after an answer
            self._start_timer(self._limits.head_timeout_s, self._on_slow_head)
        self._bytes_without_news += len(data)
        super().data_received(data)
        if self._bytes_without_news > MAX_HEAD_BYTES and not self._is_refused:
            self._refuse(_head_too_large())

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._awaits_head, self._has_body_to_come = False, True
        self._bytes_without_news = 0
        head_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if head_bytes > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
            raise httptools.HttpParserError("refused")  # parses no further
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(
                BadRequest(
                    f"More than {MAX_PIPELINED} requests wait on this connection.",
                    remedy="Await answers, or open more connections.",
                )
            )
            raise httptools.HttpParserError("refused")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bytes_without_news = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._awaits_head, self._has_body_to_come = True, False
        self._bytes_without_news = 0
        super().on_message_complete()
        if self.cycle.response_complete:  # and idle only now
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_sending()
        elif self._has_body_to_come:
            self._unset_keepalive_if_required()
            self._start_timer(LINGER_S, self._close)

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._watch_sending()

    def _close(self) -> None:
        self.transport.close()
        self._watch_sending()

    def send_400_response(self, msg: str) -> None:
        if not self._is_refused:
            self._refuse(BadRequest(msg, remedy="Send a request that follows RFC 9112."))

    def _refuse(self, problem: Problem) -> None:
        """Answer past the application, where no answer is under way, and close."""
        self._is_refused = True
        self._metrics.rejections.labels(problem.reason).inc()
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
            return
        response = problem.response()
        response.headers["Date"] = http_date(int(time.time()))
        response.headers["Connection"] = "close"
        fields = b"".join(
            b"%b: %b\r\n" % field for field in (*response.raw_headers, *SECURITY_HEADERS)
        )
        self.transport.write(STATUS_LINE[problem.status] + fields + b"\r\n" + response.body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_timer(LINGER_S, self.transport.abort)

    def _on_slow_head(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # The head of a next request, whose caller waits for the answer to the last one.
            self._start_timer(self._limits.head_timeout_s, self._on_slow_head)
        elif self.cycle is None and not self._bytes_without_news:
            self.transport.close()  # opened and never used, as browsers do: nothing to answer
        else:
            limit_s = self._limits.head_timeout_s
            self._refuse(
                RequestTimeout(
                    f"The request's head did not come within {limit_s:g} s.",
                    remedy="Send it at once.",
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
        """An answer whose caller does not take it would be held for ever, also while closing."""
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

    def _start_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The request's head has more than {MAX_HEAD_BYTES} bytes.",
        remedy="Send fewer or shorter header fields.",
    )
