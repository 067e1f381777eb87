"""What a file costs to decode: processor time, memory and lines of log, in a fresh decoder process.

Knows nothing of how the file was made.
"""

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from app.codecs.decoder_process import DecoderProcess
from app.errors import BodyTooLarge, RequestError
from app.http.problems import PROBLEMS
from app.settings import Settings
from benchmarks.watch import ProcessTree
from model.scaling import find_content_size, scale_to
from tests.app.corpus import picture, saved


@dataclass(frozen=True)
class Cost:
    """`pixels` is 0 for a file that was refused before its size was read."""

    bytes: int
    seconds: float
    memory_bytes: int
    log_lines: int
    outcome: str
    pixels: int


def measure(data: bytes, side: int) -> Cost:
    """Decode the file in a fresh decoder process; `side` is its max_side."""
    limits = Settings()
    if len(data) > limits.max_body_bytes:
        return Cost(len(data), 0, 0, 0, PROBLEMS[BodyTooLarge].name, 0)
    size = (0, 0)

    def choose_size(stored: tuple[int, int]) -> tuple[int, int]:
        nonlocal size
        size = stored
        return find_content_size(stored, scale_to(side))

    received = 0
    with counting_lines() as count_lines:
        process = DecoderProcess()
        first = saved(picture(), "PNG")
        process.decode(first, max_pixels=limits.max_pixels, choose_size=lambda size: size)
        meter = Meter(process)
        try:
            decoded = process.decode(data, max_pixels=limits.max_pixels, choose_size=choose_size)
            received, outcome = decoded.pixels.nbytes, "{} x {}".format(*decoded.size)
        except RequestError as problem:
            outcome = PROBLEMS[type(problem)].name
        seconds, memory_bytes = meter.end()
        lines = count_lines()
    memory_bytes = max(0, memory_bytes + received - len(data))
    return Cost(len(data), seconds, memory_bytes, lines, outcome, size[0] * size[1])


class Meter:
    """Measures what a decoder process uses from its creation to `end`."""

    def __init__(self, process: DecoderProcess) -> None:
        self._process = process
        self._tree = ProcessTree(process.pid)
        self._tree.reset_peak()
        self._cpu_s, self._held_bytes = self._tree.measure_cpu_s(), self._tree.measure_peak_bytes()
        self._ended_s = measure_ended_children_s()

    def end(self) -> tuple[float, int]:
        """End the process. Returns its processor time in seconds and its memory in bytes.

        If the file has already ended the process, its memory is unknown and counts as 0.
        """
        seconds, memory_bytes = 0.0, 0
        with suppress(OSError, AssertionError):  # the process may have ended already
            seconds = self._tree.measure_cpu_s() - self._cpu_s
            memory_bytes = self._tree.measure_peak_bytes() - self._held_bytes
        self._process.end()
        if self._process.ended_by is not None:
            seconds = measure_ended_children_s() - self._ended_s - self._cpu_s
        return seconds, memory_bytes


@contextmanager
def counting_lines() -> Iterator[Callable[[], int]]:
    """Count the lines that this process and its decoders write where a server writes its log."""
    kept = [os.dup(descriptor) for descriptor in LOG_DESCRIPTORS]
    with tempfile.TemporaryFile() as file:

        def count() -> int:
            file.seek(0)
            return sum(1 for _ in file)

        sys.stdout.flush()
        for descriptor in LOG_DESCRIPTORS:
            os.dup2(file.fileno(), descriptor)
        try:
            yield count
        finally:
            sys.stdout.flush()
            for descriptor, old in zip(LOG_DESCRIPTORS, kept, strict=True):
                os.dup2(old, descriptor)
                os.close(old)


LOG_DESCRIPTORS = (1, 2)  # standard output and standard error


def measure_ended_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
