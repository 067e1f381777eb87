"""The paths that middleware has to know. Knows nothing of what is behind them."""

SEGMENT_PATH = "/v1/segment"
"""The path whose requests are admitted, timed by stage and counted as images."""

# Compared as a whole: what is new or misspelt needs a key. A probe and a scraper have none; the
# description holds nothing that this repository does not.
PUBLIC_PATHS = frozenset(
    {"/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/metrics"}
)
