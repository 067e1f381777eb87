"""The connection of a worker to one engine process, and to its successor when that ends.

Knows nothing of other engines and of the queue.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from app.sharing.channel import Channel, connect
from app.sharing.flights import Answer, Flights
from app.sharing.messages import (
    VERSION,
    Hello,
    Learn,
    Learnt,
    MalformedMessage,
    Message,
    Ping,
    Pong,
    Refused,
    Welcome,
)
from app.sharing.pulse import Pulse
from app.sharing.remote import Image, RemoteEngine
from model.errors import EngineError

PAUSE_S = 1
"""The pause before the next connection, if an engine process has learnt nothing in the last."""

BATCHES = 2
"""An engine has images for so many times what keeps it busy; others wait where they can still be
given to another engine.
"""

log = structlog.get_logger("segmentation")


class EngineEnded(Exception):
    """The engine process has ended, or is out of order."""


class Link:
    """Sends images while the engine process has learnt their weights and has room."""

    def __init__(
        self,
        path: Path,
        *,
        most_images: int,
        silent_after_s: float,
        changed: Callable[["Link"], None],
        lost: Callable[[Sequence[Image]], None],
    ) -> None:
        """`changed` is called when it may have room, and when it is connected or not any more.

        `lost` is called with images that another engine process may compute.
        """
        self._path = path
        self._most_images = most_images
        self._changed = changed
        self._lost = lost
        self._channel: Channel | None = None
        self._flights: Flights | None = None
        self._ended = asyncio.Event()
        self._pulse = Pulse(
            silent_after_s,
            has_work=lambda: bool(self.load or self._learning),
            ping=lambda: self._send(Ping()),
            on_silent=self._kill,
        )
        self._forget()

    def _forget(self) -> None:
        self._pid = 0
        self._window = 1
        self.learnt: set[str] = set()
        """The digests of the weights that the engine process has learnt."""
        self._learning: dict[int, tuple[RemoteEngine, asyncio.Future[Learnt]]] = {}

    async def run(self) -> None:
        """Connect, and again after each end."""
        while True:
            has_learnt = False
            with suppress(OSError):
                has_learnt = await self._connect()
            if not has_learnt:
                await asyncio.sleep(PAUSE_S)

    async def _connect(self) -> bool:
        """Serve one engine process, and return whether it has learnt something."""
        self._ended.clear()
        self._flights = Flights(self._most_images)
        try:
            self._channel = Channel(
                connect(self._path), on_message=self._receive, on_end=self._ended.set
            )
            self._send(Hello(VERSION), self._flights.memory.open_again())
            await self._ended.wait()
            return bool(self.learnt)
        finally:
            self._close()

    def _close(self) -> None:
        """End the connection, and give up what the engine process has."""
        self._ended.set()
        self._pulse.stop()
        if self._channel is not None:
            self._channel.close()
        flights, learning = self._flights, self._learning
        self._channel = self._flights = None
        self._forget()
        for _, answer in learning.values():
            if not answer.done():
                answer.set_exception(EngineEnded())
        self._lost(flights.end() if flights is not None else [])
        self._changed(self)

    def reconnect(self) -> None:
        """End the connection, and begin another."""
        self._ended.set()

    @property
    def is_connected(self) -> bool:
        """Whether an engine process has welcomed this worker."""
        return self._pid > 0 and not self._ended.is_set()

    @property
    def has_room(self) -> bool:
        """Whether another image can be sent."""
        return self.is_connected and self.load < self._window

    @property
    def load(self) -> int:
        """The number of images that the engine process has."""
        return 0 if self._flights is None else len(self._flights)

    def knows(self, engine: RemoteEngine) -> bool:
        """Whether the engine process has learnt these weights."""
        return engine.digest in self.learnt

    def is_learning(self, engine: RemoteEngine) -> bool:
        """Whether it is asked to learn these weights."""
        return any(one.digest == engine.digest for one, _ in self._learning.values())

    def lacks(self, engine: RemoteEngine) -> bool:
        """Whether it should be asked to learn these weights."""
        return self.is_connected and not (self.knows(engine) or self.is_learning(engine))

    def learn(self, engine: RemoteEngine) -> asyncio.Future[Learnt]:
        """Ask the engine process, which is connected, to learn the weights.

        The future may have EngineError, if it refuses them, or EngineEnded.
        """
        assert self._flights is not None
        number = self._flights.take_number()
        answer: asyncio.Future[Learnt] = asyncio.get_running_loop().create_future()
        self._learning[number] = engine, answer
        self._send(Learn(number, bytes.fromhex(engine.digest)), engine.open_weights())
        self._pulse.expect()
        return answer

    def send(self, image: Image) -> None:
        """Give the engine process an image whose weights it has learnt. Needs room."""
        assert self._flights is not None
        self._send(*self._flights.begin(image, self._send))
        self._pulse.expect()

    def _send(self, message: Message, descriptor: int | None = None) -> None:
        assert self._channel is not None
        self._channel.send(message, descriptor)

    def _receive(self, message: Message, _: int | None) -> None:
        self._pulse.hear()
        if isinstance(message, Welcome) and not self._pid:
            self._pid = message.pid
        elif isinstance(message, Learnt | Refused) and message.number in self._learning:
            self._end_learning(*self._learning.pop(message.number), message)
        elif isinstance(message, Answer) and self._flights is not None:
            image = self._flights.land(message)
            if image is not None:  # the engine process has forgotten its weights
                self.learnt.discard(image.engine.digest)
                self._lost([image])
        elif not isinstance(message, Pong):
            raise MalformedMessage(f"{type(message).__name__} comes from an engine process")
        self._changed(self)

    def _end_learning(
        self, engine: RemoteEngine, answer: asyncio.Future[Learnt], message: Learnt | Refused
    ) -> None:
        if isinstance(message, Learnt):
            self.learnt.add(engine.digest)
            self._window = min(self._most_images, BATCHES * max(1, message.images))
        if answer.done():
            return
        if isinstance(message, Learnt):
            answer.set_result(message)
        else:
            answer.set_exception(EngineError(message.text))

    def _kill(self) -> None:
        """End an engine process that does not react, so that the supervisor replaces it."""
        log.critical("engine process does not react", engine=self._pid)
        with suppress(ProcessLookupError):
            if self._pid > 0:
                os.kill(self._pid, signal.SIGKILL)
        self._ended.set()


def get_load(link: Link) -> int:
    """Return the key by which the least busy engine process is found."""
    return link.load
