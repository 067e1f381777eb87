"""The supervisor: starts workers on shared sockets, and restarts those that exit.

Otherwise it only waits for signals. A temporary folder holds the workers' metrics and shared state.
Knows nothing of HTTP.
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
from functools import partial
from pathlib import Path

import structlog
from prometheus_client.multiprocess import mark_process_dead

from app.observability.metrics import Metrics
from app.observability.peers import Peers
from app.process import sockets
from app.settings import PREFIX, Settings
from model.engines.base import count_usable_cores

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}

WORKER = f"{__package__}.worker"
"""The module that each worker runs."""

CANNOT_START = {1, 2}
"""The exit statuses of a worker that cannot start, and would fail again."""

SHORT_LIFE_S = 10
PAUSE_S = 2
"""A worker that lived less than SHORT_LIFE_S is restarted after this pause."""

LONGER_THAN_DRAIN_S = 5
"""The seconds after the drain's limit at which a worker that has not exited is killed."""

PR_SET_PDEATHSIG = 1
"""This is an option of prctl(2)."""

log = structlog.get_logger("segmentation")


@dataclass(frozen=True, slots=True)
class _Start:
    """The start of a worker: its slot, and when it was started, on the monotonic clock."""

    number: int
    at: float


class Supervisor:
    """Owns the sockets and the workers."""

    def __init__(self, settings: Settings) -> None:
        """Bind the sockets and block the signals. Raises ListenError and OSError."""
        # Blocked signals stay pending until `run` waits for them: none gets lost or interrupts.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._settings = settings
        self._sockets = sockets.bind(settings, listening=False)  # the first ready worker listens
        self._peers = Peers.create(
            Path(tempfile.mkdtemp(prefix="segmentation-metrics-")), workers=settings.workers
        )
        self._restarts = Metrics(self._peers).engine_restarts
        self._has_replaced = False
        self._starts: dict[subprocess.Popen[bytes], _Start] = {}
        self._due: dict[int, float] = {}
        """When to start a worker, on the monotonic clock, by slot."""

    def run(self) -> int:
        """Supervise until SIGTERM or Ctrl-C, and return the exit status."""
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
            arrived = self._await_signal()
            if arrived in (signal.SIGTERM, signal.SIGINT):
                return self._stop(was_interrupted=arrived == signal.SIGINT)
            if arrived == signal.SIGHUP:
                _send_signal(self._starts, signal.SIGHUP)
            for worker in [worker for worker in self._starts if worker.poll() is not None]:
                if worker.returncode in CANNOT_START and not self._has_replaced:
                    self._stop()
                    return worker.returncode
                self._replace(worker)

    def _await_signal(self) -> signal.Signals | None:
        """Wait for a signal; return None if a worker is due before one arrives."""
        if not self._due:
            return signal.Signals(signal.sigwait(SIGNALS))
        return _await_signal_until(min(self._due.values()))

    def _start(self, number: int) -> None:
        descriptors = [bound.fileno() for bound in self._sockets]
        threads = self._settings.threads or max(1, count_usable_cores() // self._settings.workers)
        arguments = [self._peers.folder, number, *descriptors]
        worker = subprocess.Popen(  # noqa: S603, nothing in it comes from a client
            [sys.executable, "-m", WORKER, *map(str, arguments)],
            pass_fds=descriptors,
            env=os.environ | {f"{PREFIX}THREADS": str(threads)},
            preexec_fn=partial(become_worker, os.getpid()),
        )
        self._starts[worker] = _Start(number, time.monotonic())
        self._peers.assign(number, worker.pid)
        log.info("worker started", worker=worker.pid)

    def _replace(self, worker: subprocess.Popen[bytes]) -> None:
        now = time.monotonic()
        start = self._starts.pop(worker)
        self._peers.assign(start.number, 0)
        log.error("worker ended", worker=worker.pid, status=worker.returncode)
        mark_process_dead(worker.pid, self._peers.folder)  # type: ignore[no-untyped-call]
        self._restarts.inc()
        self._has_replaced = True
        self._due[start.number] = now if now - start.at >= SHORT_LIFE_S else now + PAUSE_S

    def _stop(self, *, was_interrupted: bool = False) -> int:
        """Stop all workers; return 0 if all exited normally, or by SIGTERM while loading."""
        self._peers.take_requests(False)
        for bound in self._sockets:
            bound.close()  # refuses connections that no worker has accepted
        _send_signal(self._starts, signal.SIGTERM)
        self._await_end(was_interrupted=was_interrupted)
        for worker in self._starts:
            if worker.poll() is None:
                log.error("worker killed", worker=worker.pid)
                worker.kill()
                worker.wait()
        return int(any(worker.returncode not in (0, -signal.SIGTERM) for worker in self._starts))

    def _await_end(self, *, was_interrupted: bool) -> None:
        """Wait for all workers to exit, until the drain's limit or a second Ctrl-C."""
        last = time.monotonic() + self._settings.drain_timeout_s + LONGER_THAN_DRAIN_S
        while any(worker.poll() is None for worker in self._starts):
            arrived = _await_signal_until(last)
            if arrived is None or (arrived == signal.SIGINT and was_interrupted):
                return
            was_interrupted = was_interrupted or arrived == signal.SIGINT


def _await_signal_until(moment: float) -> signal.Signals | None:
    """Wait for a signal; return None at `moment`, a reading of the monotonic clock."""
    info = signal.sigtimedwait(SIGNALS, max(0, moment - time.monotonic()))
    return signal.Signals(info.si_signo) if info else None


def _send_signal(workers: Iterable[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for worker in workers:
        worker.send_signal(number)


_libc = ctypes.CDLL(None)


def become_worker(supervisor: int) -> None:
    """Prepare the new process: it receives SIGTERM when the supervisor dies, and ignores Ctrl-C.

    A terminal sends Ctrl-C to all processes, but only the supervisor handles it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # it died before the call: no signal will come
        os._exit(0)
