"""The running service: owns the state, the budgets, the batcher and the codecs of one process.

It starts, reloads and drains them. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from app.codecs.pool import CodecPool, count_codec_threads
from app.errors import Overloaded, ReloadFailed
from app.http.drain import Drain
from app.loading import Start, explain_failure, load, start_here
from app.observability.gpus import find_gpus
from app.observability.metrics import Metrics
from app.observability.peers import Peers
from app.scheduling.admission import Admission
from app.scheduling.batcher import Batcher
from app.scheduling.budget import Budget
from app.scheduling.coalescing import Coalesced
from app.scheduling.threads import end_threads
from app.scheduling.watchdog import Watchdog
from app.settings import Settings
from app.sharing.dispatcher import Scheduler, open_dispatcher
from app.state import State, make_not_ready
from model.predictor import Predictor

log = structlog.get_logger("segmentation")

RELOAD_LIMIT_S = 600
"""The limit of a reload, so that one that hangs, as on a dead network disk, blocks no later one."""


class Service:
    """The parts of a running server, and its state.

    `started` resolves when the service is ready; if the start fails, it has the exception. `died`
    resolves when the engine is stuck for good: the process should exit and be replaced.
    """

    def __init__(
        self, settings: Settings, peers: Peers | None = None, *, start: Start = start_here
    ) -> None:
        """`start` makes a predictor of weights; its engine may be in another process."""
        self.settings = settings
        self.peers = peers
        gpus = find_gpus()
        self.metrics = Metrics(peers, gpus=gpus)
        self.changed: Callable[[], None] = lambda: None
        """This function is called when `takes_requests` may have changed."""
        self.state = State.LOADING
        self.draining = Drain()
        self.started: Future[None] = Future()
        self.died: Future[None] = Future()
        self._open_budgets(settings)
        self.codecs = CodecPool(
            count_codec_threads(settings, has_gpu=gpus is not None),
            max_pixels=settings.max_pixels,
            metrics=self.metrics,
        )
        self._watchdog = Watchdog(
            stuck_after_s=settings.stuck_after_s,
            on_death=self._die,
            on_change=lambda: self.changed(),
        )
        self._predictor: Predictor | None = None
        self._batcher: Scheduler | None = None
        self._dispatcher = open_dispatcher(
            settings,
            peers,
            watchdog=self._watchdog,
            metrics=self.metrics,
            changed=lambda: self.changed(),
        )
        self._start_predictor = start if self._dispatcher is None else self._dispatcher.start
        self._reloads = Coalesced(self._reload)
        self.tell_others: Callable[[], None] = lambda: None
        """This function makes the other workers reload, too, if there are any."""

    def _open_budgets(self, settings: Settings) -> None:
        self.admission = Admission(
            max_queue=settings.max_queue,
            max_queue_pixels=settings.max_queue_pixels,
            metrics=self.metrics,
        )
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

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the service in the background, and stop it at the end of the block.

        The block begins at once, so that probes are answered during the start.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.codecs.running(left_s=self._find_left_s))
            if self._dispatcher is not None:
                await stack.enter_async_context(self._dispatcher.running())
            starting = asyncio.create_task(self._start(stack), name="start")
            try:
                yield
            finally:
                self.drain()
                await asyncio.wait([starting], timeout=self.draining.left_s)
                starting.cancel()
                await asyncio.wait([starting])

    def _find_left_s(self) -> float | None:
        """Return the seconds to wait for threads: 0 if one is stuck, None for no limit."""
        return self.draining.left_s if self._watchdog.is_healthy else 0

    async def _end_threads(self, threads: ThreadPoolExecutor) -> None:
        await end_threads(threads, self._find_left_s())

    async def _start(self, stack: AsyncExitStack) -> None:
        try:
            predictor = await load(self.settings, start=self._start_predictor)
            if self._dispatcher is not None:
                self._batcher = self._dispatcher
            else:
                self._batcher = Batcher.for_engine(
                    predictor.engine,
                    max_batch_pixels=self.settings.max_batch_pixels,
                    watchdog=self._watchdog,
                    metrics=self.metrics,
                )
                stack.push_async_callback(self._end_threads, self._batcher.threads)
                await stack.enter_async_context(self._batcher.running())
        except Exception as error:
            self._enter(State.FAILED)
            self.started.set_exception(error)
            return
        self._use(predictor)
        if self.state is State.LOADING:
            self._enter(State.READY)
        self.started.set_result(None)

    async def reload(self) -> Predictor:
        """Load the weights file again, and use the new weights for new requests.

        Admitted requests keep the weights that they started with. Raises ReloadFailed if the new
        weights do not work, and Overloaded if they cannot be tried now; the service then keeps the
        old ones. Raises NotReady during the start and the drain. Calls during a reload share the
        next reload.
        """
        return await self._reloads.run()

    async def _reload(self) -> Predictor:
        if self.state is not State.READY:
            raise make_not_ready(self.state)
        before = self.predictor.metadata.digest
        try:
            async with asyncio.timeout(RELOAD_LIMIT_S):
                predictor = await load(self.settings, start=self._start_predictor)
        except Overloaded as error:  # says nothing of the weights: the caller may try again
            self.metrics.reloads.labels("kept").inc()
            log.warning("reload refused", weights=before, reason=str(error))
            raise
        except Exception as error:
            self.metrics.reloads.labels("kept").inc()
            log.exception("reload failed", weights=before)
            raise ReloadFailed(
                _explain_reload(error),
                remedy="Correct the weights file; the server still uses the old weights.",
            ) from error
        self._use(predictor)
        self.metrics.reloads.labels("swapped").inc()
        log.info("reloaded", weights=predictor.metadata.digest, before=before)
        return predictor

    def _use(self, predictor: Predictor) -> None:
        self._predictor = predictor
        if self._dispatcher is not None:
            self._dispatcher.use(predictor)
        self.metrics.show_weights(
            digest=predictor.metadata.digest, engine=predictor.engine.description
        )

    def drain(self) -> None:
        """Refuse new requests from now on."""
        if self.state is not State.FAILED:
            self._enter(State.DRAINING)

    def _enter(self, state: State) -> None:
        self.state = state
        self.metrics.ready.set(state is State.READY)
        self.changed()

    def _die(self) -> None:
        self.drain()
        if self._batcher is not None:
            self._batcher.give_up()
        self.died.set_result(None)

    @property
    def is_alive(self) -> bool:
        """Whether the service works, or is still loading the weights."""
        if self._batcher is None:
            return self.state is not State.FAILED
        return self._batcher.is_alive

    @property
    def takes_requests(self) -> bool:
        """Whether new requests are accepted."""
        has_engine = self._dispatcher is None or self._dispatcher.has_engine
        return self.state is State.READY and self.is_alive and has_engine

    @property
    def is_stuck(self) -> bool:
        """Whether a call of the engine does not return."""
        return not self._watchdog.is_healthy

    @property
    def has_lost_device(self) -> bool:
        """Whether the engine's device fails every call, in this process only."""
        return self._batcher is not None and self._batcher.has_lost_device

    @property
    def predictor(self) -> Predictor:
        """The predictor with the current weights. Raises NotReady before they are loaded."""
        if self._predictor is None:
            raise make_not_ready(self.state)
        return self._predictor

    @property
    def batcher(self) -> Scheduler:
        """The batcher. Raises NotReady while requests are refused."""
        if self._batcher is None or self.state is not State.READY:
            raise make_not_ready(self.state)
        return self._batcher


def _explain_reload(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"Loading the weights did not end within {RELOAD_LIMIT_S} s."
    return explain_failure(error)
