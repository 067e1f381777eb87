"""What a load costs: the processor time of the server, and of other processes on its cores.

Knows nothing of the kind of load.
"""

import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.connection import Request
from benchmarks.load import run_closed_loop
from benchmarks.process import Server
from benchmarks.results import Load
from benchmarks.watch import ProcessTree


@dataclass(frozen=True, slots=True)
class Measured:
    """A load, and the processor seconds that the server and other processes used meanwhile.

    Only the server's cores count.
    """

    load: Load
    server_cpu_s: float
    others_cpu_s: float

    @property
    def cpu_ms_per_answer(self) -> float:
        return 1000 * self.server_cpu_s / self.load.answered


def measure(server: Server, run: Callable[[], Load]) -> Measured:
    """Run the load, and count processor time: the server's, and that of others on its cores.

    The caller does not count as one of the others.
    """
    pid = server.process.pid
    cores = os.sched_getaffinity(pid)
    tree = ProcessTree(pid)
    before, busy = tree.measure_cpu_s(), read_busy_s(cores)
    load = run()
    used, busy = tree.measure_cpu_s() - before, read_busy_s(cores) - busy
    shared = load.client_cpu_s if cores & os.sched_getaffinity(0) else 0.0
    return Measured(load, used, max(0.0, busy - used - shared))


def measure_closed_loop(
    server: Server, requests: Sequence[Request], *, callers: int, seconds: float
) -> Measured:
    loop = partial(run_closed_loop, callers=callers, seconds=seconds)
    return measure(server, partial(loop, server.address, requests))


def read_busy_s(cores: Container[int]) -> float:
    """Return the seconds since the machine's start in which these cores were busy or stolen."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name[:3] == "cpu" and name[3:] and int(name[3:]) in cores:
            idle, waiting = int(values[3]), int(values[4])
            ticks += sum(map(int, values[:8])) - idle - waiting
    return ticks / os.sysconf("SC_CLK_TCK")
