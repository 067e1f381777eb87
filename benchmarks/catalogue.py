"""What a soak asks for: photos of many sizes and formats in every way to ask, and broken ones.

Knows nothing of servers and answers. What is made is the same at every call.
"""

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import ExifTags, Image

from benchmarks.load import post_request, upload_request
from benchmarks.photos import TWELVE_MEGAPIXELS, VOC_SIZE, made_photos

PATH = "/v1/segment"

MEDIA_TYPES = {"png": "image/png", "json": "application/json", "npy": "application/x-npy"}


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """`data` is the whole request, as it goes over the wire."""

    name: str
    data: bytes

    @property
    def head(self) -> bytes:
        return self.data[: self.data.index(b"\r\n\r\n") + 4]

    @property
    def body(self) -> bytes:
        return self.data[len(self.head) :]


def good_requests(*, large: bool) -> list[Request]:
    """Every image in two of the ways to ask. `large`: one of them has twelve megapixels."""
    ways = itertools.cycle(itertools.product(("form", "raw"), MEDIA_TYPES))
    requests = []
    for name, image in good_images(large=large):
        for upload, answer in itertools.islice(ways, 2):
            requests.append(_asked(name, image, upload=upload, answer=answer))
    return requests


def photo_requests(count: int) -> list[Request]:
    """Photos of VOC's size, as a form, for a PNG: what the capacity is measured with."""
    photos = enumerate(made_photos(count))
    return [Request(f"photo {i}", upload_request(PATH, photo)) for i, photo in photos]


def broken_requests() -> list[Request]:
    """Each is to be refused for a reason of its own."""
    requests = [
        _asked(name, data, upload="raw", answer="png") for name, data in broken_images().items()
    ]
    text = {"Content-Type": "text/plain"}
    requests.append(Request("text", post_request(PATH, b"hello", headers=text)))
    requests.append(Request("other field", upload_request(PATH, b"").replace(b'"file"', b'"fill"')))
    odd_answer = {"Accept": "text/html"}
    requests.append(Request("odd answer", post_request(PATH, b"x", headers=odd_answer)))
    requests.append(Request("odd side", post_request(f"{PATH}?max_side=x", b"x", headers={})))
    return requests


def good_images(*, large: bool) -> Iterator[tuple[str, bytes]]:
    """Names and files. The large one's turn is npy and PNG: as JSON its mask has 24 megabytes."""
    photo = _opened(made_photos(1)[0])
    for size in ((48, 64), VOC_SIZE, VOC_SIZE[::-1], (720, 1280)):
        yield f"JPEG {size[0]} x {size[1]}", made_photos(1, size)[0]
    if large:
        yield "JPEG, twelve megapixels", made_photos(1, TWELVE_MEGAPIXELS)[0]
    on_its_side = Image.Exif()
    on_its_side[ExifTags.Base.Orientation] = 6
    yield "JPEG on its side", _file(photo, "JPEG", exif=on_its_side)
    yield "JPEG, progressive", _file(photo, "JPEG", progressive=True)
    yield "JPEG, grey", _file(photo.convert("L"), "JPEG")
    small = photo.resize((200, 150))
    for mode in ("RGB", "P", "RGBA", "I;16", "1"):
        source = small.convert("L").convert("I") if mode == "I;16" else small
        yield f"PNG, {mode}", _file(source.convert(mode), "PNG")
    for form in ("WEBP", "BMP", "TIFF", "GIF"):
        yield form, _file(small, form)


def broken_images() -> dict[str, bytes]:
    jpeg = made_photos(1)[0]
    png = _file(_opened(jpeg).resize((200, 150)), "PNG")
    return {
        "nothing": b"",
        "noise": bytes(range(256)) * 16,
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "the head of a JPEG": jpeg[:20],
        "half a PNG": png[: len(png) // 2],
        "a PNG with a wrong byte": png[:100] + bytes([png[100] ^ 255]) + png[101:],
        "a PNG of too many pixels": _png_head(100_000, 100_000),
        "the head of a GIF": b"GIF89a",
    }


def _asked(name: str, image: bytes, *, upload: str, answer: str) -> Request:
    """A form asks by query, a raw body by its Accept header."""
    name = f"{name}, {upload}, {answer}"
    if upload == "form":
        return Request(name, upload_request(f"{PATH}?format={answer}", image))
    headers = {"Content-Type": "application/octet-stream", "Accept": MEDIA_TYPES[answer]}
    return Request(name, post_request(PATH, image, headers=headers))


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _file(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _png_head(width: int, height: int) -> bytes:
    """All that a PNG tells of its size, and nothing behind it."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return b"\x89PNG\r\n\x1a\n" + chunk
