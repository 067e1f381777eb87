"""What our server needs of a machine: start-up time, memory, idle processor time, disk space."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

from benchmarks import report
from benchmarks.connection import Address, Request, upload_request
from benchmarks.load import run_closed_loop
from benchmarks.photos import TWELVE_MEGAPIXELS, VOC_SIZE, make_photos
from benchmarks.process import OUR_PATH, REPOSITORY, start_our_server
from benchmarks.report import Cell, Quick, list_figures, publish, read_plan
from benchmarks.watch import MIB, ProcessTree
from model.engines.base import Size

SLIM_REQUIREMENTS = REPOSITORY / "deploy" / "requirements" / "base.txt"
SLIM_PACKAGES = ("app", "model")

# After the last response, threads spin for a moment and connections are closed.
SETTLE_S = 2

Values = defaultdict[str, list[float]]
"""The measurements of all starts, by name."""


@dataclass(frozen=True)
class Plan(report.Plan):
    starts: Annotated[int, "number of rounds, each with two starts", Quick(1)] = 5
    idle_seconds: Annotated[float, "of the idle server's processor time", Quick(2)] = 30.0
    load_seconds: Annotated[float, "of the load", Quick(0.5)] = 15.0
    install: Annotated[bool, "install the slim variant to measure its size"] = False
    callers: Annotated[int, Quick(4)] = 16
    large_size: Annotated[Size, Quick(VOC_SIZE)] = TWELVE_MEGAPIXELS
    large_requests: Annotated[int, Quick(2)] = 3


@contextmanager
def start_measured_server(values: Values) -> Iterator[tuple[Address, ProcessTree]]:
    with start_our_server() as server:
        tree = ProcessTree(server.process.pid)
        values["ready_s"].append(server.seconds_to_ready)
        values["resident_at_ready_bytes"].append(tree.measure_resident_bytes())
        tree.reset_peak()
        yield server.address, tree


def measure_large_photos(plan: Plan, values: Values, requests: Sequence[Request]) -> None:
    """Send large photos, one after the other, as the first requests of a fresh server."""
    with start_measured_server(values) as (address, tree):
        load = run_closed_loop(address, requests, callers=1, count=plan.large_requests)
        first, *later = (result.seconds for result in load.require_masks().results)
        values["large_first_s"].append(first)
        values["large_later_s"] += later
        values["large_peak_bytes"].append(tree.measure_peak_bytes())
        added = values["large_peak_bytes"][-1] - values["resident_at_ready_bytes"][-1]
        values["large_added_bytes"].append(added)


def measure_load(plan: Plan, values: Values, requests: Sequence[Request]) -> None:
    """Load a fresh server with many callers of small photos, then leave it idle."""
    with start_measured_server(values) as (address, tree):
        load = run_closed_loop(address, requests, callers=plan.callers, seconds=plan.load_seconds)
        load.require_masks()
        values["load_peak_bytes"].append(tree.measure_peak_bytes())
        time.sleep(SETTLE_S)
        values["resident_after_load_bytes"].append(tree.measure_resident_bytes())
        if not values["idle_share"]:  # measured only once, because it takes long
            values["idle_share"].append(measure_cpu_share(tree, plan.idle_seconds))


def measure_cpu_share(tree: ProcessTree, seconds: float) -> float:
    """Return the share of one core that the processes use."""
    used, started = tree.measure_cpu_s(), time.perf_counter()
    time.sleep(seconds)
    return (tree.measure_cpu_s() - used) / (time.perf_counter() - started)


def measure_installation() -> dict[str, int]:
    """Return the bytes on disk of the slim variant, installed as in the Dockerfile."""
    with tempfile.TemporaryDirectory() as folder:
        environment, code = Path(folder) / "venv", Path(folder) / "code"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        python = str(environment / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
        install = ["install", "--quiet", "--require-hashes", "-r", str(SLIM_REQUIREMENTS)]
        subprocess.run([*pip, *install], check=True)
        ignored = shutil.ignore_patterns("__pycache__")
        for package in SLIM_PACKAGES:
            shutil.copytree(REPOSITORY / package, code / package, ignore=ignored)
        return {
            "environment": measure_disk_bytes(environment),
            "code and weights": measure_disk_bytes(code),
        }


def measure_disk_bytes(folder: Path) -> int:
    """Sum the bytes of the blocks that files occupy. A file with several names counts once."""
    found = {(s.st_dev, s.st_ino): s.st_blocks for s in map(Path.lstat, folder.rglob("*"))}
    return 512 * sum(found.values())


def main() -> None:
    plan = read_plan(Plan, "memory", __doc__)
    values: Values = defaultdict(list)
    small, large = (
        [upload_request(OUR_PATH, photo) for photo in photos]
        for photos in (make_photos(plan.callers), make_photos(1, plan.large_size))
    )
    with start_our_server():  # fills the file cache, which every measured start then uses
        pass
    for _ in range(plan.starts):
        measure_large_photos(plan, values, large)
        measure_load(plan, values, small)
    height, width = plan.large_size
    photo = f"one JPEG of {height * width / 1e6:.2g} megapixels"
    load = f"{plan.callers} callers, {VOC_SIZE[1]} x {VOC_SIZE[0]}"
    idle = f"{100 * values['idle_share'][0]:.2f}"
    figures: dict[str, Cell] = {
        "from process start to ready, s": median(values["ready_s"]),
        "resident at ready, MiB": median(values["resident_at_ready_bytes"]) / MIB,
        f"peak under load ({load}), MiB": median(values["load_peak_bytes"]) / MIB,
        "resident after that load, MiB": median(values["resident_after_load_bytes"]) / MIB,
        f"peak while answering {photo}, MiB": median(values["large_peak_bytes"]) / MIB,
        "which that adds to resident at ready, MiB": median(values["large_added_bytes"]) / MIB,
        f"{photo}, upload to mask, first of a server, s": median(values["large_first_s"]),
        f"{photo}, upload to mask, later ones, s": median(values["large_later_s"]),
        f"idle, % of a core over {plan.idle_seconds:g} s": idle,
    }
    for part, size_bytes in (measure_installation() if plan.install else {}).items():
        figures[f"installed, slim: {part}, MiB"] = round(size_bytes / MIB, 1)
    rows = list_figures(figures)
    publish("memory", "What our server takes of a machine", rows, plan=plan, **values)


if __name__ == "__main__":
    main()
