"""Decoder processes that hang, crash, need too much memory, or lose their parent."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.codecs import decoder_process, jpegs
from app.codecs.decode import decode_image
from app.codecs.decoder_process import DecoderProcess
from app.codecs.decoders import Decoders
from app.errors import BrokenImage, Overloaded, TooCostly, TooManyPixels, UnsupportedType
from app.observability.metrics import Metrics
from model.scaling import find_content_size, scale_to
from tests.app.conftest import metric, serving
from tests.app.corpus import (
    ccitt_strips,
    jpeg_strips,
    more_scans,
    ordinary,
    picture,
    saved,
    tall_png,
)
from tests.conftest import PHOTO, REPOSITORY

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux' kernel")
PNG = saved(picture(), "PNG")


def choose_size(size):
    return find_content_size(size, scale_to(64))


async def decoded(pool, data, *, choose_size=choose_size, max_pixels=25_000_000):
    return await pool.decode(
        data, max_pixels=max_pixels, choose_size=choose_size, finish=lambda image: image
    )


@asynccontextmanager
async def pool_of(count=1, *, max_pixels=10**9):
    pool = Decoders(count, max_pixels=max_pixels, metrics=Metrics())
    try:
        yield pool
    finally:
        pool.close()
        pool.threads.shutdown()


def misbehave(monkeypatch, code):
    """Make each decoder process that starts from now on run this code first."""
    path = "import sys; sys.path[:] = sys.argv[1:]"
    monkeypatch.setattr(
        decoder_process, "PROGRAM", f"{path}\n{code}\nfrom app.codecs.decoder import main; main()"
    )


IN_A_DECODER = """
import os, time
from app.codecs import costs, decoder, pictures
original_limit = decoder.limit_time
def limit_time(pixels):
    is_faulty = pixels == 60 * 80
    costs.CPU_S = 0.2 if is_faulty else 5
    decoder.WALL_FACTOR = {factor} if is_faulty else 1000
    original_limit(pixels)
decoder.limit_time = limit_time
original = pictures.Upload.decode
def decode(self, content):
    if self.size == (60, 80):
        {fault}
    return original(self, content)
pictures.Upload.decode = decode
"""


SIGNAL_INSTEAD_OF_TIMER = """
import signal
from app.codecs import decoder
def limit_time(pixels):
    signal.signal(signal.SIGALRM, signal.SIG_IGN if pixels is None else signal.SIG_DFL)
