"""The images of a worker that no engine process has. Knows nothing of engine processes."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from app.observability.metrics import Metrics
from app.scheduling.answers import fail
from app.sharing.remote import Image, RemoteEngine

ATTEMPTS = 3
"""The number of engine processes that an image is given to if they end while they compute it: an
image that ends every engine must not end them all.
"""


class ImageQueue:
    """First in, first out; the metrics show its length and age."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._images: OrderedDict[Image, None] = OrderedDict()

    def __iter__(self) -> Iterator[Image]:
        """Iterate over the images, which may be removed meanwhile."""
        return iter(list(self._images))

    def add(self, image: Image) -> None:
        """Add an image behind the others."""
        self._images[image] = None

    def take_back(self, images: Sequence[Image]) -> None:
        """Put images before all others that an engine process has not computed."""
        for image in reversed(images):
            if image.answer.done() or image.ended >= ATTEMPTS:
                fail([image])
                image.end()
            else:
                self._images[image] = None
                self._images.move_to_end(image, last=False)

    def remove(self, image: Image) -> bool:
        """Remove an image, and return whether it was here."""
        if image not in self._images:
            return False
        del self._images[image]
        return True

    def fail(self, engine: RemoteEngine | None = None) -> None:
        """Fail the images of this engine, or all."""
        for image in self:
            if engine is None or image.engine is engine:
                self.remove(image)
                fail([image])
                image.end()
        self.count()

    def count(self) -> None:
        """Update the metrics."""
        first = next(iter(self._images), None)
        self._metrics.queue_depth.set(len(self._images))
        self._metrics.oldest_since.set(math.inf if first is None else first.since)
