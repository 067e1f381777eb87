"""An engine replica without a cluster, in a process of its own: `lone_engine WEIGHTS COMMAND`.

It computes one image, which is a command of `tests.app.faulty`, and prints how that ends.
"""

import asyncio
import pickle
import sys
from pathlib import Path

import numpy as np

from app import loading
from app.ray.engine import EngineReplica
from app.settings import Settings
from model.engines.base import Region
from model.errors import ModelError
from model.predictor import Canvas
from model.weights import read_weights
from tests.app import faulty

SIZE = (32, 32)


async def compute(weights, command):
    settings = Settings(weights=Path(weights), device="cpu", threads=1, stuck_after_s=0.5)
    replica = EngineReplica.__new__(EngineReplica)
    await replica.__init__(settings)
    canvas = Canvas(np.full((*SIZE, 3), getattr(faulty, command), np.uint8), Region(SIZE, SIZE))
    computing = asyncio.create_task(
        replica.segment(read_weights(Path(weights)).metadata.digest, canvas, False, None)
    )
    try:
        await computing
    except ModelError as error:
        print(repr(pickle.loads(pickle.dumps(error))))
    if command == "STUCK":
        await asyncio.Event().wait()  # until the watchdog ends the process
    await replica.__del__()


if __name__ == "__main__":
    loading.open_predictor = faulty.open_faulty_predictor
    asyncio.run(compute(*sys.argv[1:]))
