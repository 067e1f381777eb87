"""The native engine's limits, and the memory that it keeps."""

import ctypes
import subprocess
import sys

import pytest

from model.classes import MAX_CLASSES
from model.engines.native import library
from model.engines.native.binding import NetworkStruct, declare
from model.errors import EngineError
from tests.conftest import REPOSITORY

KINDS = library.list_kinds()
MIB = 2**20


def native_library(kind):
    try:
        return library.prepare_kind(kind)
    except EngineError as error:
        pytest.skip(f"the native engine cannot be built here: {error}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [-1, 0, MAX_CLASSES + 1, 300, 2**31 - 1])
def test_it_starts_with_no_more_classes_than_a_mask_can_name(kind, classes):
    assert start(kind, classes=classes) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skips", [-1, 3, 2**31 - 1])
def test_it_starts_with_no_more_skips_than_an_architecture_has(kind, skips):
    assert start(kind, classes=2, skips=skips) is None


def start(kind, **numbers):
    """Start an engine for a network whose tensors must not be read."""
    native = declare(library.load(native_library(kind)))
    return native.engine_start(ctypes.byref(NetworkStruct(**numbers)), 1, False)


LARGE_CANVASES = """
import sys
from pathlib import Path

import numpy as np

from model.engines.base import Region
from model.engines.native.binding import pass_region
from model.engines.native_engine import NativeEngine
from model.weights import SHIPPED_WEIGHTS, read_weights


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


threads, size = int(sys.argv[2]), (1536, 2048)
engine = NativeEngine(read_weights(SHIPPED_WEIGHTS), Path(sys.argv[1]), threads=threads)
canvas, mask = np.full((*size, 3), 7, np.uint8), np.full(size, 7, np.uint8)
rest = canvas.ctypes.data, *size, pass_region(Region(size, size)), False, mask.ctypes.data
segment_single_threaded = engine._library.engine_segment_single_threaded
before = resident()
for workspace in range(engine.callers_at_once):
    assert segment_single_threaded(engine._engine, workspace, *rest) == 0
assert engine._library.engine_segment(engine._engine, *rest) == 0
print(resident() - before)
"""


@pytest.mark.parametrize("kind", KINDS[:1])
def test_little_memory_stays_after_large_canvases(kind):
    # Once, every workspace kept all of its 190 MiB.
    threads = 2
    ran = subprocess.run(
        [sys.executable, "-c", LARGE_CANVASES, str(native_library(kind)), str(threads)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    promised = (64 + 32 * threads + 8 * 2 * threads) * MIB
    assert int(ran.stdout) <= promised + 8 * MIB  # the threads' stacks, and what Python took
