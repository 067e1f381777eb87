"""A simulated server: admission, codec threads, batcher and engine, with the rules of the real one.

It follows app/scheduling and model/engines/native_engine.py; tests compare them. Knows nothing of
how the times were measured, or of the load. Times are simulated seconds.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from simpy import Environment, Event, Resource

from app.codecs.pool import THREADS_ON_CPU
from app.scheduling.admission import NEWEST_WEIGHT
from app.settings import Settings
from benchmarks.scale.cores import Cores

Steps = Generator[Event, Any, Any]


class Ending(StrEnum):
    ANSWERED = "answered"
    REFUSED = "refused"
    EXPIRED = "expired"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds that one request needs: of the event loop, and of one core in each stage.

    `inference_s` is with one thread, while others run; `alone_s` with all threads.
    """

    loop_s: float
    decode_s: float
    inference_s: float
    alone_s: float
    encode_s: float


def get_default(setting: str) -> Any:
    return Settings.model_fields[setting].default


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings, with the service's defaults; `refusal_s` is what a 503 costs the event loop."""

    cores: int = 2
    taken_cores: float = 0.0
    codec_threads: int = THREADS_ON_CPU
    max_queue: int = field(default_factory=lambda: get_default("max_queue"))
    deadline_s: float = field(default_factory=lambda: get_default("deadline_s"))
    refusal_s: float = 0.00027


class Engine(Protocol):
    callers_at_once: int
    images_per_call: int

    def compute(self, batch: Sequence[Work]) -> Steps: ...


class CpuEngine:
    """A caller who is alone has all threads, and others wait for it; several have one each."""

    images_per_call = 1

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self.callers_at_once = self._free = self._count = cores.count + 1
        self._callers = 0
        self._changed = cores.environment.event()

    def compute(self, batch: Sequence[Work]) -> Steps:
        (work,) = batch
        self._callers += 1
        while not self._free:
            yield self._changed
        alone = self._callers == 1
        taken = self._count if alone else 1
        self._free -= taken
        if alone:
            yield self._cores.run(work.alone_s, threads=self._cores.count)
        else:
            yield self._cores.run(work.inference_s)
        self._callers -= 1
        self._free += taken
        self._changed.succeed()
        self._changed = self._cores.environment.event()


class DeviceEngine:
    """A device beside the cores: a call takes a fixed time and a time for each image."""

    def __init__(
        self, environment: Environment, *, images_per_call: int, image_s: Callable[[Work], float],
        call_s: float = 0.0, callers: int = 1,
    ) -> None:  # fmt: skip
        self._environment = environment
        self._image_s, self._call_s = image_s, call_s
        self.images_per_call, self.callers_at_once = images_per_call, callers

    def compute(self, batch: Sequence[Work]) -> Steps:
        yield self._environment.timeout(self._call_s + sum(map(self._image_s, batch)))


class Batcher:
    """No timer: a batch is whatever waits when a caller of the engine is free, oldest first.

    All images have one size here, so there is one queue.
    """

    def __init__(self, environment: Environment, engine: Engine) -> None:
        self._environment = environment
        self._engine = engine
        self._free_callers = engine.callers_at_once
        self._queue: deque[tuple[Work, Event]] = deque()
        self.batch_sizes: list[int] = []

    def submit(self, work: Work) -> Event:
        """Return the event that the mask is ready."""
        ready = self._environment.event()
        self._queue.append((work, ready))
        self._start()
        return ready

    def _start(self) -> None:
        while self._queue and self._free_callers:
            self._free_callers -= 1
            self._environment.process(self._compute(self.take_batch()))

    def take_batch(self) -> list[tuple[Work, Event]]:
        count = min(self._engine.images_per_call, len(self._queue))
        self.batch_sizes.append(count)
        return [self._queue.popleft() for _ in range(count)]

    def _compute(self, batch: Sequence[tuple[Work, Event]]) -> Steps:
        yield from self._engine.compute([work for work, _ in batch])
        for _, ready in batch:
            ready.succeed()
        self._free_callers += 1
        self._start()


class Admission:
    """A place if one is free and the mask would be ready in time."""

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self.admitted = 0
        self._seconds_per_place = 0.0

    def has_place(self, left_s: float) -> bool:
        wait_s = (self.admitted + 1) * self._seconds_per_place
        return self.admitted < self._max_queue and not (self.admitted and wait_s > left_s)

    def update_pace(self, seconds_per_place: float) -> None:
        before = self._seconds_per_place or seconds_per_place
        self._seconds_per_place = before + NEWEST_WEIGHT * (seconds_per_place - before)


class Replica:
    """One server process. `outstanding` counts the requests that it has not ended."""

    def __init__(
        self, environment: Environment, limits: Limits,
        make_engine: Callable[[Cores], Engine] = CpuEngine,
    ) -> None:  # fmt: skip
        self._environment = environment
        self._limits = limits
        self.cores = Cores(environment, limits.cores, taken=limits.taken_cores)
        self.batcher = Batcher(environment, make_engine(self.cores))
        self.admission = Admission(limits.max_queue)
        self._codecs = Resource(environment, limits.codec_threads)
        self._loop = Resource(environment, 1)
        self.outstanding = 0

    def handle(self, work: Work) -> Steps:
        """Return the Ending of the request. The event loop works before the queue and after it."""
        due = self._environment.now + self._limits.deadline_s
        self.outstanding += 1
        ending = yield from self._handle(work, due)
        self.outstanding -= 1
        return ending

    def _handle(self, work: Work, due: float) -> Steps:
        if not self.admission.has_place(due - self._environment.now):
            yield from self._use_loop(self._limits.refusal_s)
            return Ending.REFUSED
        yield from self._use_loop(work.loop_s / 2)
        if not self.admission.has_place(due - self._environment.now):
            return Ending.REFUSED
        since = self._environment.now
        self.admission.admitted += 1
        places = self.admission.admitted
        in_time = yield from self._work(work, due)
        self.admission.admitted -= 1
        if not in_time:
            return Ending.EXPIRED
        self.admission.update_pace((self._environment.now - since) / places)
        yield from self._use_loop(work.loop_s / 2)
        return Ending.ANSWERED

    def _work(self, work: Work, due: float) -> Steps:
        """Return whether the mask was encoded by `due`. A late request ends after its stage."""
        yield from self._use_codec(work.decode_s)
        if self._environment.now <= due:
            yield self.batcher.submit(work)
        if self._environment.now <= due:
            yield from self._use_codec(work.encode_s)
        return self._environment.now <= due

    def _use_codec(self, seconds: float) -> Steps:
        with self._codecs.request() as thread:
            yield thread
            yield self.cores.run(seconds)

    def _use_loop(self, seconds: float) -> Steps:
        with self._loop.request() as turn:
            yield turn
            with self.cores.reserve():
                yield self._environment.timeout(seconds)
