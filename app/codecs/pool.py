"""Decodes and encodes outside of the event loop, on threads and in decoder processes.

Threads of this process decode ordinary JPEGs. Decoder processes decode all other files, including
JPEGs that take longer. Knows nothing of HTTP or of the model.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TypeVar

from app.codecs import decode
from app.codecs.decode import Decoded
from app.codecs.decoder_process import make_out_of_memory_error
from app.codecs.decoders import DECODERS_PER_THREAD, LARGE_IMAGES_PER_THREAD, Decoders
from app.codecs.jpegs import is_ordinary
from app.codecs.stripping import JPEG_START, require_known, strip_file
from app.observability.metrics import Metrics
from app.scheduling.budget import Share
from app.scheduling.codec_threads import CodecThreads
from app.scheduling.threads import end_threads
from app.settings import Settings
from model.engines.base import Size, count_usable_cores
from model.scaling import Scaling, find_content_size

T = TypeVar("T")

THREADS_ON_CPU = 2
"""The number of codec threads beside an engine on the CPU, which needs 17 times their CPU time."""


def count_codec_threads(settings: Settings, *, has_gpu: bool) -> int:
    """Return the number of codec threads of each worker; the setting 0 chooses by the cores.

    If the engine computes on a GPU, the codecs have the cores for themselves.
    """
    if settings.codec_threads:
        return settings.codec_threads
    if has_gpu and settings.device != "cpu":
        return max(THREADS_ON_CPU, count_usable_cores() // settings.workers)
    return THREADS_ON_CPU


class CodecPool:
    """Owns `count` codec threads, and the decoder processes."""

    def __init__(self, count: int, *, max_pixels: int, metrics: Metrics) -> None:
        self._max_pixels = max_pixels
        self._threads = CodecThreads(count, gauge=metrics.codec_tasks)
        self.decoders = Decoders(
            count * DECODERS_PER_THREAD,
            max_pixels=round(count * LARGE_IMAGES_PER_THREAD * max_pixels),
            metrics=metrics,
        )

    @asynccontextmanager
    async def running(self, *, left_s: Callable[[], float | None]) -> AsyncIterator[None]:
        """End the processes and the threads at the end of the block.

        `left_s` is called then, and returns the seconds to wait for busy threads; None means no
        limit.
        """

        async def end(threads: ThreadPoolExecutor) -> None:
            await end_threads(threads, left_s())

        async with AsyncExitStack() as stack:
            stack.push_async_callback(end, self._threads.threads)
            stack.push_async_callback(end, self.decoders.threads)
            stack.callback(self.decoders.close)
            yield

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for a codec thread."""
        return self._threads.waiting

    async def decode(
        self,
        data: bytes,
        *,
        scaling: Scaling,
        reserve: Callable[[int], None],
        finish: Callable[[Decoded], T],
        held: Sequence[Share] = (),
    ) -> T:
        """Decode an image file and return what `finish` makes of it.

        `reserve` is called with the number of pixels before any is decoded, and may raise. Both
        run on a codec thread. `held` is kept until the decoding has ended.
        """
        require_known(data)
        if data.startswith(JPEG_START):
            decoded: T | None = await self.run(
                self._decode_ordinary, data, scaling, reserve, finish, held=held
            )
            if decoded is not None:
                return decoded

        def choose_size(size: Size) -> Size:
            reserve(size[0] * size[1])
            return find_content_size(size, scaling)

        with refusing_without_memory():
            return await self.decoders.decode(
                data, max_pixels=self._max_pixels, choose_size=choose_size, finish=finish, held=held
            )

    def _decode_ordinary(
        self,
        data: bytes,
        scaling: Scaling,
        reserve: Callable[[int], None],
        finish: Callable[[Decoded], T],
    ) -> T | None:
        """Return None for a JPEG that is not ordinary."""
        data = strip_file(data)
        if not is_ordinary(data):
            return None
        return finish(
            decode.decode_image(data, max_pixels=self._max_pixels, scaling=scaling, reserve=reserve)
        )

    async def run(
        self,
        function: Callable[..., T],
        *arguments: object,
        held: Sequence[Share] = (),
        first: bool = False,
    ) -> T:
        """Call the function on a codec thread; `held` is kept until it has returned.

        With `first`, the call runs before all calls that already wait. Raises Overloaded if there
        is no memory, and what the function raises.
        """
        with refusing_without_memory():
            return await self._threads.run(function, *arguments, held=held, first=first)


@contextmanager
def refusing_without_memory() -> Iterator[None]:
    """Raise Overloaded instead of MemoryError: the request may succeed beside fewer others."""
    try:
        yield
    except MemoryError as error:
        raise make_out_of_memory_error("There is no memory for the image.") from error
