"""The paths that the middleware treats differently. Knows nothing of their handlers."""

SEGMENT_PATH = "/v1/segment"
BATCH_PATH = f"{SEGMENT_PATH}/batch"

PROTOCOL_PREFIX = "/v2"
"""The prefix of the Open Inference Protocol's paths; its errors have their own JSON format."""

MODEL_NAME, MODEL_VERSION = "fcn_resnet18", "1"
MODEL_PATH = f"{PROTOCOL_PREFIX}/models/{MODEL_NAME}"
VERSION_PATH = f"{MODEL_PATH}/versions/{MODEL_VERSION}"

IMAGE_PATHS = frozenset({SEGMENT_PATH, BATCH_PATH, f"{MODEL_PATH}/infer", f"{VERSION_PATH}/infer"})
"""The paths that segment images: their requests need admission and are timed by stage."""

WEB_PREFIX = "/web/"
"""The prefix of the files that the pages at / and /docs use."""

# Any other path requires a key if keys are configured. Probes and Prometheus send none, and the
# pages and the OpenAPI document contain nothing secret.
PUBLIC_PATHS = frozenset(
    {
        "/",
        "/docs",
        "/openapi.json",
        "/health/live",
        "/health/ready",
        "/metrics",
        f"{PROTOCOL_PREFIX}/health/live",
        f"{PROTOCOL_PREFIX}/health/ready",
    }
)


def is_of_protocol(path: str) -> bool:
    """Return whether the path belongs to the Open Inference Protocol."""
    return path == PROTOCOL_PREFIX or path.startswith(f"{PROTOCOL_PREFIX}/")


def is_probe(path: str) -> bool:
    """Return whether orchestrators or Prometheus request the path every few seconds."""
    return path.startswith("/health") or path == "/metrics"


def is_public(path: str) -> bool:
    """Return whether a path needs no key and has no rate limit."""
    return path in PUBLIC_PATHS or path.startswith(WEB_PREFIX)
