"""The response that sends an answer, no faster than its client reads it.

The unsent rest stays in one place, so that its bytes are counted until the socket has taken them.
"""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from app.codecs.answers import PIECE_BYTES, Answer
from app.http.uploads import run_while_connected
from app.tasks.segmentation import Task


class AnswerResponse(Response):
    """A response that ends when the socket has taken all bytes, or the client has disconnected.

    This requires that the transport pauses its writer while it holds any bytes; see
    `app.process.connections`.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        media_type: str,
        headers: Mapping[str, str],
        next_piece: Callable[[Answer], Awaitable[bytes | None]],
    ) -> None:
        """`next_piece` returns the next piece of an answer in pieces, None after the last."""
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.body = b""
        encoding = {"Content-Encoding": answer.encoding} if answer.encoding else {}
        self.init_headers({**headers, **encoding, "Content-Length": str(answer.size_bytes)})
        self._answer = answer
        self._next_piece = next_piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": self.raw_headers},
        )
        if self._answer.whole is None:
            await run_while_connected(Request(scope, receive), self._send_pieces(send))
        else:
            data = self._answer.whole
            for first in range(0, len(data), PIECE_BYTES):
                await _send(data[first : first + PIECE_BYTES], send)
        # This call returns when the socket has taken the last piece.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_pieces(self, send: Send) -> None:
        while (piece := await self._next_piece(self._answer)) is not None:
            await _send(piece, send)


def respond(
    task: Task, answer: Answer, *, media_type: str, headers: Mapping[str, str]
) -> AnswerResponse:
    """Return the response with a task's answer; adds the headers that all answers have."""
    return AnswerResponse(
        answer,
        media_type=media_type,
        headers={
            "Server-Timing": task.context.stages.format_server_timing(),
            "X-Weights-Digest": task.context.predictor.metadata.digest,
            **headers,
        },
        next_piece=task.next_piece,
    )


async def _send(piece: bytes, send: Send) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})
