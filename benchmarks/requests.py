"""The requests that are sent to our server, and a judge that compares each response.

The judge expects the response that a request gets when the server has no other. The requests are
photos of many sizes and formats, sent in every way, and broken images; they are the same at every
call. Knows nothing of the traffic.
"""

import asyncio
import io
import itertools
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
from PIL import ExifTags, Image

from benchmarks.connection import Request, Response, post_request, send_once, upload_request
from benchmarks.load import Judge, judge_by_status
from benchmarks.photos import TWELVE_MEGAPIXELS, VOC_SIZE, encode_image, make_photos
from benchmarks.process import OUR_PATH, start_our_server
from benchmarks.results import Outcome
from model.weights import SHIPPED_WEIGHTS, read_metadata, read_weights, write_weights

MEDIA_TYPES = {"png": "image/png", "json": "application/json", "npy": "application/x-npy"}

SERVER = {"device": "cpu", "log_level": "warning", "log_format": "json"}

Alone = Mapping[Request, Mapping[str, Response]]
"""The response that each request gets when the server has no other, by the weights' digest."""


@dataclass(frozen=True, slots=True)
class Requests:
    """`photos` measure the capacity: of VOC's size, sent as a form, answered with a PNG."""

    good: Sequence[Request]
    broken: Sequence[Request]
    photos: Sequence[Request]

    def __iter__(self) -> Iterator[Request]:
        return itertools.chain(self.good, self.broken, self.photos)


def make_requests(*, large: bool) -> Requests:
    """Send every good image in two ways; `large` adds an image of twelve megapixels."""
    ways = itertools.cycle(itertools.product((ask_by_form, ask_by_body), MEDIA_TYPES))
    good = [
        ask(name, image, kind)
        for name, image in make_images(large=large)
        for ask, kind in itertools.islice(ways, 2)
    ]
    photos = [upload_request(OUR_PATH, photo) for photo in make_photos(8)]
    return Requests(good, make_broken_requests(), photos)


def make_broken_requests() -> list[Request]:
    """Return requests that the server must refuse, each for a different reason."""
    jpeg = make_photos(1)[0]
    png = encode_image(Image.open(io.BytesIO(jpeg)).resize((200, 150)), "PNG")
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    too_large = struct.pack(">I", len(ihdr) - 4) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    images = {
        "nothing": b"",
        "noise": bytes(range(256)) * 16,
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "the head of a JPEG": jpeg[:20],
        "half a PNG": png[: len(png) // 2],
        "a PNG with a wrong byte": png[:100] + bytes([png[100] ^ 255]) + png[101:],
        "a PNG of too many pixels": b"\x89PNG\r\n\x1a\n" + too_large,
        "the head of a GIF": b"GIF89a",
    }
    return [
        *(ask_by_body(name, image, "png") for name, image in images.items()),
        post_request("text", OUR_PATH, content=b"hello", headers={"Content-Type": "text/plain"}),
        post_request("other field", OUR_PATH, files={"fill": b""}),
        post_request("odd answer", OUR_PATH, content=b"x", headers={"Accept": "text/html"}),
        post_request("odd side", f"{OUR_PATH}?max_side=x", content=b"x"),
    ]


def ask_by_form(name: str, image: bytes, kind: str) -> Request:
    return upload_request(f"{OUR_PATH}?format={kind}", image, name=f"{name}, form, {kind}")


def ask_by_body(name: str, image: bytes, kind: str) -> Request:
    headers = {"Content-Type": "application/octet-stream", "Accept": MEDIA_TYPES[kind]}
    return post_request(f"{name}, raw, {kind}", OUR_PATH, content=image, headers=headers)


def make_images(*, large: bool) -> Iterator[tuple[str, bytes]]:
    """Yield names and files.

    The large image stands where its answers are npy and PNG: as JSON, its mask has 24 MB.
    """
    photo = Image.open(io.BytesIO(make_photos(1)[0]))
    for size in ((48, 64), VOC_SIZE, VOC_SIZE[::-1], (720, 1280)):
        yield f"JPEG {size[0]} x {size[1]}", make_photos(1, size)[0]
    if large:
        yield "JPEG, twelve megapixels", make_photos(1, TWELVE_MEGAPIXELS)[0]
    on_its_side = Image.Exif()
    on_its_side[ExifTags.Base.Orientation] = 6
    yield "JPEG on its side", encode_image(photo, "JPEG", exif=on_its_side)
    yield "JPEG, progressive", encode_image(photo, "JPEG", progressive=True)
    yield "JPEG, grey", encode_image(photo.convert("L"), "JPEG")
    small = photo.resize((200, 150))
    for mode in ("RGB", "P", "RGBA", "I;16", "1"):
        source = small.convert("L").convert("I") if mode == "I;16" else small
        yield f"PNG, {mode}", encode_image(source.convert(mode), "PNG")
    for kind in ("WEBP", "BMP", "TIFF", "GIF"):
        yield kind, encode_image(small, kind)


def write_two_weights(folder: Path) -> list[Path]:
    """Write the shipped weights, and the same with every class rotated by one.

    No mask of the one equals that of the other.
    """
    shipped = read_weights(SHIPPED_WEIGHTS)
    rotated = {
        name: np.roll(array, 1, axis=0) if name.startswith("final_conv.") else array
        for name, array in shipped.tensors.items()
    }
    metadata = replace(shipped.metadata, recipe={"soak": "classes rotated by one"})
    files = [folder / "shipped.safetensors", folder / "rotated.safetensors"]
    shutil.copyfile(SHIPPED_WEIGHTS, files[0])
    write_weights(files[1], rotated, metadata)
    return files


def ask_alone(files: Iterable[Path], requests: Iterable[Request], **settings: object) -> Alone:
    """Send the requests one by one to a server for each weights file.

    Fails if a status is not documented, or if a response names other weights.
    """
    alone: dict[Request, dict[str, Response]] = {request: {} for request in requests}
    for file in files:
        digest = read_metadata(file).digest
        with start_our_server(weights=file, **SERVER, **settings) as server:
            paths = httpx.get(f"{server.address.url}/openapi.json").json()["paths"]
            documented = paths[OUR_PATH]["post"]["responses"]
            for request in alone:
                response = asyncio.run(send_once(server.address, request))
                assert str(response.status) in documented, f"{request.name}: {response.status}"
                assert response.headers.get("x-weights-digest", digest) == digest
                alone[request][digest] = response
    return alone


def make_judge(alone: Alone) -> Judge:
    """Return a judge: a mask must be the one of its request alone, with the response's weights.

    A refusal must have the status that the request got alone, or be a 503.
    """

    def judge(request: Request, response: Response) -> Outcome:
        outcome = judge_by_status(request, response)
        if outcome is Outcome.MASK:
            expected = alone[request].get(response.headers.get("x-weights-digest", ""))
            is_right = expected is not None and expected.body == response.body
        else:
            statuses = {one.status for one in alone[request].values()}
            is_right = outcome is Outcome.OVERLOADED or response.status in statuses
        return outcome if is_right else Outcome.WRONG

    return judge
