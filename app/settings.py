"""The settings: environment variables that begin with SEG_, each with its bounds.

They are read once, when the program starts. Knows nothing of what they are used for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.setting_syntax import STORAGE, parse_origins, parse_rates
from model.engines.base import EngineName, Precision
from model.scaling import SERVED, Scaling
from model.weights import SHIPPED_WEIGHTS

PREFIX = "SEG_"


class Settings(BaseSettings):
    """All settings, frozen. Raises pydantic's ValidationError for an invalid value.

    An empty variable counts as unset, because Compose and files of variables write it so.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    host: str = Field(
        "127.0.0.1", description="Address to listen on. 0.0.0.0 listens on every interface."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on. 0 chooses a free port.")
    operations_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Separate port for /health and /metrics, on the same address. Without it, "
        "they share the main port.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Number of worker processes, each with its own engine. With more than one, a "
        "supervisor restarts any that exit.",
    )
    engines: int = Field(
        0,
        ge=0,
        le=64,
        description="Number of engine processes that all workers share, on as many GPUs as there "
        "are. 0 means that each worker has its own engine.",
    )
    weights: Path = Field(
        SHIPPED_WEIGHTS, description="Path of the weights file. The default is the shipped file."
    )
    engine: EngineName = Field(
        "auto",
        description="native, ncnn, torch or auto. auto chooses torch on a GPU; on the CPU it "
        "chooses native, or ncnn where native is not available.",
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda or cuda:N. auto chooses a GPU if there is one."
    )
    threads: int = Field(
        0, ge=0, le=1024, description="Number of CPU threads of the engine. 0 means one per core."
    )
    precision: Precision = Field(
        "auto",
        description="auto, float32, float16 or bfloat16. float32 is exact. bfloat16 is several "
        "times as fast on processors with AMX. auto chooses float16 on a GPU, and float32 on the "
        "CPU.",
    )
    codec_threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Number of threads that decode uploads and encode masks. 0 means two if the "
        "engine computes on the CPU. If it computes on a GPU, 0 means one per core and at least "
        "two, divided among the workers.",
    )
    max_body_bytes: int = Field(
        32 * 2**20, ge=1024, le=2**31, description="Largest request body, in bytes."
    )
    max_pixels: int = Field(
        25_000_000, ge=1, le=10**9, description="Largest image, in pixels (width x height)."
    )
    max_files: int = Field(
        16,
        ge=1,
        le=1000,
        description="Largest number of files in one request to /v1/segment/batch.",
    )
    max_side: int = Field(
        SERVED.max_side,
        ge=0,
        le=65536,
        description="Longest side that the network sees, in pixels. Larger images are scaled down"
        " to it, and their masks are returned at the original size. 0 means no "
        "scaling.",
    )
    unscaled_side: int = Field(
        SERVED.unscaled_side,
        ge=0,
        le=65536,
        description="Images whose longer side is at most this are not scaled down, even if it"
        " exceeds `SEG_MAX_SIDE`, unless the request has `max_side`.",
    )
    max_queue: int = Field(
        64,
        ge=1,
        le=100_000,
        description="Largest number of requests that are being decoded, queued or computed at the"
        " same time.",
    )
    max_queue_pixels: int = Field(
        200_000_000,
        ge=1,
        le=10**11,
        description="Largest number of pixels of these requests' images together.",
    )
    max_queue_bytes: int = Field(
        256 * 2**20,
        ge=1024,
        le=2**40,
        description="Largest number of bytes of uploads held in memory at the same time.",
    )
    max_sending_bytes: int = Field(
        256 * 2**20,
        ge=1024,
        le=2**40,
        description="Largest number of bytes of answers held in memory at the same time. A large "
        "mask as JSON, numbers or a tensor is held compressed; other answers are held whole.",
    )
    max_connections: int = Field(
        1024,
        ge=0,
        le=10**6,
        description="Largest number of open connections. 0 means as many as the system allows.",
    )
    head_timeout_s: float = Field(
        10, ge=0.1, le=3600, description="Seconds within which a request's head must arrive."
    )
    idle_timeout_s: int = Field(
        5, ge=1, le=3600, description="Seconds after which an idle connection is closed."
    )
    send_timeout_s: float = Field(
        10,
        ge=0.1,
        le=3600,
        description="Seconds within which a client must receive each 64 KiB of an answer.",
    )
    deadline_s: float = Field(
        30,
        ge=0.01,
        le=3600,
        description="Seconds from a request's head to its mask. A request that cannot meet its "
        "deadline is refused at once. A client may ask for a shorter deadline with "
        "X-Request-Timeout.",
    )
    stuck_after_s: float = Field(
        10,
        ge=0.1,
        le=3600,
        description="Seconds after which a running batch means that the engine is stuck, and 1 s "
        "more for each million pixels of its canvases and masks. On a busy machine, it may take up "
        "to ten times as long. /health/live then fails, and 3 s later the process exits with "
        "status 70.",
    )
    max_batch_pixels: int = Field(
        4 * 2**20,
        ge=1,
        le=2**31,
        description="Largest number of pixels in one forward pass. A larger image is computed "
        "alone.",
    )
    keys_file: Path | None = Field(
        None,
        description="File of API keys, one per line, written by python -m app.keys. Without it, "
        "no key is required.",
    )
    rate_limit: str = Field(
        "",
        description="Number of requests per key, or per address if there are no keys, such as "
        "10/second or 600/minute;20/second. Empty means no limit.",
    )
    rate_storage: str = Field(
        "",
        repr=False,  # contains a password
        description="Redis server that counts the requests at all servers together, such as "
        "redis://host:6379/0, or rediss://... with TLS. Empty means that each process counts "
        "its own.",
    )
    cors_origins: str = Field(
        "",
        description="Origins of the web pages that may use the API, such as "
        "https://app.example,https://other.example, or *. Empty means none.",
    )
    drain_timeout_s: int = Field(
        30, ge=0, le=3600, description="Seconds to finish accepted requests after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="console is for people. json writes one object per line."
    )
    traces: bool = Field(
        False,
        description="1 sends a trace of each request with OpenTelemetry, to the collector that "
        "OTEL_EXPORTER_OTLP_ENDPOINT names. Needs the extra otel.",
    )

    @property
    def scaling(self) -> Scaling:
        return Scaling(self.max_side, self.unscaled_side)

    @field_validator("rate_limit")
    @classmethod
    def _check_rate_limit(cls, value: str) -> str:
        if value:
            parse_rates(value)
        return value

    @field_validator("rate_storage")
    @classmethod
    def _check_rate_storage(cls, value: str) -> str:
        if value and not STORAGE.fullmatch(value):
            raise ValueError("expected something like redis://host:6379/0")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_cors_origins(cls, value: str) -> str:
        if value:
            parse_origins(value)
        return value


def find_unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that have our prefix but belong to no setting, which may be misspelt."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(
        name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )
