"""The program, but loading the weights waits at a gate: a pipe that a test opens for writing.

`python -m tests.app.gated` runs as `python -m app`, also with workers. Each worker has its gate.
"""

import os
import sys
from pathlib import Path

import structlog

from model.predictor import open_predictor

FOLDER = "GATES"
"""The environment variable with the folder of the gates, named by the worker's place or "alone"."""

AT_THE_GATE = "at the gate"


def make_gates(folder, *names):
    """Make the gates. Returns the environment of a program that waits at them."""
    for name in names:
        os.mkfifo(folder / name)
    return {FOLDER: str(folder)}


def let_through(folder, name):
    """Let the process that waits at the gate, or is the next to arrive, continue."""
    with open(folder / name, "w"):
        pass


def open_predictor_behind_gate(*arguments, **options):
    structlog.get_logger("segmentation").info(AT_THE_GATE)
    name = sys.argv[2] if sys.argv[1:] else "alone"
    with open(Path(os.environ[FOLDER]) / name) as gate:
        gate.read()
    return open_predictor(*arguments, **options)


def main():
    from app import __main__ as program
    from app import loading
    from app.process import supervisor, worker

    supervisor.WORKER = "tests.app.gated"
    loading.open_predictor = open_predictor_behind_gate
    (worker if sys.argv[1:] else program).main()


if __name__ == "__main__":
    main()
