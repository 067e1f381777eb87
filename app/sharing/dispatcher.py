"""The queue of a worker whose images engine processes compute.

Gives each image to the engine process that has the fewest of this worker. Has the methods of
`Batcher` that a service uses. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from app.observability.metrics import Metrics
from app.observability.peers import Peers
from app.observability.stages import Stages
from app.scheduling.batcher import Batcher, Predict
from app.scheduling.budget import Held
from app.scheduling.threads import start_work_threads
from app.scheduling.watchdog import GRACE_S, Watchdog
from app.settings import Settings
from app.sharing.distribution import distribute
from app.sharing.link import EngineEnded, Link, count_in_flight
from app.sharing.messages import Loaded
from app.sharing.queue import ImageQueue
from app.sharing.remote import Image, RemoteEngine, find_work
from model.engines.base import Array
from model.errors import EngineError
from model.predictor import Canvas, Predictor, use_engine
from model.weights import read_weights

MAX_IMAGES = 256
"""The largest number of images that an engine process has of one worker."""

T = TypeVar("T")

log = structlog.get_logger("segmentation")


def name_socket(folder: Path, number: int) -> Path:
    """Return the path of an engine's socket; `number` counts the engines from 0."""
    return folder / f"engine-{number}"


class Dispatcher:
    """Owns the queue and the connections."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *,
        watchdog: Watchdog,
        metrics: Metrics,
        changed: Callable[[], None],
    ) -> None:
        """`folder` has the sockets. `changed` is called when `has_engine` has changed."""
        self._watchdog = watchdog
        self._tell = changed
        self._queue = ImageQueue(metrics)
        self.threads = start_work_threads(1, "copy")
        self._links = [
            Link(
                name_socket(folder, number),
                most_images=min(settings.max_queue, MAX_IMAGES),
                silent_after_s=settings.stuck_after_s + GRACE_S,
                changed=self._change,
                lost=self._queue.take_back,
            )
            for number in range(settings.engines)
        ]
        self._tasks: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_use: RemoteEngine | None = None
        self._had_engine = False
        self.has_lost_device = False
        """An engine process whose device is lost ends. Its worker goes on, so this stays False."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the connections during the block. Requests that wait at its end are failed."""
        self._loop = asyncio.get_running_loop()
        for link in self._links:
            self._run(link.run())
        try:
            yield
        finally:
            self._links, tasks = [], list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.give_up()
            self.threads.shutdown(wait=False)

    @property
    def is_alive(self) -> bool:
        """Whether images are given to engine processes, or would be if there were one."""
        return self._watchdog.is_healthy

    @property
    def has_engine(self) -> bool:
        """Whether an engine process is ready to compute with the weights in use."""
        engine = self._in_use
        return engine is not None and any(engine.digest in link.loaded for link in self._links)

    def give_up(self) -> None:
        """Fail all requests that wait."""
        self._queue.fail()

    def start(self, settings: Settings) -> Predictor:
        """Return a predictor for the weights file, after every engine process has loaded it.

        Runs on another thread than the event loop. Raises ModelError, and InferenceFailed.
        """
        weights = read_weights(settings.weights)
        engine = RemoteEngine(settings.weights, weights.metadata.digest, self._compute_all)
        self._wait_for(distribute(engine, self._links, self._connected))
        return use_engine(engine, weights, scaling=settings.scaling)

    def use(self, predictor: Predictor) -> None:
        """Use this predictor's weights from now on: engines that start later load them first."""
        assert isinstance(predictor.engine, RemoteEngine)
        self._in_use = predictor.engine
        for link in self._links:
            self._change(link)

    async def submit(
        self, predict: Predict, canvas: Canvas, stages: Stages, *, held: Held | None = None
    ) -> Array:
        """Return the mask of the canvas. `held` is kept until no process uses the image any more.

        A cancelled request is removed from the queue, here or in the engine process. Raises
        InferenceFailed.
        """
        engine, confidence = find_work(predict)
        return await self._compute(engine, canvas, confidence, stages, held)

    async def _compute(
        self,
        engine: RemoteEngine,
        canvas: Canvas,
        confidence: bool,
        stages: Stages,
        held: Held | None = None,
    ) -> Array:
        answer: asyncio.Future[Array] = asyncio.get_running_loop().create_future()
        image = Image(engine, canvas, confidence, stages, held, answer)
        image.keep()
        stages.enter("queue")
        if image.is_large:
            await image.fill_own_memory(self.threads)
        self._queue.add(image)
        self._dispatch()
        try:
            return await answer
        finally:
            self._leave(image)

    def _leave(self, image: Image) -> None:
        """Drop a request that is cancelled. Does nothing for one that is answered."""
        image.answer.cancel()
        if self._queue.remove(image):
            self._queue.count()
            image.end()
        elif image.cancel is not None:
            image.cancel()

    def _compute_all(
        self, engine: RemoteEngine, canvases: Sequence[Canvas], confidence: bool
    ) -> list[Array]:
        async def compute() -> list[Array]:
            images = (self._compute(engine, one, confidence, Stages()) for one in canvases)
            return await asyncio.gather(*images)

        return self._wait_for(compute())

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the event loop do the work, and block this thread meanwhile."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _load_on(self, link: Link, engine: RemoteEngine) -> None:
        """Make one engine process load weights that are already in use, or were."""
        self._run(self._await_loading(link, engine, link.load(engine)))

    async def _await_loading(
        self, link: Link, engine: RemoteEngine, loading: asyncio.Future[Loaded]
    ) -> None:
        try:
            await loading
        except EngineEnded:
            return  # its images go to others, or to its successor
        except EngineError as error:
            log.error("weights refused", weights=engine.digest, reason=str(error))
            if engine is self._in_use:
                link.reconnect()  # and ask again
            else:
                self._queue.fail(engine)

    def _change(self, link: Link) -> None:
        """Use a connection that has got room, has begun, or has ended."""
        if any(one.is_connected for one in self._links):
            self._connected.set()
        else:
            self._connected.clear()
        if self._in_use is not None and link.should_load(self._in_use):
            self._load_on(link, self._in_use)
        self._dispatch()
        if self.has_engine is not self._had_engine:
            self._had_engine = self.has_engine
            self._tell()

    def _dispatch(self) -> None:
        """Give waiting images to engine processes, as far as there is room."""
        for image in self._queue:
            if not any(link.has_room for link in self._links):
                break
            able = [link for link in self._links if link.has_loaded(image.engine)]
            if not (able or any(link.is_loading(image.engine) for link in self._links)):
                connected = [link for link in self._links if link.is_connected]
                self._load_on(min(connected, key=count_in_flight), image.engine)
            elif able := [link for link in able if link.has_room]:
                self._queue.remove(image)
                min(able, key=count_in_flight).send(image)
        self._queue.count()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end_task)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("dispatcher failed", exc_info=error)
            self._watchdog.give_up("dispatcher")


Scheduler = Batcher | Dispatcher
"""The part of a service that canvases are submitted to."""


def open_dispatcher(settings: Settings, peers: Peers | None, **rest: Any) -> Dispatcher | None:
    """Return a dispatcher for a worker whose engines are other processes, else None."""
    if peers is None or not settings.engines:
        return None
    return Dispatcher(peers.folder, settings, **rest)
