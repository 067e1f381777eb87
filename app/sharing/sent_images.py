"""The images that one engine process has of this worker, and their places in shared memory.

Knows nothing of connections.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

from app.scheduling.answers import fail
from app.sharing.memory import SMALL_BYTES, Frame, SharedMemory
from app.sharing.messages import (
    Cancel,
    Done,
    Dropped,
    Failed,
    MalformedMessage,
    Message,
    Segment,
    Unknown,
)
from app.sharing.remote import Image

Answer = Done | Failed | Unknown | Dropped


@dataclass(frozen=True, slots=True)
class _SentImage:
    image: Image
    frame: Frame
    offset: int | None
    """The place of the frame in the memory of all small images, None for a large one."""


class SentImages:
    """Owns the memory of one connection."""

    def __init__(self, most_images: int) -> None:
        """Raises OSError."""
        self.memory = SharedMemory(most_images * SMALL_BYTES)
        self._free = [SMALL_BYTES * place for place in reversed(range(most_images))]
        self._numbers = count(1)
        self._sent: dict[int, _SentImage] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def take_number(self) -> int:
        """Return the number of the next work."""
        return next(self._numbers) % 2**32

    def begin(self, image: Image, send: Callable[[Message], None]) -> tuple[Segment, int | None]:
        """Return the message for an image and the descriptor of its memory, if it has its own.

        `send` sends the message that cancels it.
        """
        canvas, region = image.canvas, image.canvas.region
        number, offset, descriptor = self.take_number(), None, None
        if image.own is not None:
            frame = Frame(image.own.map, 0, canvas.size, region.output)
            descriptor = image.own.open_again()
        else:
            offset = self._free.pop()
            frame = Frame(self.memory.map, offset, canvas.size, region.output)
            frame.fill(canvas)
        frame.reset()
        self._sent[number] = _SentImage(image, frame, offset)
        image.cancel = partial(send, Cancel(number))
        digest = bytes.fromhex(image.engine.digest)
        segment = Segment(
            number, offset or 0, digest, image.confidence, *canvas.size, *region.content,
            *region.output, image.request_id,
        )  # fmt: skip
        return segment, descriptor

    def finish(self, message: Answer) -> Image | None:
        """Give an image its answer; return it if another engine process can compute it."""
        one = self._sent.pop(message.number, None)
        if one is None:
            raise MalformedMessage(f"image {message.number} is not here")
        image, frame = one.image, one.frame
        image.cancel = None
        if isinstance(message, Done) and not image.answer.done():
            image.stages.enter("inference", ago_s=message.inference_us / 1e6)
            # Memory of its own is not used again: its mask needs no copy.
            image.answer.set_result(frame.mask.copy() if image.own is None else frame.mask)
        if one.offset is not None:
            self._free.append(one.offset)
        if isinstance(message, Unknown) and not image.answer.done():
            return image
        fail([image])
        image.end()
        return None

    def end(self) -> list[Image]:
        """Close the memory, and return the images, whose engine process has ended."""
        sent, self._sent = self._sent.values(), {}
        for one in sent:
            one.image.cancel = None
            one.image.ended += one.frame.has_begun
        self.memory.close()
        return [one.image for one in sent]
