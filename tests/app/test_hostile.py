"""The program gets the corpus from several concurrent callers, while others send a photo."""

import io
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.codecs.decode import decode_image
from app.errors import RequestError
from app.http.problems import PROBLEMS
from benchmarks.watch import ProcessTree
from model.scaling import scale_to
from tests.app.corpus import FAMILIES, corpus, metadata, saved, tiffs
from tests.app.test_program import logged, program
from tests.conftest import PHOTO

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux to see the program's memory"
)

MAX_PIXELS = 1_000_000
CALLERS = 6
NEIGHBOURS = 2
Answer = int | tuple[int, int]
"""The status of a refusal, or the size of a mask."""

FORMATS = ("png", "json", "npy")

PASSES = 3
GROWTH_BYTES = 8 * 2**20
"""The allowed growth of resident memory in the best pass after the first. One pass may grow by 16
MB, when large images are decoded together; otherwise 1 MB was measured.
"""

PEAK_BYTES = 160 * 2**20
"""The allowed peak above the program's memory after photos: 62 to 77 MB were measured. Without
limits, the worst files took 257 MB (texts of a PNG), 859 MB (a tile of a TIFF) and 4 GB (the
disposal of a GIF); the PNG of 361 megapixels would take more than a gigabyte.
"""

ALLOCATOR = {"ARENA_MAX": "1", "MMAP_THRESHOLD_": "131072", "TRIM_THRESHOLD_": "131072"}
"""Makes the C library return freed memory. Otherwise its pools grow in steps of 10 to 30 MB."""


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return corpus()


@pytest.fixture(scope="module")
def expected(files) -> dict[str, Answer]:
    """The answer that each file gets alone."""

    def expect(data: bytes) -> Answer:
        try:
            return decode_image(data, max_pixels=MAX_PIXELS, scaling=scale_to(512)).size
        except RequestError as error:
            return int(PROBLEMS[type(error)].status)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        expected = {name: expect(data) for name, data in files.items()}
    # In this process there is no limit of memory: its dictionary is of a gigabyte.
    assert expected["tiffs/greedy-34925.tiff"] == (16, 16)
    return expected | {"tiffs/greedy-34925.tiff": 422}


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    address: str
    log: list[str]


@pytest.fixture(scope="module")
def running(weights_file) -> Iterator[Running]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in ALLOCATOR.items():
            patch.setenv(f"MALLOC_{name}", value)
        process = stack.enter_context(
            program(
                weights=weights_file, port=0, device="cpu", max_pixels=MAX_PIXELS, deadline_s=300,
                log_format="json",
            )
        )  # fmt: skip
        running = Running(process, logged(process, "ready")["address"], [])
        # A log that nobody reads would stop the program when the pipe is full.
        reading = threading.Thread(target=lambda: running.log.extend(process.stderr))
        reading.start()
        yield running
        process.kill()
        reading.join()


@pytest.fixture
def client(running) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_keepalive_connections=CALLERS + NEIGHBOURS)
    with httpx.Client(base_url=running.address, timeout=300, limits=limits) as client:
        yield client


def small_photo() -> bytes:
    """Small, so that it leaves processor time to the others."""
    with Image.open(PHOTO) as photo:
        return saved(photo.crop((150, 50, 278, 146)), "PNG")


def post(client: httpx.Client, number: int, data: bytes) -> httpx.Response:
    """Send it as a form or as the body, for any of the formats."""
    how = {"files": {"file": data}} if number % 2 else {"content": data}
    return client.post("/v1/segment", params={"format": FORMATS[number % 3]}, **how)


def answer_of(response: httpx.Response) -> Answer:
    """The size of a valid mask, or the status of a valid refusal."""
    kind = response.headers["content-type"]
    if response.status_code != 200:
        assert kind == "application/problem+json"
        assert response.json()["status"] == response.status_code
        return response.status_code
    if kind == "image/png":
        with Image.open(io.BytesIO(response.content)) as image:
            image.load()
            assert image.mode == "P"
            return image.size[::-1]
    if kind == "application/x-npy":
        return np.load(io.BytesIO(response.content), allow_pickle=False).shape
    body = response.json()
    assert sum(entry["pixels"] for entry in body["classes"]) == body["height"] * body["width"]
    return body["height"], body["width"]


def pass_over(client: httpx.Client, files: dict[str, bytes]) -> dict[str, Answer]:
    """Send every file from one of several callers, while other callers send a photo."""
    photo = small_photo()
    alone = client.post("/v1/segment", content=photo).content
    over = threading.Event()

    def neighbour() -> int:
        answers = Counter()
        while not over.is_set():
            response = client.post("/v1/segment", content=photo)
            answers[response.status_code, response.content == alone] += 1
        assert set(answers) == {(200, True)}, answers
        return answers.total()

    def caller(numbered: tuple[int, tuple[str, bytes]]) -> tuple[str, Answer]:
        number, (name, data) = numbered
        return name, answer_of(post(client, number, data))

    with ThreadPoolExecutor(CALLERS + NEIGHBOURS) as threads:
        neighbours = [threads.submit(neighbour) for _ in range(NEIGHBOURS)]
        try:
            answers = dict(threads.map(caller, enumerate(files.items())))
        finally:
            over.set()
        assert all(future.result() > 0 for future in neighbours)
    return answers


def test_hostile_images_harm_neither_the_server_nor_their_neighbours(
    running, client, files, expected
):
    memory = ProcessTree(running.process.pid)
    pass_over(client, dict.fromkeys(map(str, range(50)), small_photo()))
    usual = memory.measure_resident_bytes()
    memory.reset_peak()
    after = []
    for turn in range(PASSES):
        assert pass_over(client, files) == expected, f"pass {turn}"
        after.append(memory.measure_resident_bytes())
    peak = memory.measure_peak_bytes() - usual

    assert running.process.poll() is None
    assert client.get("/health/live").json() == {"status": "alive"}
    assert min(np.diff(after)) < GROWTH_BYTES
    assert peak < PEAK_BYTES
    assert not [line for line in running.log if "Traceback" in line or '"exception"' in line]


def test_the_corpus_is_always_the_same_and_has_what_it_should(files, expected):
    for family in set(FAMILIES) - {metadata, tiffs}:  # these take a second each
        for name, data in family():
            assert files[f"{family.__name__}/{name}"] == data, name
    assert len(files) > 500
    statuses = Counter(answer for answer in expected.values() if isinstance(answer, int))
    assert min(statuses[413], statuses[415], statuses[422]) > 20
    assert sum(isinstance(answer, tuple) for answer in expected.values()) > 200
    assert len(files["sizes/361-megapixels.png"]) < 45_000
