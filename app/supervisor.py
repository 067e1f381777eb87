"""Several processes that serve on the same sockets, each replaced when it ends.

Does nothing but wait for signals; knows nothing of HTTP. Its workers' metrics are in files of a
temporary folder, which prometheus_client has to be told of before it is imported.
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

import structlog

from app import sockets
from app.settings import PREFIX, Settings
from model.engines.base import usable_cores

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}

WORKER = "app.worker"
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


class Supervisor:
    """Owns the sockets and the workers."""

    def __init__(self, settings: Settings) -> None:
        """Raises OSError where it cannot listen."""
        self._settings = settings
        self._sockets = sockets.bind(settings)
        self._folder = tempfile.mkdtemp(prefix="segmentation-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._folder
        from app.metrics import SHARED, Metrics

        assert SHARED, "something has imported app.metrics before"
        self._restarts = Metrics().engine_restarts
        self._has_replaced = False
        self._born: dict[subprocess.Popen[bytes], float] = {}
        self._due: list[float] = []

    def run(self) -> int:
        """Until SIGTERM or Ctrl-C; what the process should exit with."""
        # Blocked, they wait until they are asked for: none is missed, none interrupts.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._due = [time.monotonic()] * self._settings.workers
            return self._watch()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self) -> int:
        while True:
            for due in [due for due in self._due if due <= time.monotonic()]:
                self._due.remove(due)
                self._start()
            arrived = self._next_signal()
            if arrived in (signal.SIGTERM, signal.SIGINT):
                return self._stop()
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
        info = signal.sigtimedwait(SIGNALS, max(0, min(self._due) - time.monotonic()))
        return signal.Signals(info.si_signo) if info else None

    def _start(self) -> None:
        descriptors = [bound.fileno() for bound in self._sockets]
        threads = self._settings.threads or max(1, usable_cores() // self._settings.workers)
        worker = subprocess.Popen(  # noqa: S603, nothing of it is a caller's
            [sys.executable, "-m", WORKER, *map(str, descriptors)],
            pass_fds=descriptors,
            env=os.environ | {f"{PREFIX}THREADS": str(threads)},
            preexec_fn=_become_worker,
        )
        self._born[worker] = time.monotonic()
        log.info("worker started", worker=worker.pid)

    def _replace(self, worker: subprocess.Popen[bytes]) -> None:
        from prometheus_client import multiprocess

        now = time.monotonic()
        has_lived_s = now - self._born.pop(worker)
        log.error("worker ended", worker=worker.pid, status=worker.returncode)
        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
        self._restarts.inc()
        self._has_replaced = True
        self._due.append(now if has_lived_s >= SHORT_LIFE_S else now + PAUSE_S)

    def _stop(self) -> int:
        """0 if all workers ended well; those that have not started yet do by the signal."""
        for bound in self._sockets:
            bound.close()  # who is not accepted by a worker now shall not wait
        _tell(self._born, signal.SIGTERM)
        last = time.monotonic() + self._settings.drain_timeout_s + LONGER_THAN_DRAIN_S
        for worker in self._born:
            try:
                worker.wait(max(0, last - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("worker killed", worker=worker.pid)
                worker.kill()
                worker.wait()
        return int(any(worker.returncode not in (0, -signal.SIGTERM) for worker in self._born))


def _tell(workers: Iterable[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for worker in workers:
        worker.send_signal(number)


_libc = ctypes.CDLL(None)


def _become_worker() -> None:
    """In the new process: signals as usual, and SIGTERM when the supervisor dies: no orphans."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
