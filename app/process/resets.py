"""Notices when a connection is reset whose caller has sent all that will come.

The event loop does not look at such a connection until there is something to write to it. Linux
only: elsewhere there is no epoll. Knows nothing of HTTP.
"""

import asyncio
import select
from collections.abc import Callable

CAN_WATCH = hasattr(select, "epoll")


class ResetWatcher:
    """Of one event loop; it has a descriptor of its own only while it watches something."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._watched: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, on_reset: Callable[[], None]) -> None:
        """Call it, once, in the loop, when the connection can neither send nor receive any more."""
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._tell)
        self._epoll.register(descriptor, 0)  # errors and hang-ups are reported without being asked
        self._watched[descriptor] = on_reset

    def forget(self, descriptor: int) -> None:
        """To be called before the descriptor is closed; does nothing for one that is not known."""
        if self._epoll is None or self._watched.pop(descriptor, None) is None:
            return
        self._epoll.unregister(descriptor)
        if not self._watched:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _tell(self) -> None:
        assert self._epoll is not None
        for descriptor, _ in self._epoll.poll(0):
            on_reset = self._watched[descriptor]
            self.forget(descriptor)
            on_reset()
