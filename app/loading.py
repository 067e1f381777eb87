"""Loads the weights: reads them, compares the golden mask, warms up, and tries every answer format.

Runs on a separate thread, at the start and at each reload. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import Callable

from app.codecs.trial import try_out
from app.observability import allocator
from app.scheduling.threads import start_work_threads
from app.settings import Settings
from model.errors import ModelError
from model.predictor import EngineOptions, Predictor, open_predictor

Start = Callable[[Settings], Predictor]
"""Starts a predictor with the weights file; may raise ModelError."""


def start_here(settings: Settings, *, number: int = 0) -> Predictor:
    """Start an engine in this process, as the settings say; `number` counts those that do so."""
    options = choose_engine_options(settings)
    if number:
        options["number"] = number
    return open_predictor(settings.weights, scaling=settings.scaling, **options)


def choose_engine_options(settings: Settings) -> EngineOptions:
    """Return the settings that choose an engine, as the options of a predictor."""
    return EngineOptions(
        engine=settings.engine,
        device=settings.device,
        threads=settings.threads,
        precision=settings.precision,
    )


def explain_failure(error: Exception) -> str:
    """Return what those who asked for the weights may be told of a load that failed."""
    return str(error) if isinstance(error, ModelError) else "The weights do not work."


async def load(settings: Settings, *, start: Start = start_here) -> Predictor:
    """Load the weights file on a new thread. Raises ModelError, or what the trial raises."""
    threads = start_work_threads(1, "load")
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, _load, settings, start)
    finally:
        threads.shutdown(wait=False)  # the thread has ended, or this task was cancelled


def _load(settings: Settings, start: Start) -> Predictor:
    predictor = start(settings)
    try_out(predictor)
    allocator.give_back()
    return predictor
