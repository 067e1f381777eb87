"""A real engine that misbehaves on command: the colour of a canvas' first pixel is the command.

As a program, `python -m tests.app.faulty` is `python -m app` with this engine, and its workers too.
"""

import io
import os
import sys
import threading

import numpy as np
import structlog
from PIL import Image

from model.errors import DeviceLost
from model.predictor import open_predictor

RAISE = (250, 10, 1)
NEEDS_TOO_MUCH = (250, 10, 2)
"""Raises MemoryError, unless the image is alone in its batch."""
STUCK = (250, 10, 3)
"""Stays in the engine until `release` is set."""
DIE = (250, 10, 4)
"""Ends the process."""
LOSE_DEVICE = (250, 10, 5)
"""Makes every later call fail, as on a lost GPU."""


class FaultyEngine:
    """Computes with the given engine. Tests in the same process can inspect it."""

    def __init__(self, engine, *, images_per_call=8, callers_at_once=1):
        self.description = engine.description
        self.device = engine.device
        self.images_per_call = images_per_call
        self.callers_at_once = callers_at_once
        self.calls = []
        self.computed = 0
        self.is_stuck = threading.Event()
        self.release = threading.Event()
        self._engine = engine

    def segment(self, canvases, regions):
        self.calls.append(len(canvases))
        commands = [tuple(canvas[0, 0].tolist()) for canvas in canvases]
        if STUCK in commands:
            self.is_stuck.set()
            structlog.get_logger("segmentation").info("in the engine")
            self.release.wait()
        if RAISE in commands:
            raise RuntimeError("secret detail")
        if NEEDS_TOO_MUCH in commands and len(commands) > 1:
            raise MemoryError
        if LOSE_DEVICE in commands:
            raise DeviceLost("the GPU's context is lost: secret detail")
        if DIE in commands:
            os.abort()
        self.computed += len(canvases)
        return self._engine.segment(canvases, regions)

    def measure_confidence(self, canvases, regions):
        return self._engine.measure_confidence(canvases, regions)


def command(colour, size=(64, 64)):
    """A PNG whose colour is a command to the engine."""
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), colour, np.uint8)).save(file, "PNG")
    return file.getvalue()


def jpeg():
    """A photo without a command, which is decoded in the server's process, unlike a PNG."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (10, 200, 30)).save(file, "JPEG")
    return file.getvalue()


def open_faulty_predictor(*arguments, **options):
    predictor = open_predictor(*arguments, **options)
    predictor.engine = FaultyEngine(predictor.engine)
    return predictor


def main():
    from app import __main__ as program
    from app import loading
    from app.process import supervisor, worker

    supervisor.WORKER = "tests.app.faulty"
    supervisor.ENGINE = "tests.app.faulty_engine"
    loading.open_predictor = open_faulty_predictor
    (worker if sys.argv[1:] else program).main()


if __name__ == "__main__":
    main()
