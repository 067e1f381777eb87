"""The syntax of settings that are texts: rates, origins, the address of a storage.

Knows nothing of the settings' names.
"""

import re

from limits import RateLimitItem, parse_many

ORIGIN = re.compile(r"\*|https?://[^\s/,;*]+")
STORAGE = re.compile(
    r"rediss?://(?:[^\s/@]*@)?(?:[^\s/@?#:\[\]]+|\[[\da-fA-F:.]+\])(?::\d+)?(?:/\d*)?(?:\?\S+)?"
)


def parse_rates(text: str) -> list[RateLimitItem]:
    """Parse rates such as `10/second` or `600/minute;20/second`. Raises ValueError."""
    try:
        rates = parse_many(text)
    except ValueError:
        rates = []
    if not rates or any(rate.amount == 0 for rate in rates):
        raise ValueError("expected something like 10/second or 600/minute;20/second")
    return rates


def parse_origins(text: str) -> list[str]:
    """Parse origins such as `https://a.example,https://b.example`, or `*`. Raises ValueError."""
    origins = [part.strip() for part in text.split(",")]
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin: expected something like https://app.example, or *"
            )
    return origins
