"""What our server takes of a machine: time to start, memory, processor time when idle, disk.

Reads Linux' /proc of a server in a process of its own; knows nothing of what the server does.
"""

import argparse
import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from benchmarks.load import Address, Load, closed_loop, upload_request
from benchmarks.photos import TWELVE_MEGAPIXELS, VOC_SIZE, made_photos
from benchmarks.report import Cell, table, write
from benchmarks.server import OUR_PATH, REPOSITORY, Row, our_server

MIB = 2**20
SLIM_REQUIREMENTS = REPOSITORY / "deploy" / "requirements" / "base.txt"
SLIM_PACKAGES = ("app", "model")

# After the last answer: threads that spin for a moment, connections that are being closed.
SETTLE_S = 2


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    starts: int = 5
    callers: int = 16
    load_seconds: float = 15
    idle_seconds: float = 30
    large_size: tuple[int, int] = TWELVE_MEGAPIXELS
    large_requests: int = 3

    @property
    def large_name(self) -> str:
        height, width = self.large_size
        return f"{height * width / 1e6:.2g} megapixels"


@dataclass(slots=True)
class Figures:
    """One value for each start; sizes in bytes."""

    ready_s: list[float] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    large_peak: list[int] = field(default_factory=list)
    large_first_s: list[float] = field(default_factory=list)
    large_later_s: list[float] = field(default_factory=list)
    load_peak: list[int] = field(default_factory=list)
    after_load: list[int] = field(default_factory=list)
    idle_share: list[float] = field(default_factory=list)


class ProcessTree:
    """A process and all that it started, as the kernel accounts for them."""

    def __init__(self, pid: int) -> None:
        self.pids = _with_descendants(pid)

    def resident_bytes(self) -> int:
        return sum(_status_bytes(pid, "VmRSS") for pid in self.pids)

    def peak_bytes(self) -> int:
        """The largest resident memory since `reset_peak`; of several processes, their sum."""
        return sum(_status_bytes(pid, "VmHWM") for pid in self.pids)

    def reset_peak(self) -> None:
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): 5 resets VmHWM

    def descriptors(self) -> int:
        return sum(_entries(pid, "fd") for pid in self.pids)

    def threads(self) -> int:
        return sum(_entries(pid, "task") for pid in self.pids)

    def cpu_s(self) -> float:
        """Processor time so far, user and system, to the nanosecond: /proc has 10 ms ticks."""
        return sum(time.clock_gettime(_cpu_clock(pid)) for pid in self.pids)


def _with_descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]
    return [pid, *(descendant for child in children for descendant in _with_descendants(child))]


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"/proc/{pid}/status has no {name}")


