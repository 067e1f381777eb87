"""Distributes new weights to the engine processes, before the worker uses them.

Knows nothing of images.
"""

import asyncio
from collections.abc import Sequence

from app.sharing.link import Link
from app.sharing.queue import ATTEMPTS
from app.sharing.remote import RemoteEngine
from model.errors import EngineError, ModelError


async def distribute(engine: RemoteEngine, links: Sequence[Link], connected: asyncio.Event) -> None:
    """Wait until all connected engine processes have loaded the weights, and at least one has.

    Raises ModelError if one refuses them, and EngineError if all end, again and again.
    """
    for _ in range(ATTEMPTS):
        await connected.wait()
        loading = [link.load(engine) for link in links if link.is_connected]
        results = await asyncio.gather(*loading, return_exceptions=True)
        for result in results:
            if isinstance(result, ModelError):
                raise result
        if loaded := [result for result in results if not isinstance(result, BaseException)]:
            engine.describe(loaded)
            return
    raise EngineError(f"{ATTEMPTS} engine processes ended while they loaded the weights")
