"""The paths that the middleware treats differently. Knows nothing of their handlers."""

SEGMENT_PATH = "/v1/segment"
"""The path of segmentation: its requests need admission, and are timed by stage."""

# Any other path requires a key if keys are configured. Probes and Prometheus send none, and the
# OpenAPI document contains nothing secret.
PUBLIC_PATHS = frozenset(
    {"/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/metrics"}
)
