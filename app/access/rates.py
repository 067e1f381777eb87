"""Rate limits: how many requests a caller, identified by key or else by address, may send.

Plain ASGI, before the body is read. Knows nothing of where requests are counted, or of the queue,
which has its own admission.
"""

from collections.abc import Sequence
from ipaddress import IPv6Address

from limits import RateLimitItem
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.counts import Counts, Use
from app.errors import TooManyRequests
from app.http.paths import is_public
from app.http.problems import answer_error


class RateLimit:
    """Middleware: answers 429 to a caller above a rate, and adds RateLimit headers."""

    def __init__(self, app: ASGIApp, *, counts: Counts) -> None:
        self.app = app
        self.counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_public(scope["path"]):
            await self.app(scope, receive, send)
            return
        charges = Charges(self.counts, identify_caller(scope))

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *build_fields(charges.uses)]
            await send(message)

        try:
            await charges.take()
        except TooManyRequests as error:
            await answer_error(error, scope)(scope, receive, send_with_fields)
            return
        scope["charges"] = charges
        await self.app(scope, receive, send_with_fields)


class Charges:
    """Charges a request to its caller's rates, and each further file in it as another request."""

    def __init__(self, counts: Counts, caller: str) -> None:
        self.uses: Sequence[Use] = ()
        self._counts = counts
        self._caller = caller

    async def take(self) -> None:
        """Use one request of each rate. Raises TooManyRequests if one of them is exhausted."""
        self.uses = await self._counts.take(self._caller)
        if exhausted := [use for use in self.uses if use.is_exhausted]:
            raise _make_too_many(exhausted)


def build_fields(uses: Sequence[Use]) -> list[tuple[bytes, bytes]]:
    """Return RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10)."""
    policy = ", ".join(
        f"{_format_name(use.rate)};q={use.rate.amount};w={use.rate.get_expiry()}" for use in uses
    )
    left = ", ".join(f"{_format_name(use.rate)};r={use.left};t={use.ends_in_s}" for use in uses)
    return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]


def _format_name(rate: RateLimitItem) -> str:
    return f'"{rate.amount}-per-{rate.get_expiry()}s"'


def identify_caller(scope: Scope) -> str:
    """Return the key's name or the address; for IPv6 the 64-bit network, which one home has."""
    if "caller" in scope:
        return str(scope["caller"].name)
    host = scope["client"][0] if scope.get("client") else "unknown"
    return find_network(host) if ":" in host else host[:64]


def find_network(host: str) -> str:
    """Return the 64-bit network of an IPv6 address, or the IPv4 address that is mapped to it."""
    try:
        address = IPv6Address(host)
    except ValueError:  # a proxy may forward anything
        return "unknown"
    return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))


def _make_too_many(exhausted: Sequence[Use]) -> TooManyRequests:
    seconds = max(use.ends_in_s for use in exhausted)
    rates = " and ".join(
        f"{use.rate.amount} requests in {use.rate.get_expiry()} s" for use in exhausted
    )
    return TooManyRequests(
        f"The limit for one caller is {rates}.",
        remedy=f"Try again in {seconds} s. The RateLimit header says how many requests are left.",
        retry_after_s=seconds,
    )
