"""What an operator sets: environment variables that begin with SEG_, each bounded.

Read once, when the program starts; knows nothing of what they are used for.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from limits import RateLimitItem, parse_many
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.engines.base import EngineName, Precision
from model.weights import SHIPPED_WEIGHTS

PREFIX = "SEG_"

ORIGIN = re.compile(r"\*|https?://[^\s/,;*]+")


class Settings(BaseSettings):
    """Frozen; raises pydantic's ValidationError for a value out of bounds.

    An empty variable is as good as none: that is how files of variables leave one out.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    operations_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for /health and /metrics alone, on the same address; without it they are "
        "on the port of everything.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that serve; more than one are watched over, and replaced when they "
        "end. Each has an engine of its own.",
    )
    weights: Path = Field(SHIPPED_WEIGHTS, description="Weights file; default: the shipped one.")
    engine: EngineName = Field(
        "auto",
        description="auto (torch on a GPU; native on the CPU, or else ncnn), native, ncnn, torch.",
    )
    device: str = Field("auto", description="auto (a GPU where there is one), cpu, cuda or cuda:N.")
    threads: int = Field(
        0, ge=0, le=1024, description="Threads of one forward pass on the CPU; 0: one per core."
    )
    precision: Precision = Field(
        "float32",
        description="float32 is exact; bfloat16 is several times as fast on processors with AMX.",
    )
    codec_threads: int = Field(
        2, ge=1, le=256, description="Threads that decode uploads and encode masks."
    )
    max_body_bytes: int = Field(
        32 * 2**20, ge=1024, le=2**31, description="Largest request body, in bytes."
    )
    max_pixels: int = Field(
        25_000_000, ge=1, le=10**9, description="Largest image, in pixels (width x height)."
    )
    max_side: int = Field(
        512,
        ge=0,
        le=65536,
        description="Images with a longer side are scaled down to it before the network and their "
        "masks come back at full size; 0: never.",
    )
    max_queue: int = Field(
        64, ge=1, le=100_000, description="Requests that are decoded, waiting or computed at once."
    )
    max_queue_pixels: int = Field(
        200_000_000, ge=1, le=10**11, description="Pixels of their images together."
    )
    max_queue_bytes: int = Field(
        256 * 2**20, ge=1024, le=2**40, description="Bytes of all uploads that are held at once."
    )
    max_sending_bytes: int = Field(
        256 * 2**20,
        ge=1024,
        le=2**40,
        description="Bytes of all answers that are held at once, until their callers have taken "
        "them; a large one is held compressed.",
    )
    max_connections: int = Field(
        1024, ge=0, le=10**6, description="Open connections; 0: as many as the system allows."
    )
    head_timeout_s: float = Field(
        10, ge=0.1, le=3600, description="Seconds in which a request's head must have come."
    )
    idle_timeout_s: int = Field(
        5, ge=1, le=3600, description="Seconds that a connection is kept open between requests."
    )
    send_timeout_s: float = Field(
        10, ge=0.1, le=3600, description="Seconds in which a caller must take 64 KiB of an answer."
    )
    deadline_s: float = Field(
        30,
        ge=0.01,
        le=3600,
        description="Seconds that a request may take from its head to its mask; what cannot be "
        "met is refused at once. A caller may ask for less with X-Request-Timeout.",
    )
    stuck_after_s: float = Field(
        10,
        ge=0.1,
        le=3600,
        description="Seconds after which a batch that is still in the engine means that the engine "
        "is stuck: /health/live fails, and 3 s later the process ends with status 70.",
    )
    max_batch_pixels: int = Field(
        4 * 2**20,
        ge=1,
        le=2**31,
        description="Pixels of one forward pass; an image larger than that goes alone.",
    )
    keys_file: Path | None = Field(
        None,
        description="File of API keys, one a line, made by python -m app.keys; without it "
        "everybody may call.",
    )
    rate_limit: str = Field(
        "",
        description="Requests of one key, or of one address where there are no keys, such as "
        "10/second or 600/minute;20/second; empty: no limit.",
    )
    cors_origins: str = Field(
        "",
        description="Origins of the web pages that may use the API, such as "
        "https://app.example,https://other.example, or *; empty: none.",
    )
    drain_timeout_s: int = Field(
        30, ge=0, le=3600, description="Seconds that accepted requests have after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="console for people, json for machines: one object per line."
    )

    @field_validator("rate_limit")
    @classmethod
    def _holds_rates(cls, value: str) -> str:
        if value:
            parse_rates(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _holds_origins(cls, value: str) -> str:
        if value:
            parse_origins(value)
        return value


def parse_rates(text: str) -> list[RateLimitItem]:
    """`10/second`, `600/minute;20/second`. Raises ValueError."""
    try:
        rates = parse_many(text)
    except ValueError:
        rates = []
    if not rates or any(rate.amount == 0 for rate in rates):
        raise ValueError("expected something like 10/second or 600/minute;20/second")
    return rates


def parse_origins(text: str) -> list[str]:
    """`https://a.example,https://b.example` or `*`. Raises ValueError."""
    origins = [part.strip() for part in text.split(",")]
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is no origin: expected something like https://app.example, or *"
            )
    return origins


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that no setting has: most likely misspelt."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(
        name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )
