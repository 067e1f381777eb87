"""The errors with which a request can end: plain exceptions.

    RequestError
      BadRequest            the bytes are not an HTTP/1.1 request
      PreflightRefused      a web page's origin, method or header is not allowed
      ImageMissing          the request has no image
      Unauthorized          the request has no API key
        UnknownKey          the request has an API key that the server does not know
      Forbidden             the caller's key lacks the role
      NotAcceptable         the caller accepts no answer format that the server has
      RequestTimeout        a head or a body did not arrive in time
      BodyTooLarge          the body has more bytes than the limit, declared or counted
      TooManyPixels         the image has more pixels than the limit
      UnsupportedType       the body is not an image of a supported format
      BrokenImage           the image cannot be decoded
      TooCostly             the image takes too long, or too much memory, to decode
      InvalidParameter      a query parameter or header is out of its bounds
      InvalidTensor         a request of the Open Inference Protocol cannot be read
      HeadTooLarge          the header fields have more bytes than the limit
      TooManyRequests       the caller sends more requests than its rate limit
      ReloadFailed          the new weights do not work
      Unimplemented         the request needs a part of HTTP that the server does not implement
      NotReady              the server is starting or shutting down
      TooManyConnections    the server has as many connections as its limit
      Overloaded            the queue is full, or the deadline cannot be met
      InferenceFailed       the engine failed on this image

Knows nothing of HTTP: `app.http.problems` maps each error to its response. Imports no library, so
that decoder processes start fast.
"""


class RequestError(Exception):
    """The base of all errors: `detail` names the value and the limit, `remedy` says what to do."""

    def __init__(
        self,
        detail: str,
        *,
        remedy: str,
        reason: str = "",
        retry_after_s: int | None = None,
    ) -> None:
        """`reason` replaces the problem's name in metrics and logs, where it says more.

        `retry_after_s` is the number of seconds after which the same request may succeed.
        """
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.reason = reason
        self.retry_after_s = retry_after_s


class BadRequest(RequestError):
    pass


class PreflightRefused(RequestError):
    pass


class ImageMissing(RequestError):
    pass


class Unauthorized(RequestError):
    pass


class UnknownKey(Unauthorized):
    pass


class Forbidden(RequestError):
    pass


class NotAcceptable(RequestError):
    pass


class RequestTimeout(RequestError):
    pass


class BodyTooLarge(RequestError):
    pass


class TooManyPixels(RequestError):
    pass


class UnsupportedType(RequestError):
    pass


class BrokenImage(RequestError):
    pass


class TooCostly(RequestError):
    pass


class InvalidParameter(RequestError):
    pass


class InvalidTensor(RequestError):
    pass


class HeadTooLarge(RequestError):
    pass


class TooManyRequests(RequestError):
    pass


class ReloadFailed(RequestError):
    pass


class Unimplemented(RequestError):
    pass


class NotReady(RequestError):
    pass


class TooManyConnections(RequestError):
    pass


class Overloaded(RequestError):
    pass


class InferenceFailed(RequestError):
    pass
