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
from app.sharing.heartbeat import Heartbeat
from app.sharing.messages import (
    VERSION,
    Hello,
    Load,
    Loaded,
    MalformedMessage,
    Message,
    Ping,
    Pong,
    Refused,
    Welcome,
)
from app.sharing.remote import Image, RemoteEngine
from app.sharing.sent_images import Answer, SentImages
from model.errors import EngineError

PAUSE_S = 1
"""The pause before the next connection, if an engine process has loaded nothing in the last."""

BATCHES = 2
"""An engine process gets this multiple of the images that keep it busy. Others wait in the queue,
where another engine process can still get them.
"""

log = structlog.get_logger("segmentation")


class EngineEnded(Exception):
    """The engine process has ended, or does not keep to the protocol."""


class Link:
    """Sends images while the engine process has loaded their weights and has room."""

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
        self._sent: SentImages | None = None
        self._ended = asyncio.Event()
        self._heartbeat = Heartbeat(
            silent_after_s,
            has_work=lambda: bool(self.in_flight or self._loading),
            ping=lambda: self._send(Ping()),
            on_silent=self._kill,
        )
        self._forget()

    def _forget(self) -> None:
        self._pid = 0
        self._window = 1
        self.loaded: set[str] = set()
        """The digests of the weights that the engine process has loaded."""
        self._loading: dict[int, tuple[RemoteEngine, asyncio.Future[Loaded]]] = {}

    async def run(self) -> None:
        """Connect, and again after each end."""
        while True:
            has_loaded = False
            with suppress(OSError):
                has_loaded = await self._connect()
            if not has_loaded:
                await asyncio.sleep(PAUSE_S)

    async def _connect(self) -> bool:
        """Serve one engine process, and return whether it has loaded something."""
        self._ended.clear()
        self._sent = SentImages(self._most_images)
        try:
            self._channel = Channel(
                connect(self._path), on_message=self._receive, on_end=self._ended.set
            )
            self._send(Hello(VERSION), self._sent.memory.open_again())
            await self._ended.wait()
            return bool(self.loaded)
        finally:
            self._close()

    def _close(self) -> None:
        """End the connection, and give up what the engine process has."""
        self._ended.set()
        self._heartbeat.stop()
        if self._channel is not None:
            self._channel.close()
        sent, loading = self._sent, self._loading
        self._channel = self._sent = None
        self._forget()
        for _, answer in loading.values():
            if not answer.done():
                answer.set_exception(EngineEnded())
        self._lost(sent.end() if sent is not None else [])
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
        return self.is_connected and self.in_flight < self._window

    @property
    def in_flight(self) -> int:
        """The number of images that the engine process has."""
        return 0 if self._sent is None else len(self._sent)

    def has_loaded(self, engine: RemoteEngine) -> bool:
        """Return whether the engine process has loaded these weights."""
        return engine.digest in self.loaded

    def is_loading(self, engine: RemoteEngine) -> bool:
        """Return whether it is asked to load these weights."""
        return any(one.digest == engine.digest for one, _ in self._loading.values())

    def should_load(self, engine: RemoteEngine) -> bool:
        """Return whether it should be asked to load these weights."""
        return self.is_connected and not (self.has_loaded(engine) or self.is_loading(engine))

    def load(self, engine: RemoteEngine) -> asyncio.Future[Loaded]:
        """Ask the engine process, which is connected, to load the weights.

        The future may have EngineError, if it refuses them, or EngineEnded.
        """
        assert self._sent is not None
        number = self._sent.take_number()
        answer: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._loading[number] = engine, answer
        self._send(Load(number, bytes.fromhex(engine.digest)), engine.open_weights())
        self._heartbeat.expect()
        return answer

    def send(self, image: Image) -> None:
        """Give the engine process an image whose weights it has loaded. Needs room."""
        assert self._sent is not None
        self._send(*self._sent.begin(image, self._send))
        self._heartbeat.expect()

    def _send(self, message: Message, descriptor: int | None = None) -> None:
        assert self._channel is not None
        self._channel.send(message, descriptor)

    def _receive(self, message: Message, _: int | None) -> None:
        self._heartbeat.hear()
        if isinstance(message, Welcome) and not self._pid:
            self._pid = message.pid
        elif isinstance(message, Loaded | Refused) and message.number in self._loading:
            self._end_loading(*self._loading.pop(message.number), message)
        elif isinstance(message, Answer) and self._sent is not None:
            image = self._sent.finish(message)
            if image is not None:  # the engine process has forgotten its weights
                self.loaded.discard(image.engine.digest)
                self._lost([image])
        elif not isinstance(message, Pong):
            raise MalformedMessage(f"{type(message).__name__} comes from an engine process")
        self._changed(self)

    def _end_loading(
        self, engine: RemoteEngine, answer: asyncio.Future[Loaded], message: Loaded | Refused
    ) -> None:
        if isinstance(message, Loaded):
            self.loaded.add(engine.digest)
            self._window = min(self._most_images, BATCHES * max(1, message.images))
        if answer.done():
            return
        if isinstance(message, Loaded):
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


def count_in_flight(link: Link) -> int:
    """Return the key by which the least busy engine process is found."""
    return link.in_flight
