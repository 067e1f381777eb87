"""The stages of a request and their durations, for Server-Timing and the metrics.

Knows nothing of what the stages do.
"""

import time

LAST = "over"
"""The stage that ends the last one, and takes no time itself."""


class Stages:
    """The current stage of one request, and the seconds that each stage took, in order.

    A request is always in exactly one stage, so the durations add up to the request's.
    """

    def __init__(self, first: str = "accept") -> None:
        self.seconds: dict[str, float] = {}
        self.current = first
        self._since = self.started = time.perf_counter()

    def enter(self, stage: str, *, ago_s: float = 0) -> None:
        """End the current stage and begin another, now or at a moment of the current stage."""
        now = max(self._since, time.perf_counter() - ago_s)
        self.seconds[self.current] = self.seconds.get(self.current, 0) + now - self._since
        self.current, self._since = stage, now

    def open_part(self) -> "Stages":
        """Return the stages of a part of the request, such as one of several files."""
        return Stages("turn")

    def format_server_timing(self) -> str:
        """Return the value of a Server-Timing header, with durations in milliseconds."""
        return ", ".join(f"{stage};dur={1000 * s:.2f}" for stage, s in self.seconds.items())
