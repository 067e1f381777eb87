"""No caller gets another's mask, in batcher and engine together, while some disconnect."""

import asyncio
import random

import numpy as np
import pytest

from app.observability.metrics import Metrics
from app.observability.stages import Stages
from app.scheduling.batcher import Batcher
from app.scheduling.watchdog import Watchdog
from model.predictor import open_predictor
from model.scaling import scale_to

CALLERS, CALLS = 12, 6


@pytest.mark.parametrize("threads", [1, 3])
def test_every_caller_gets_its_own_mask_while_others_disconnect(weights_file, threads):
    """All canvases differ in content and often in size. Some masks are larger than their canvas."""
    predictor = open_predictor(weights_file, device="cpu", threads=threads, scaling=scale_to(160))
    pixels = np.random.default_rng(0)
    sizes = [(33 + 17 * i % 64, 40 + 29 * i % 160) for i in range(16)]
    images = [pixels.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    alone = [predictor(image) for image in images]
    numbers = random.Random(0)
    stayed = []

    async def call(batcher):
        number = numbers.randrange(len(images))
        canvas = predictor.prepare(images[number].copy())
        asking = asyncio.create_task(batcher.submit(predictor.predict, canvas, Stages()))
        del canvas  # only the batcher keeps it now
        if numbers.random() < 0.4:
            for _ in range(numbers.randrange(4)):
                await asyncio.sleep(0)
            asking.cancel()
        try:
            mask = await asking
        except asyncio.CancelledError:
            return
        stayed.append(number)
        assert np.array_equal(mask, alone[number]), (number, stayed)

    async def caller(batcher):
        for _ in range(CALLS):
            await call(batcher)

    async def main():
        batcher = Batcher(
            concurrency=predictor.engine.callers_at_once,
            max_batch_pixels=2**22,
            max_batch_images=predictor.engine.images_per_call,
            watchdog=Watchdog(stuck_after_s=600, on_death=lambda: None),
            metrics=Metrics(),
        )
        async with batcher.running():
            await asyncio.gather(*(caller(batcher) for _ in range(CALLERS)))

    asyncio.run(main())
    assert CALLERS * CALLS / 3 < len(stayed) < CALLERS * CALLS
