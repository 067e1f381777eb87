"""Rate limits: how often a caller, known by key or else by address, may call.

Plain ASGI, before the body is read. Knows nothing of where requests are counted, nor of the queue,
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
        uses = await self.counts.take(identify_caller(scope))
        fields = build_fields(uses)

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        if exhausted := [use for use in uses if use.is_exhausted]:
            await answer_error(_make_too_many(exhausted), scope)(scope, receive, send_with_fields)
        else:
            await self.app(scope, receive, send_with_fields)


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
    """Return the key's name or the address; for IPv6 the network of 64 bits, as one home has it."""
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
        remedy=f"Come back in {seconds} s, and keep to what the RateLimit header leaves.",
        retry_after_s=seconds,
    )