decoder.limit_time = limit_time
"""


def ended(pool, reason):
    text = pool.metrics.export().decode()
    return metric(text, f'seg_decoders_ended_total{{reason="{reason}"}}')


@pytest.mark.parametrize("name", sorted(name for name, _ in ordinary()))
@pytest.mark.parametrize("side", [0, 64])
def test_a_file_has_the_pixels_that_it_has_in_this_process(name, side):
    data = dict(ordinary())[name]

    async def run():
        async with pool_of() as pool:
            return await decoded(
                pool, data, choose_size=lambda size: find_content_size(size, scale_to(side))
            )

    here = decode_image(data, max_pixels=25_000_000, scaling=scale_to(side))
    there = asyncio.run(run())
    assert np.array_equal(there.pixels, here.pixels)
    assert there.size == here.size


def test_problems_are_the_same_and_the_process_goes_on():
    async def run():
        async with pool_of() as pool:
            for data, problem, max_pixels in (
                (PNG[:-200], BrokenImage, 10**6),
                (b"no image", UnsupportedType, 10**6),
                (PNG, TooManyPixels, 1000),
            ):
                with pytest.raises(problem) as there:
                    await decoded(pool, data, max_pixels=max_pixels)
                with pytest.raises(problem) as here:
                    decode_image(data, max_pixels=max_pixels)
                assert (there.value.detail, there.value.remedy) == (
                    here.value.detail, here.value.remedy
                )  # fmt: skip
            with pytest.raises(Overloaded):
                await decoded(pool, PNG, choose_size=refuse)
            assert (await decoded(pool, PNG)).size == (60, 80)
            assert len(pool.idle) == 1
            assert pool.idle[0].files == 5

    def refuse(_):
        raise Overloaded("no", remedy="wait")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "factor", "problem", "reason"),
    [
        ("while True: pass", 1000, TooCostly, "time"),
        ("time.sleep(1000)", 1, TooCostly, "time"),
        ("os.abort()", 1000, BrokenImage, "crash"),
        ("os.kill(os.getpid(), 11)", 1000, BrokenImage, "crash"),
        ("os.kill(os.getpid(), 9)", 1000, Overloaded, "killed"),
        pytest.param("bytearray(10**9)", 1000, TooCostly, "memory", marks=LINUX),
    ],
)
def test_a_decoder_that_dies_fails_only_its_file(monkeypatch, fault, factor, problem, reason):
    misbehave(monkeypatch, IN_A_DECODER.format(fault=fault, factor=factor))
    other = saved(picture(50, 50), "PNG")

    async def run():
        async with pool_of(2) as pool:
            for _ in range(2):
                faulty, good = await asyncio.gather(
                    decoded(pool, PNG), decoded(pool, other), return_exceptions=True
                )
                assert type(faulty) is problem
                assert good.size == (50, 50)
            assert ended(pool, reason) == 2

    asyncio.run(run())


def test_an_internal_error_is_not_the_files_problem(monkeypatch):
    fault = "raise LookupError('a mistake of ours')"
    misbehave(monkeypatch, IN_A_DECODER.format(fault=fault, factor=1000))

    async def run():
        async with pool_of() as pool:
            with pytest.raises(RuntimeError, match="LookupError: a mistake of ours"):
                await decoded(pool, PNG)

    asyncio.run(run())


def test_a_picture_that_waits_for_its_turn_has_no_time_limit(monkeypatch):
    """The signal of the limit, sent while the server lets the picture wait, ends nothing."""
    misbehave(monkeypatch, SIGNAL_INSTEAD_OF_TIMER)
    process = DecoderProcess()

    def wait(size):
        os.kill(process.pid, signal.SIGALRM)
        return size

    try:
        assert process.decode(PNG, max_pixels=10**6, choose_size=wait).size == (60, 80)
    finally:
        process.end()


def test_a_killed_decoder_gets_no_other_file():
    process = DecoderProcess()
    try:
        assert process.is_usable
        process.kill()
        assert not process.is_usable
    finally:
        process.end()


@LINUX
def test_a_cancelled_decode_ends_at_once(monkeypatch):
    misbehave(monkeypatch, IN_A_DECODER.format(fault="time.sleep(1000)", factor=1000))
    begun = threading.Event()
    before = children()

    def choose_size(size):
        begun.set()
        return size

    async def run():
        async with pool_of() as pool:
            task = asyncio.create_task(decoded(pool, PNG, choose_size=choose_size))
            waits = asyncio.create_task(decoded(pool, PNG))
            await asyncio.to_thread(begun.wait)
            waits.cancel()
            task.cancel()
            await asyncio.wait((task, waits))
            assert task.cancelled()
            assert waits.cancelled()
            assert (await decoded(pool, saved(picture(50, 50), "PNG"))).size == (50, 50)
        assert children() <= before

    asyncio.run(run())


def children():
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found.update((thread / "children").read_text().split())
    return found


@LINUX
def test_no_descriptor_and_no_process_leaks(monkeypatch):
    misbehave(monkeypatch, IN_A_DECODER.format(fault="os.abort()", factor=1000))

    async def run():
        async with pool_of() as pool:
            for _ in range(5):
                with pytest.raises(BrokenImage):
                    await decoded(pool, PNG)

    asyncio.run(run())
    before = os.listdir("/proc/self/fd"), children()
    asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) <= len(before[0])
    assert children() <= before[1]


def test_closing_does_not_wait_for_killed_processes(monkeypatch):
    """A killed process needs processor time to exit, and has the lowest priority."""
    goes_on, end = threading.Event(), DecoderProcess.end

    def end_late(process):
        goes_on.wait()
        end(process)

    monkeypatch.setattr(DecoderProcess, "end", end_late)

    async def run():
        async with pool_of() as pool:
            await decoded(pool, PNG)
            closing = threading.Thread(target=pool.close)
            closing.start()
            closing.join(60)
            has_waited = closing.is_alive()
            goes_on.set()
            closing.join()
            assert not has_waited

    asyncio.run(run())


@LINUX
def test_a_decoder_process_has_no_settings_and_no_passwords(monkeypatch):
    monkeypatch.setenv("SEG_RATE_STORAGE", "redis://:password@redis")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    async def run():
        async with pool_of() as pool:
            await decoded(pool, PNG)
            return Path(f"/proc/{pool.idle[0].pid}/environ").read_bytes()

    environment = asyncio.run(run())
    assert b"PATH=" in environment
    assert b"password" not in environment
    assert b"secret" not in environment


@LINUX
def test_a_decoder_ignores_the_terminal_and_inherits_no_descriptors():
    async def run():
        async with pool_of() as pool:
            await decoded(pool, PNG)
            process = pool.idle[0]
            assert os.getsid(process.pid) == process.pid != os.getsid(0)
            assert len(os.listdir(f"/proc/{process.pid}/fd")) == 4  # 0, 1, 2 and its answers

    asyncio.run(run())


PARENT = """
import asyncio, sys
from app.codecs import decoder_process, decoders
from app.observability.metrics import Metrics
decoder_process.PROGRAM = {program!r}
def choose_size(size):
    print(pool_process().pid, flush=True)
    return size
