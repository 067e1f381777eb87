"""The running service: it loads the weights, warms the engine up, and owns everything that works.

One object, one owner of the state; knows nothing of HTTP.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from typing import TypeVar

import structlog

from app.codecs import decode
from app.codecs.containers import JPEG_START, essential, require_known
from app.codecs.decode import Decoded
from app.codecs.decoders import DECODERS_PER_THREAD, Decoders, out_of_memory
from app.codecs.jpegs import is_ordinary
from app.codecs.trial import try_out
from app.errors import NotReady, ReloadFailed
from app.http.drain import Drain
from app.observability import allocator
from app.observability.metrics import Metrics
from app.observability.peers import Peers
from app.scheduling.admission import Admission
from app.scheduling.batcher import Batcher
from app.scheduling.budget import Budget, Share
from app.scheduling.coalescing import Coalesced
from app.scheduling.codec_threads import CodecThreads
from app.scheduling.threads import end_threads, work_threads
from app.scheduling.watchdog import Watchdog
from app.settings import Settings
from model.engines.base import Size
from model.errors import ModelError
from model.predictor import Predictor, open_predictor
from model.scaling import content_size

T = TypeVar("T")

log = structlog.get_logger("segmentation")


class State(StrEnum):
    """In the order in which a service passes through them."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Service:
    """`started` resolves when the service is ready, or has the exception that kept it from it.

    `died` resolves when it cannot work any more: the process should end, and be replaced.
    """

    def __init__(self, settings: Settings, peers: Peers | None = None) -> None:
        self.settings = settings
        self.peers = peers
        self.metrics = Metrics(peers)
        self.changed: Callable[[], None] = lambda: None
        """Called when `takes_requests` may have changed."""
        self.state = State.LOADING
        self.ending = Drain()
        self.started: Future[None] = Future()
        self.died: Future[None] = Future()
        self.uploads = Budget(
            settings.max_queue_bytes,
            unit="bytes",
            reason="upload-bytes",
            gauge=self.metrics.upload_bytes,
        )
        self.answers = Budget(
            settings.max_sending_bytes,
            unit="bytes of answers",
            reason="answer-bytes",
            gauge=self.metrics.answer_bytes,
        )
        self.admission = Admission(
            max_queue=settings.max_queue,
            max_queue_pixels=settings.max_queue_pixels,
            metrics=self.metrics,
        )
        self._watchdog = Watchdog(
            stuck_after_s=settings.stuck_after_s,
            on_death=self._die,
            on_change=lambda: self.changed(),
        )
        self._predictor: Predictor | None = None
        self._batcher: Batcher | None = None
        self._codecs = CodecThreads(settings.codec_threads, gauge=self.metrics.codec_tasks)
        self._decoders = Decoders(
            settings.codec_threads * DECODERS_PER_THREAD,
            max_pixels=settings.codec_threads * settings.max_pixels,
            metrics=self.metrics,
        )
        self._reloads = Coalesced(self._reload)
        self.tell_others: Callable[[], None] = lambda: None
        """Of several processes that serve, to reload as well."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts in the background, so that the probes answer meanwhile; ends in order."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end_threads, self._codecs.threads)
            stack.callback(self._decoders.close)
            stack.push_async_callback(self._end_threads, self._decoders.threads)
            starting = asyncio.create_task(self._start(stack), name="start")
            try:
                yield
            finally:
                self.drain()
                await asyncio.wait([starting], timeout=self.ending.left_s)
                starting.cancel()
                await asyncio.wait([starting])

    async def _end_threads(self, threads: ThreadPoolExecutor) -> None:
        """A thread that is stuck would be waited for in vain."""
        await end_threads(threads, self.ending.left_s if self._watchdog.is_content else 0)

    async def _start(self, stack: AsyncExitStack) -> None:
        try:
            predictor = await self._loaded()
            self._batcher = Batcher(
                callers=predictor.engine.callers_at_once,
                max_batch_pixels=self.settings.max_batch_pixels,
                max_batch_images=predictor.engine.images_per_call,
                watchdog=self._watchdog,
                metrics=self.metrics,
            )
            stack.push_async_callback(self._end_threads, self._batcher.threads)
            await stack.enter_async_context(self._batcher.running())
        except Exception as error:
            self._enter(State.FAILED)
            self.started.set_exception(error)
            return
        self._serve_with(predictor)
        if self.state is State.LOADING:
            self._enter(State.READY)
        self.started.set_result(None)

    async def _loaded(self) -> Predictor:
        threads = work_threads(1, "load")
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, self._load)
        finally:
            threads.shutdown(wait=False)  # it has ended, or nobody waits for it any more

    def _load(self) -> Predictor:
        """Weights, engine, golden mask, warm-up, answers."""
        settings = self.settings
        predictor = open_predictor(
            settings.weights,
            engine=settings.engine,
            device=settings.device,
            threads=settings.threads,
            precision=settings.precision,
            max_side=settings.max_side,
        )
        try_out(predictor)
        allocator.give_back()
        return predictor

    async def reload(self) -> Predictor:
        """Read the weights file again and serve with it; the requests in the queue keep theirs.

        Everything is made and tried beside what is running. Raises ReloadFailed where that fails,
        and goes on with what it has; NotReady while it starts or drains. Those who ask while
        weights are loading share one more reload.
        """
        return await self._reloads.run()

    async def _reload(self) -> Predictor:
        if self.state is not State.READY:
            raise _not_ready(self.state)
        before = self.predictor.metadata.digest
        try:
            predictor = await self._loaded()
        except Exception as error:
            self.metrics.reloads.labels("kept").inc()
            log.exception("reload failed", weights=before)
            raise ReloadFailed(
                str(error) if isinstance(error, ModelError) else "The weights do not work.",
                remedy="Mend the weights file; the server goes on with the old weights.",
            ) from error
        self._serve_with(predictor)
        self.metrics.reloads.labels("swapped").inc()
        log.info("reloaded", weights=predictor.metadata.digest, before=before)
        return predictor

    def _serve_with(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.metrics.serve_with(
            digest=predictor.metadata.digest, engine=predictor.engine.description
        )

    def drain(self) -> None:
        """Take no new requests from now on."""
        if self.state is not State.FAILED:
            self._enter(State.DRAINING)

    def _enter(self, state: State) -> None:
        self.state = state
        self.metrics.ready.set(state is State.READY)
        self.changed()

    def _die(self) -> None:
        assert self._batcher is not None
        self.drain()
        self._batcher.give_up()
        self.died.set_result(None)

    @property
    def is_alive(self) -> bool:
        """Whether the service works, or will when it has started."""
        if self._batcher is None:
            return self.state is not State.FAILED
        return self._batcher.is_alive

    @property
    def takes_requests(self) -> bool:
        return self.state is State.READY and self.is_alive

    @property
    def is_stuck(self) -> bool:
        """Whether a thread is in the engine and does not come back."""
        return not self._watchdog.is_content

    @property
    def predictor(self) -> Predictor:
        """With the weights that serve now. Raises NotReady before they are loaded."""
        if self._predictor is None:
            raise _not_ready(self.state)
        return self._predictor

    @property
    def batcher(self) -> Batcher:
        """Raises NotReady while no requests are taken."""
        if self._batcher is None or self.state is not State.READY:
            raise _not_ready(self.state)
        return self._batcher

    async def decode(
        self,
        data: bytes,
        *,
        max_side: int,
        reserve: Callable[[int], None],
        finish: Callable[[Decoded], T],
        held: Sequence[Share] = (),
    ) -> T:
        """What `finish` makes of it: of an ordinary JPEG on a codec thread, of any other file on a
        thread that waits for a decoder's process. `reserve` gets the number of pixels.
        """
        require_known(data)
        if data.startswith(JPEG_START):
            decoded: T | None = await self.on_codec_thread(
                self._decode_ordinary, data, max_side, reserve, finish, held=held
            )
            if decoded is not None:
                return decoded

        def plan(size: Size) -> Size:
            reserve(size[0] * size[1])
            return content_size(size, max_side)

        max_pixels = self.settings.max_pixels
        return await self._decoders.decode(
            data, max_pixels=max_pixels, plan=plan, finish=finish, held=held
        )

    def _decode_ordinary(
        self,
        data: bytes,
        max_side: int,
        reserve: Callable[[int], None],
        finish: Callable[[Decoded], T],
    ) -> T | None:
        """None for a JPEG that is not ordinary."""
        try:
            data = essential(data)
            if not is_ordinary(data):
                return None
            max_pixels = self.settings.max_pixels
            return finish(
                decode.decode_image(data, max_pixels=max_pixels, max_side=max_side, reserve=reserve)
            )
        except MemoryError as error:
            raise out_of_memory("There is no memory for the image.") from error

    async def on_codec_thread(
        self,
        function: Callable[..., T],
        *arguments: object,
        held: Sequence[Share] = (),
        first: bool = False,
    ) -> T:
        """Decode or encode, away from the event loop; `held` is counted until that has ended.

        `first`: before what waits already.
        """
        return await self._codecs.run(function, *arguments, held=held, first=first)


def _not_ready(state: State) -> NotReady:
    return NotReady(
        f"The server is {state}.",
        remedy="Try again when /health/ready answers 200.",
        retry_after_s=1,
    )
