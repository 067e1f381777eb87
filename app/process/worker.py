"""A worker process: `python -m app.process.worker FOLDER NUMBER FD...`.

The supervisor starts it with the folder that the workers share, its slot, and the descriptors of
the inherited sockets. It ignores Ctrl-C, which the supervisor handles.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from socket import socket

from app.access.keys import KeysError
from app.access.shared_counts import RateStorageError
from app.observability.peers import Peers
from app.observability.traces import TracesError
from app.process.listener import Listener
from app.process.server import Server, make_protocol, serve
from app.process.sockets import accept_waiting
from app.process.startup import load_settings
from app.settings import Settings


class Worker(Server):
    """A server that listens only while it is ready; a separate port for probes is always open."""

    def __init__(self, settings: Settings, sockets: Sequence[socket], peers: Peers) -> None:
        super().__init__(settings, sockets, peers=peers)
        self.service.tell_others = partial(os.kill, os.getppid(), signal.SIGHUP)
        self._peers = peers
        self._opening: set[asyncio.Task[None]] = set()

    def run(self, sockets: list[socket] | None = None) -> None:
        super().run(sockets or [])

    async def startup(self, sockets: list[socket] | None = None) -> None:
        self._listener = Listener(
            self._sockets[0],
            protocol=partial(make_protocol, self.config, self.server_state),
            is_wanted=lambda: self.service.takes_requests,
        )
        self.service.changed = self._on_change
        await super().startup(sockets)

    def take_requests(self) -> None:
        opening = asyncio.ensure_future(self._accept())
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    def _on_change(self) -> None:
        """Stop accepting at once when stuck or draining; accept again after a recovery.

        If all workers drain, nobody else would accept the connections that the system has
        established: `stop_accepting` closes the listener after them.
        """
        if not self.service.takes_requests:
            self._peers.take_requests(False)
            if not self._peers.are_draining:
                self._listener.close()
        elif self.service.started.done() and not self._listener.is_open:
            self.take_requests()

    async def stop_accepting(self) -> None:
        if self._listener.is_open:
            await accept_waiting(self._sockets[0])
        self._listener.close()

    async def _accept(self) -> None:
        was_open = self._listener.is_open
        try:
            await self._listener.open()
        except OSError as error:  # only the first listener learns that the address is taken
            self.failure = error
            self.should_exit = True
            return
        self._peers.take_requests(self._listener.is_open)
        if not was_open:
            super().take_requests()


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = load_settings()
    folder, number, *descriptors = sys.argv[1:]
    try:
        sockets = [socket(fileno=int(descriptor)) for descriptor in descriptors]
        worker = Worker(settings, sockets, Peers(Path(folder), int(number)))
    except (OSError, KeysError, RateStorageError, TracesError) as error:
        sys.exit(f"error: cannot start: {error}")
    serve(worker)


if __name__ == "__main__":
    main()
