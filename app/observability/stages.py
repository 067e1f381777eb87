"""Where one request is on its way, and for how long: what Server-Timing and the metrics tell.

Knows the stages' names from who enters them.
"""

import time


class Stages:
    """Where one request is, and how long it was in each stage, in seconds and in order.

    It is always in exactly one, so the stages' times add up to the request's.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.current = "accept"
        self._since = self.started = time.perf_counter()

    def enter(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[self.current] = self.seconds.get(self.current, 0) + now - self._since
        self.current, self._since = stage, now

    def server_timing(self) -> str:
        """The value of a Server-Timing header; its durations are in milliseconds."""
        return ", ".join(f"{stage};dur={1000 * s:.2f}" for stage, s in self.seconds.items())
