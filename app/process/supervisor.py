"""Several processes that serve on the same sockets, each replaced when it ends.

Does nothing but wait for signals; knows nothing of HTTP. A temporary folder holds what the workers
count and what they know of each other.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client.multiprocess import mark_process_dead

from app.observability.metrics import Metrics
from app.observability.peers import Peers
from app.process import sockets
from app.settings import PREFIX, Settings
from model.engines.base import usable_cores

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}

WORKER = "app.process.worker"
"""The program of each."""

CANNOT_START = {1, 2}
"""The exit statuses of a worker that would not start the next time either."""

SHORT_LIFE_S = 10
PAUSE_S = 2
"""Before a worker that lived shorter than that is replaced: its successor may do no better."""

LONGER_THAN_DRAIN_S = 5
"""A worker that has not ended by then is killed."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""

log = structlog.get_logger("segmentation")


@dataclass(frozen=True, slots=True)
class _Born:
    number: int
    """Its place among its peers."""
    at: float


class Supervisor:
    """Owns the sockets and the workers."""

    def __init__(self, settings: Settings) -> None:
        """From here on signals wait until `run` asks for them. Raises ListenError, and OSError."""
        # Blocked, they wait until they are asked for: none is missed, none interrupts.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._settings = settings
        self._sockets = sockets.bind(settings, listening=False)  # the first warm worker listens
        self._peers = Peers.create(
            Path(tempfile.mkdtemp(prefix="segmentation-metrics-")), workers=settings.workers
        )
        self._restarts = Metrics(self._peers).engine_restarts
        self._has_replaced = False
        self._born: dict[subprocess.Popen[bytes], _Born] = {}
        self._due: dict[int, float] = {}
        """When there should be another worker in which place."""

    def run(self) -> int:
        """Until SIGTERM or Ctrl-C; what the process should exit with."""
        try:
            now = time.monotonic()
            self._due = dict.fromkeys(range(1, self._settings.workers + 1), now)
            return self._watch()
        finally:
            shutil.rmtree(self._peers.folder, ignore_errors=True)

    def _watch(self) -> int:
        while True:
            now = time.monotonic()
            for number in [number for number, due in self._due.items() if due <= now]:
                del self._due[number]
                self._start(number)
            arrived = self._next_signal()
            if arrived in (signal.SIGTERM, signal.SIGINT):
                return self._stop(was_interrupted=arrived == signal.SIGINT)
            if arrived == signal.SIGHUP:
                _tell(self._born, signal.SIGHUP)
            for worker in [worker for worker in self._born if worker.poll() is not None]:
                if worker.returncode in CANNOT_START and not self._has_replaced:
                    self._stop()
                    return worker.returncode
                self._replace(worker)

    def _next_signal(self) -> signal.Signals | None:
        """None when the pause before a new worker is over."""
        if not self._due:
            return signal.Signals(signal.sigwait(SIGNALS))
        return _signal_until(min(self._due.values()))

    def _start(self, number: int) -> None:
        descriptors = [bound.fileno() for bound in self._sockets]
        threads = self._settings.threads or max(1, usable_cores() // self._settings.workers)
        arguments = [self._peers.folder, number, *descriptors]
        worker = subprocess.Popen(  # noqa: S603, nothing of it is a caller's
            [sys.executable, "-m", WORKER, *map(str, arguments)],
            pass_fds=descriptors,
            env=os.environ | {f"{PREFIX}THREADS": str(threads)},
            preexec_fn=_become_worker,
        )
        self._born[worker] = _Born(number, time.monotonic())
        self._peers.seat(number, worker.pid)
        log.info("worker started", worker=worker.pid)

    def _replace(self, worker: subprocess.Popen[bytes]) -> None:
        now = time.monotonic()
        born = self._born.pop(worker)
        self._peers.seat(born.number, 0)
        log.error("worker ended", worker=worker.pid, status=worker.returncode)
        mark_process_dead(worker.pid, self._peers.folder)  # type: ignore[no-untyped-call]
        self._restarts.inc()
        self._has_replaced = True
        self._due[born.number] = now if now - born.at >= SHORT_LIFE_S else now + PAUSE_S

    def _stop(self, *, was_interrupted: bool = False) -> int:
        """0 if all workers ended well; those that have not started yet do by the signal."""
        self._peers.take_requests(False)
        for bound in self._sockets:
            bound.close()  # who is not accepted by a worker now shall not wait
        _tell(self._born, signal.SIGTERM)
        self._await_end(was_interrupted=was_interrupted)
        for worker in self._born:
            if worker.poll() is None:
                log.error("worker killed", worker=worker.pid)
                worker.kill()
                worker.wait()
        return int(any(worker.returncode not in (0, -signal.SIGTERM) for worker in self._born))

    def _await_end(self, *, was_interrupted: bool) -> None:
        """Of all workers; no longer than they may take, or until Ctrl-C is pressed once more."""
        last = time.monotonic() + self._settings.drain_timeout_s + LONGER_THAN_DRAIN_S
        while any(worker.poll() is None for worker in self._born):
            arrived = _signal_until(last)
            if arrived is None or (arrived == signal.SIGINT and was_interrupted):
                return
            was_interrupted = was_interrupted or arrived == signal.SIGINT


def _signal_until(moment: float) -> signal.Signals | None:
    """The next one, or None when the moment of the monotonic clock has come."""
    info = signal.sigtimedwait(SIGNALS, max(0, moment - time.monotonic()))
    return signal.Signals(info.si_signo) if info else None


def _tell(workers: Iterable[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for worker in workers:
        worker.send_signal(number)


_libc = ctypes.CDLL(None)


def _become_worker() -> None:
    """In the new process: SIGTERM when the supervisor dies, so that there are no orphans.

    A terminal sends Ctrl-C to all of them; what is to be done then the supervisor alone decides.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
