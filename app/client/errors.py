"""The errors of the client's calls: exceptions whose text is one line with a remedy.

    ClientError
      PhotoError            the photo cannot be read or sent
      ServerUnreachable     there is no connection to the server, or it broke
      AnswerTimeout         the server is connected, but did not answer within `timeout_s`
      InvalidAnswer         the answer does not come from this service
      ProblemError          the server refused: `problem` says why, `status` is the HTTP status

Each is raised after the last attempt; `__cause__` is httpx's own exception, if there is one.
"""

from app.schemas import ProblemDetails


class ClientError(Exception):
    """The base of all errors of the client."""


class PhotoError(ClientError):
    pass


class ServerUnreachable(ClientError):
    pass


class AnswerTimeout(ClientError):
    pass


class InvalidAnswer(ClientError):
    pass


class ProblemError(ClientError):
    """The server's problem detail (RFC 9457)."""

    def __init__(
        self, problem: ProblemDetails, *, request_id: str = "", retry_after_s: float | None = None
    ) -> None:
        """`request_id` identifies the request in the server's log."""
        detail = problem.detail if problem.detail.endswith(".") else f"{problem.detail}."
        super().__init__(f"{problem.title} ({problem.status}): {detail} {problem.remedy}")
        self.problem = problem
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return self.problem.status

    @property
    def name(self) -> str:
        """The last part of the problem's type, such as `broken-image`; `about:blank` has none."""
        return self.problem.type.rpartition(":")[2]
