"""Loading the weights: read, verified against the golden mask, warmed up and tried out.

Runs on a thread of its own, at the start and at each reload. Knows nothing of HTTP.
"""

import asyncio

from app.codecs.trial import try_out
from app.observability import allocator
from app.scheduling.threads import start_work_threads
from app.settings import Settings
from model.predictor import Predictor, open_predictor


async def load(settings: Settings) -> Predictor:
    """Load the weights file on a new thread. Raises what is wrong with it."""
    threads = start_work_threads(1, "load")
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, _load, settings)
    finally:
        threads.shutdown(wait=False)  # it has ended, or its caller was cancelled


def _load(settings: Settings) -> Predictor:
    predictor = open_predictor(
        settings.weights,
        engine=settings.engine,
        device=settings.device,
        threads=settings.threads,
        precision=settings.precision,
        max_side=settings.max_side,
    )
    try_out(predictor)
    allocator.give_back()
    return predictor