def pool_process():
    (process,) = made
    return process
made = []
class Noted(decoders.DecoderProcess):
    def __init__(self):
        super().__init__()
        made.append(self)
decoders.DecoderProcess = Noted
pool = decoders.Decoders(1, max_pixels=10**9, metrics=Metrics())
data = sys.stdin.buffer.read()
asyncio.run(pool.decode(data, max_pixels=10**6, choose_size=choose_size, finish=len))
"""


@LINUX
def test_a_decoder_dies_with_its_parent_even_while_it_decodes(monkeypatch):
    misbehave(monkeypatch, IN_A_DECODER.format(fault="time.sleep(1000)", factor=1000))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(program=decoder_process.PROGRAM)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as parent:  # fmt: skip
        parent.stdin.write(PNG)
        parent.stdin.close()
        decoder = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.send_signal(signal.SIGKILL)
            assert select.select([decoder], [], [], 60)[0]
        finally:
            os.close(decoder)


@pytest.mark.parametrize("attack", [ccitt_strips, jpeg_strips])
def test_costly_tiffs_are_refused_and_their_decoder_continues(attack):
    async def run():
        async with pool_of() as pool:
            with pytest.raises(BrokenImage, match="overlap in the file"):
                await decoded(pool, attack())
            assert len(pool.idle) == 1

    asyncio.run(run())


@pytest.mark.parametrize("attack", [ccitt_strips, jpeg_strips])
def test_the_time_limit_ends_a_file_that_the_estimate_accepts(monkeypatch, attack):
    limits = "costs.CPU_S, costs.CPU_S_PER_PIXEL = 0.3, 0"
    no_estimate = "decoder.require_modest, decoder.WALL_FACTOR = lambda *_, **__: None, 1000"
    misbehave(monkeypatch, f"from app.codecs import costs, decoder; {limits}; {no_estimate}")

    async def run():
        async with pool_of() as pool:
            with pytest.raises(TooCostly):
                await decoded(pool, attack())
            assert ended(pool, "time") == 1

    asyncio.run(run())


def test_ordinary_jpegs_are_decoded_here_and_other_files_in_a_process(settings, monkeypatch):
    monkeypatch.setattr(jpegs, "MAX_ORDINARY_SAMPLES", 2_000_000)  # the photo has 0.3 million
    with serving(settings) as (client, server):
        pool = server.service.codecs.decoders
        assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 200
        assert client.post("/v1/segment", content=b"no image").status_code == 415
        assert not pool.idle
        assert client.post("/v1/segment", content=PNG).status_code == 200
        assert len(pool.idle) == 1
        many = saved(Image.new("RGB", (160, 160)), "JPEG", progressive=True, subsampling=0)
        pool.idle[0].files = 0
        assert client.post("/v1/segment", content=more_scans(many, 90)).status_code == 200
        assert pool.idle[0].files == 1


@LINUX
@pytest.mark.parametrize("width", [1, 2, 1000])
@pytest.mark.parametrize("side", [0, 512])
def test_thin_pictures_need_no_more_memory_than_others(width, side):
    pixels = 5_000_000
    data = tall_png(width, pixels // width)

    async def run():
        async with pool_of() as pool:
            await decoded(pool, PNG)
            pid = pool.idle[0].pid
            before = status_bytes(pid, "VmHWM")
            image = await decoded(
                pool, data, choose_size=lambda size: find_content_size(size, scale_to(side))
            )
            assert pool.idle[0].pid == pid
            return status_bytes(pid, "VmHWM") - before + image.pixels.nbytes

    assert asyncio.run(run()) < 20 * pixels


def status_bytes(pid, name):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(name)


def test_a_quick_file_does_not_wait_for_slow_ones(monkeypatch):
    """All decoders but one hang. The last one decodes the other files."""
    misbehave(monkeypatch, IN_A_DECODER.format(fault="time.sleep(1000)", factor=1000))

    async def run():
        async with pool_of(4, max_pixels=4 * 60 * 80) as pool:
            slow = [asyncio.ensure_future(decoded(pool, PNG)) for _ in range(3)]
            other = saved(picture(30, 20), "PNG")
            while len(pool.busy) < 3:
                await asyncio.sleep(0)
            for _ in range(5):
                assert (await decoded(pool, other)).size == (30, 20)
            assert not any(task.done() for task in slow)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(run())
