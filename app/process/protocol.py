"""One connection (RFC 9112): every complete request is answered, whatever bytes follow it.

Uvicorn's HTTP/1.1 with a stricter parser, refusals as problem details, and support for clients that
close their sending side and wait. Knows nothing of limits or of images.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.errors import RequestError
from app.http.headers import SECURITY_HEADERS
from app.http.problems import create_response, find_reason
from app.http.telemetry import format_date
from app.observability.metrics import Metrics
from app.process.exchange import Exchange, disconnect, fail_body
from app.process.framing import RequestParser
from app.process.resets import CAN_WATCH, ResetWatcher
from app.process.sockets import has_input

LINGER_S = 5
"""The seconds to read the rest of a body whose request is already answered. Closing at once could
discard the answer before a client that is still sending has read it (RFC 9112, 9.6).
"""

LAST_REQUEST_S = 1
"""The seconds of a drain in which the first request of a new connection may still arrive. Its
client may have sent it before it could know of the drain.
"""

ANSWER_BEGINS_AFTER_S = 0.5
"""The seconds after a client's end of input at which the beginning of the answer is sent, to find
out whether the connection still exists.
"""


class Connection(HttpToolsProtocol):
    """One connection. Uvicorn's `cycle` is the last request whose head has arrived.

    `_current` is the request that is being answered.
    """

    def __init__(self, *, metrics: Metrics, resets: ResetWatcher, **rest: Any) -> None:
        super().__init__(**rest)
        self.parser = cast(httptools.HttpRequestParser, RequestParser(self))
        self._metrics = metrics
        self._resets = resets
        self._current: RequestResponseCycle | None = None
        self._exchange: Exchange | None = None
        self._refusal: RequestError | None = None
        """The error in the bytes after the last complete request, answered after that request."""
        self._has_body_to_come = False
        self._discards = False
        self._is_lingering = False
        self._is_ending = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._resets.forget(self._descriptor)
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self._current is not None and not self._current.response_complete:
            disconnect(self._current)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._discards:
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except RequestError as error:
            self._refuse(error)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._has_body_to_come = True
        if self._is_ending:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._has_body_to_come = False
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current, self._exchange = cycle, Exchange(app, cycle, close=self._end)
        super()._start_asgi_task(cycle, self._exchange)

    def on_response_complete(self) -> None:
        if self._is_lingering:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            return
        super().on_response_complete()
        if self.transport.is_closing() or not self._is_idle:
            return
        if self._refusal is not None:
            self._respond(self._refusal)
        elif self._has_body_to_come:
            self._unset_keepalive_if_required()
            self._start_timer(LINGER_S, self._close)

    def shutdown(self) -> None:
        """Close when every request is answered, also one that may have been sent but is unread."""
        self._is_ending = True
        is_new = self.cycle is None
        if self._is_idle and not self._discards and (is_new or has_input(self._descriptor)):
            self._start_timer(LAST_REQUEST_S, self._close)
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def _close(self) -> None:
        self.transport.close()

    @property
    def _descriptor(self) -> int:
        return int(self.transport.get_extra_info("socket").fileno())

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to keep the connection after the client's end of input (RFC 9112, 9.6).

        The client may have closed the connection, or only its sending side. Both look the same
        until something is sent, which resets a closed connection: the beginning of the answer is
        enough for that.
        """
        if not CAN_WATCH or self._is_idle or not self._drop_incomplete_request():
            self._close()
            return False
        if self._refusal is None:
            self.cycle.keep_alive = False
        self._resets.watch(self._descriptor, self.transport.abort)
        self._start_timer(ANSWER_BEGINS_AFTER_S, self._begin_answer)
        return True

    def _drop_incomplete_request(self) -> bool:
        """Drop a request whose body is incomplete; return whether others are being answered."""
        if self._has_body_to_come and not self._discards:
            if not self.pipeline:
                return False
            self.pipeline.popleft()
            assert self._current is not None
            self.cycle = self.pipeline[0][0] if self.pipeline else self._current
            self._has_body_to_come = False
        return True

    def _begin_answer(self) -> None:
        self._timer = None
        if self._current is not None and not self._current.response_started:
            assert self._exchange is not None
            self._exchange.begin()

    @property
    def _is_idle(self) -> bool:
        """Whether every request whose head has arrived is answered."""
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, error: RequestError) -> None:
        """Stop reading, answer the requests that are still open, and close."""
        self._discards = True
        self._stop_timer()
        if self._has_body_to_come and self._is_idle:
            self._linger()  # the request has its answer
        elif self._has_body_to_come:
            fail_body(self.cycle, error)
        elif self._is_idle:
            self._respond(error)
        else:
            self._refusal = error

    def _respond(self, error: RequestError) -> None:
        """Send an answer that does not come from the application, which has seen no request."""
        self._metrics.rejections.labels(find_reason(error)).inc()
        response = create_response(error)
        response.headers["Date"] = format_date(int(time.time()))
        response.headers["Connection"] = "close"
        fields = b"".join(
            b"%b: %b\r\n" % field for field in (*response.raw_headers, *SECURITY_HEADERS)
        )
        self.transport.write(STATUS_LINE[response.status_code] + fields + b"\r\n" + response.body)
        self._linger()

    def _end(self) -> None:
        if self._has_body_to_come:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Close the sending side; the connection is closed when the client has closed its side."""
        self._discards = self._is_lingering = True
        self._unset_keepalive_if_required()
        self._resets.forget(self._descriptor)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_timer(LINGER_S, self.transport.abort)

    def _start_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
