"""An engine process and a worker that do what a test says, in the test's own event loop."""

import asyncio
import mmap
import os
from contextlib import asynccontextmanager

import numpy as np

from app.observability.metrics import Metrics
from app.observability.stages import Stages
from app.scheduling.watchdog import Watchdog
from app.settings import Settings
from app.sharing.channel import Channel, listen
from app.sharing.dispatcher import Dispatcher, name_socket
from app.sharing.memory import Frame, map_memory
from app.sharing.messages import VERSION, Hello, Load, Loaded, Segment, Welcome
from app.sharing.remote import RemoteEngine
from model.engines.base import Region
from model.predictor import Canvas, Predictor
from model.weights import Metadata

DIGEST, OTHER_DIGEST = 32 * "ab", 32 * "cd"
SIZE = (32, 32)


def make_canvas(value=0, size=SIZE, output=None):
    return Canvas(np.full((*size, 3), value, np.uint8), Region(size, output or size))


class ScriptedEngine:
    """The other end of a worker's link. It listens for as long as the test runs."""

    def __init__(self, folder, number=0):
        self._listener = listen(name_socket(folder, number))
        self._listener.setblocking(False)
        self.ended = asyncio.Event()

    async def accept(self, *, pid=None):
        """Welcome the worker, as a new process would."""
        self.connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        self.messages = asyncio.Queue()
        self.ended.clear()
        self.channel = Channel(self.connection, on_message=self._receive, on_end=self.ended.set)
        hello, self._memory = await self.messages.get()
        assert hello == Hello(VERSION)
        self.channel.send(Welcome(VERSION, pid or os.getpid()))

    def _receive(self, message, descriptor):
        memory = None
        if isinstance(message, Hello | Segment) and descriptor is not None:
            memory = map_memory(descriptor)
        self.messages.put_nowait((message, memory))

    async def receive(self, kind):
        """The next message, and the frame of an image."""
        message, memory = await self.messages.get()
        assert isinstance(message, kind), message
        if not isinstance(message, Segment):
            return message
        assert isinstance(memory or self._memory, mmap.mmap)
        frame = Frame(
            memory or self._memory, message.offset, (message.height, message.width),
            (message.output_height, message.output_width),
        )  # fmt: skip
        return message, frame

    async def load(self, *, images=1, digest=DIGEST):
        message = await self.receive(Load)
        assert message.digest.hex() == digest
        self.channel.send(Loaded(message.number, images, "cpu", "a script"))

    def end(self):
        """Close the connection, as a process does that ends."""
        self.channel.close()

    def close(self):
        self._listener.close()


class Hold:
    """Counts what requests hold, like a share of a budget."""

    def __init__(self):
        self.count = 0
        self.free = asyncio.Event()

    def keep(self):
        self.count += 1
        self.free.clear()

    def let_go(self):
        self.count -= 1
        if not self.count:
            self.free.set()


class ScriptedWorker:
    """A dispatcher and its metrics."""

    def __init__(self, folder, engines, **settings):
        self.metrics = Metrics()
        self.changed = asyncio.Event()
        self.deaths = []
        self.dispatcher = Dispatcher(
            folder,
            Settings(engines=engines, **settings),
            watchdog=Watchdog(stuck_after_s=600, on_death=lambda: self.deaths.append(1)),
            metrics=self.metrics,
            changed=self.changed.set,
        )
        weights = folder / "weights"
        weights.write_bytes(b"weights")
        self.predictors = {
            digest: Predictor(RemoteEngine(weights, digest, lambda *_: []), Metadata(digest=digest))
            for digest in (DIGEST, OTHER_DIGEST)
        }

    def use(self, digest=DIGEST):
        self.dispatcher.use(self.predictors[digest])

    def submit(self, canvas, *, digest=DIGEST, held=None):
        predict = self.predictors[digest].predict
        return asyncio.create_task(self.dispatcher.submit(predict, canvas, Stages(), held=held))

    async def wait_until_ready(self):
        while not self.dispatcher.has_engine:
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def working(folder, engines=1, **settings):
    """A worker and its engines, none of which has accepted the connection."""
    scripts = [ScriptedEngine(folder, number) for number in range(engines)]
    worker = ScriptedWorker(folder, engines, **settings)
    async with worker.dispatcher.running():
        yield worker, *scripts
    for script in scripts:
        script.close()
    assert worker.metrics.registry.get_sample_value("seg_queue_depth") == 0
