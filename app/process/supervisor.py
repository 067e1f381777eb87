"""The supervisor: starts workers and engine processes, and restarts those that exit.

It owns the sockets that they listen on. Otherwise it only waits for signals. A temporary folder
holds the processes' metrics and shared state. Knows nothing of HTTP.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from prometheus_client.multiprocess import mark_process_dead

from app.observability.metrics import Metrics
from app.observability.peers import Peers
from app.process import sockets
from app.settings import PREFIX, Settings
from app.sharing.channel import listen
from app.sharing.dispatcher import name_socket
from model.engines.base import count_usable_cores

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}

WORKER = f"{__package__}.worker"
ENGINE = f"{__package__}.engine"
"""The modules that workers and engine processes run."""

CANNOT_START = {1, 2}
"""The exit statuses of a process that cannot start, and would fail again."""

SHORT_LIFE_S = 10
PAUSE_S = 2
"""A worker that lived less than SHORT_LIFE_S is restarted after this pause."""

LONGER_THAN_DRAIN_S = 5
"""The seconds after the drain's limit at which a process that has not exited is killed."""

PR_SET_PDEATHSIG = 1
"""This is an option of prctl(2)."""

log = structlog.get_logger("segmentation")


@dataclass(frozen=True, slots=True)
class _Start:
    """The start of a process: its slot, and when it was started, on the monotonic clock."""

    number: int
    at: float
    kind: str
    """"worker" or "engine"."""


Process = subprocess.Popen[bytes]


class Supervisor:
    """Owns the sockets, the workers and the engine processes."""

    def __init__(self, settings: Settings) -> None:
        """Bind the sockets and block the signals. Raises ListenError and OSError."""
        # Blocked signals stay pending until `run` waits for them: none gets lost or interrupts.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._settings = settings
        self._sockets = sockets.bind(settings, listening=False)  # the first ready worker listens
        self._peers = Peers.create(
            Path(tempfile.mkdtemp(prefix="segmentation-metrics-")),
            workers=settings.workers,
            engines=settings.engines,
        )
        self._engine_sockets = [
            listen(name_socket(self._peers.folder, number)) for number in range(settings.engines)
        ]
        self._restarts = Metrics(self._peers).engine_restarts
        self._has_replaced = False
        self._starts: dict[Process, _Start] = {}
        self._due: dict[int, float] = {}
        """The time on the monotonic clock at which to start a process, by slot."""

    def run(self) -> int:
        """Supervise until SIGTERM or Ctrl-C, and return the exit status."""
        try:
            now = time.monotonic()
            processes = self._settings.workers + self._settings.engines
            self._due = dict.fromkeys(range(1, processes + 1), now)
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
                _send_signal(self._list("worker"), signal.SIGHUP)
            for process in [process for process in self._starts if process.poll() is not None]:
                if process.returncode in CANNOT_START and not self._has_replaced:
                    self._stop()
                    return process.returncode
                self._replace(process)

    def _await_signal(self) -> signal.Signals | None:
        """Wait for a signal; return None if a process is due before one arrives."""
        if not self._due:
            return signal.Signals(signal.sigwait(SIGNALS))
        return _await_signal_until(min(self._due.values()))

    def _list(self, kind: str) -> list[Process]:
        return [process for process, start in self._starts.items() if start.kind == kind]

    def _start(self, number: int) -> None:
        settings, engine = self._settings, number - self._settings.workers - 1
        if engine < 0:
            kind, module, arguments = "worker", WORKER, [number]
            descriptors = [bound.fileno() for bound in self._sockets]
        else:
            kind, module, arguments = "engine", ENGINE, [number, engine]
            descriptors = [self._engine_sockets[engine].fileno()]
        threads = settings.threads or max(
            1, count_usable_cores() // (settings.engines or settings.workers)
        )
        process = subprocess.Popen(  # noqa: S603, nothing in it comes from a client
            [
                *(sys.executable, "-m", module),
                *map(str, (self._peers.folder, *arguments, *descriptors)),
            ],
            pass_fds=descriptors,
            env=os.environ | {f"{PREFIX}THREADS": str(threads)},
            preexec_fn=partial(become_worker, os.getpid()),
        )
        self._starts[process] = _Start(number, time.monotonic(), kind)
        self._peers.assign(number, process.pid)
        log.info(f"{kind} started", **{kind: process.pid})

    def _replace(self, process: Process) -> None:
        now = time.monotonic()
        start = self._starts.pop(process)
        self._peers.assign(start.number, 0)
        log.error(f"{start.kind} ended", **{start.kind: process.pid}, status=process.returncode)
        mark_process_dead(process.pid, self._peers.folder)  # type: ignore[no-untyped-call]
        self._restarts.inc()
        self._has_replaced = True
        self._due[start.number] = now if now - start.at >= SHORT_LIFE_S else now + PAUSE_S

    def _stop(self, *, was_interrupted: bool = False) -> int:
        """Stop all processes; return 0 if all exited normally, or by SIGTERM while loading."""
        self._peers.take_requests(False)
        for bound in self._sockets:
            bound.close()  # refuses connections that no worker has accepted
        last = time.monotonic() + self._settings.drain_timeout_s + LONGER_THAN_DRAIN_S
        self._end(self._list("worker"), last, was_interrupted=was_interrupted)
        # Until now, engine processes have computed what the workers had accepted.
        last = time.monotonic() + LONGER_THAN_DRAIN_S
        self._end(self._list("engine"), last, was_interrupted=was_interrupted)
        return int(any(one.returncode not in (0, -signal.SIGTERM) for one in self._starts))

    def _end(self, processes: Sequence[Process], last: float, *, was_interrupted: bool) -> None:
        """Send SIGTERM, and kill those that run at `last`, or at a second Ctrl-C."""
        _send_signal(processes, signal.SIGTERM)
        _await_end(processes, last, was_interrupted=was_interrupted)
        for process in processes:
            if process.poll() is None:
                kind = self._starts[process].kind
                log.error(f"{kind} killed", **{kind: process.pid})
                process.kill()
                process.wait()


def _await_end(processes: Sequence[Process], last: float, *, was_interrupted: bool) -> None:
    """Wait for all processes to exit, until `last` or a second Ctrl-C."""
    while any(process.poll() is None for process in processes):
        arrived = _await_signal_until(last)
        if arrived is None or (arrived == signal.SIGINT and was_interrupted):
            return
        was_interrupted = was_interrupted or arrived == signal.SIGINT


def _await_signal_until(moment: float) -> signal.Signals | None:
    """Wait for a signal; return None at `moment`, a reading of the monotonic clock."""
    info = signal.sigtimedwait(SIGNALS, max(0, moment - time.monotonic()))
    return signal.Signals(info.si_signo) if info else None


def _send_signal(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        process.send_signal(number)


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