def _entries(pid: int, folder: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{folder}").iterdir())


def _cpu_clock(pid: int) -> int:
    """What clock_getcpuclockid(3) returns, which Python has for threads only."""
    return (~pid << 3) | 2


def main() -> None:
    plan, quick, install = read_arguments()
    small = [upload_request(OUR_PATH, photo) for photo in made_photos(plan.callers)]
    large = [upload_request(OUR_PATH, photo) for photo in made_photos(1, plan.large_size)]
    figures = Figures()
    start_once(Figures())  # reads the files from disk, so that every measured start finds them
    for number in range(plan.starts):
        start_once(figures, large=large, count=plan.large_requests)
        load_once(figures, plan, small, idle=number == plan.starts - 1)
    installed = installed_bytes() if install else None
    report(plan, figures, installed, quick=quick)


def read_arguments() -> tuple[Plan, bool, bool]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, and nothing is written")
    parser.add_argument("--starts", type=int, default=Plan.starts, help="rounds, each two starts")
    parser.add_argument("--idle-seconds", type=float, default=Plan.idle_seconds)
    parser.add_argument("--load-seconds", type=float, default=Plan.load_seconds)
    parser.add_argument(
        "--install", action="store_true", help="install the slim variant to measure its size"
    )
    given = parser.parse_args()
    if given.quick:
        plan = Plan(
            starts=1, callers=4, load_seconds=0.5, idle_seconds=2,
            large_size=VOC_SIZE, large_requests=2,
        )  # fmt: skip
    else:
        plan = Plan(
            starts=given.starts, idle_seconds=given.idle_seconds, load_seconds=given.load_seconds
        )
    return plan, given.quick, given.install


def start_once(figures: Figures, *, large: Sequence[bytes] = (), count: int = 0) -> None:
    """A fresh server, and large photos one after the other, as its first requests."""
    with our_server() as program:
        tree = ProcessTree(program.pid)
        figures.ready_s.append(program.seconds_to_ready)
        figures.ready.append(tree.resident_bytes())
        if not large:
            return
        tree.reset_peak()
        load = loaded(program.address, large, callers=1, count=count)
        figures.large_peak.append(tree.peak_bytes())
        first, *later = [sample.seconds for sample in load.samples]
        figures.large_first_s.append(first)
        figures.large_later_s += later


def load_once(figures: Figures, plan: Plan, requests: Sequence[bytes], *, idle: bool) -> None:
    """Another fresh server, and many callers with small photos."""
    with our_server() as program:
        tree = ProcessTree(program.pid)
        figures.ready_s.append(program.seconds_to_ready)
        tree.reset_peak()
        loaded(program.address, requests, callers=plan.callers, seconds=plan.load_seconds)
        figures.load_peak.append(tree.peak_bytes())
        time.sleep(SETTLE_S)
        figures.after_load.append(tree.resident_bytes())
        if idle:
            figures.idle_share.append(idle_share(tree, plan.idle_seconds))


def loaded(
    address: Address,
    requests: Sequence[bytes],
    *,
    callers: int,
    count: int | None = None,
    seconds: float = float("inf"),
) -> Load:
    load = asyncio.run(
        closed_loop(address, requests, callers=callers, count=count, seconds=seconds)
    )
    assert set(load.statuses) == {HTTPStatus.OK}, f"statuses {load.statuses}"
    return load


def idle_share(tree: ProcessTree, seconds: float) -> float:
    """The part of one core that is used while nobody asks for anything."""
    used, started = tree.cpu_s(), time.perf_counter()
    time.sleep(seconds)
    return (tree.cpu_s() - used) / (time.perf_counter() - started)


def installed_bytes() -> dict[str, int]:
    """What `du` says of the slim variant, as the Dockerfile makes it: environment and code."""
    with tempfile.TemporaryDirectory() as folder:
        environment, code = Path(folder) / "venv", Path(folder) / "code"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        python = str(environment / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
        install = ["install", "--quiet", "--require-hashes", "-r", str(SLIM_REQUIREMENTS)]
        subprocess.run([*pip, *install], check=True)
        for package in SLIM_PACKAGES:
            shutil.copytree(
                REPOSITORY / package, code / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        return {"environment": disk_bytes(environment), "code and weights": disk_bytes(code)}


def disk_bytes(folder: Path) -> int:
    """Blocks that the files take, each file once, however many names it has."""
    found = {(s.st_dev, s.st_ino): s.st_blocks for s in map(Path.lstat, folder.rglob("*"))}
    return 512 * sum(found.values())


def report(plan: Plan, figures: Figures, installed: dict[str, int] | None, *, quick: bool) -> None:
    all_rows = rows(plan, figures, installed)
    if quick:
        print(table(all_rows))
        return
    write(
        "memory",
        "What our server takes of a machine",
        all_rows,
        starts=plan.starts,
        callers=plan.callers,
        load_seconds=plan.load_seconds,
        idle_seconds=plan.idle_seconds,
        ready_s=figures.ready_s,
        resident_at_ready_bytes=figures.ready,
        load_peak_bytes=figures.load_peak,
        large_peak_bytes=figures.large_peak,
        large_first_s=figures.large_first_s,
        large_later_s=figures.large_later_s,
    )


def rows(plan: Plan, figures: Figures, installed: dict[str, int] | None) -> list[Row]:
    height, width = VOC_SIZE
    load = f"{plan.callers} callers, {width} x {height}"
    large = f"one JPEG of {plan.large_name}"
    adds = [peak - ready for peak, ready in zip(figures.large_peak, figures.ready, strict=True)]
    found = [
        row("from process start to ready, s", statistics.median(figures.ready_s)),
        row("resident at ready, MiB", median_mib(figures.ready)),
        row(f"peak under load ({load}), MiB", median_mib(figures.load_peak)),
        row("resident after that load, MiB", median_mib(figures.after_load)),
        row(f"peak while answering {large}, MiB", median_mib(figures.large_peak)),
        row("which that adds to resident at ready, MiB", median_mib(adds)),
        row(f"{large}, upload to mask, first of a server, s", median(figures.large_first_s)),
        row(f"{large}, upload to mask, later ones, s", median(figures.large_later_s)),
        row(f"idle, % of a core over {plan.idle_seconds:g} s", idle_cell(figures.idle_share)),
    ]
    for part, size in (installed or {}).items():
        found.append(row(f"installed, slim: {part}, MiB", round(size / MIB, 1)))
    return found


def row(figure: str, value: Cell) -> Row:
    return {"figure": figure, "value": value}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def median_mib(sizes: Sequence[int]) -> float:
    return statistics.median(sizes) / MIB


def idle_cell(shares: Sequence[float]) -> str:
    return f"{100 * median(shares):.2f}"


if __name__ == "__main__":
    main()
