"""Detects the reset of a connection after its end of input.

The event loop ignores such a connection until something is written to it. Linux only, because it
needs epoll. Knows nothing of HTTP.
"""

import asyncio
import select
from collections.abc import Callable

CAN_WATCH = hasattr(select, "epoll")


class ResetWatcher:
    """Watches connections of one event loop; uses a descriptor only while it watches any."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._watched: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, on_reset: Callable[[], None]) -> None:
        """Call `on_reset` once, in the loop, when the connection is reset or fully closed."""
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._notify)
        self._epoll.register(descriptor, 0)  # errors and hang-ups are reported without being asked
        self._watched[descriptor] = on_reset

    def forget(self, descriptor: int) -> None:
        """Stop watching; call this before the descriptor is closed. Ignores unknown ones."""
        if self._epoll is None or self._watched.pop(descriptor, None) is None:
            return
        self._epoll.unregister(descriptor)
        if not self._watched:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _notify(self) -> None:
        assert self._epoll is not None
        for descriptor, _ in self._epoll.poll(0):
            on_reset = self._watched[descriptor]
            self.forget(descriptor)
            on_reset()
