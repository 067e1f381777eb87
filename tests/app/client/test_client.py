"""The synchronous and the asynchronous client against the real server."""

import asyncio
import base64
import inspect
import io
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import numpy as np
import pytest
from PIL import Image

from app.access.keys import format_line, make_key
from app.client import (
    AnswerTimeout,
    AsyncClient,
    Client,
    ClientError,
    InvalidAnswer,
    PhotoError,
    ProblemError,
    Retries,
    ServerUnreachable,
)
from app.client import calls as client_calls
from app.client.retries import parse_retry_after
from tests.app.client.scripted import CLOSE, scripted
from tests.app.conftest import metric, serving
from tests.conftest import PHOTO

ONCE = Retries(attempts=1)
QUICK = Retries(backoff_s=0.001)


class Synchronous:
    """Runs each call of `AsyncClient` in its own event loop, so that tests can use both clients."""

    def __init__(self, *args, **options):
        self.options = args, options

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, name):
        def method(*args, **options):
            async def run():
                async with AsyncClient(*self.options[0], **self.options[1]) as client:
                    return await getattr(client, name)(*args, **options)

            return asyncio.run(run())

        return method


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(params=[Client, Synchronous])
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def expected(client):
    """The mask of the test photo, as the API gives it."""
    answer = client.post("/v1/segment", content=PHOTO.read_bytes())
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_a_photo_becomes_a_mask_a_picture_and_an_overlay(server, expected, kind, tmp_path):
    with kind(server.address) as client:
        result = client.segment(PHOTO)
    assert result.mask.dtype == np.uint8
    assert np.array_equal(result.mask, expected)
    assert result.size == expected.shape
    assert result.image.mode == "P"
    assert sum(entry.pixels for entry in result.classes) == expected.size
    assert {entry.index for entry in result.classes} == set(np.unique(expected))
    assert all(entry.name == result.names[entry.index] for entry in result.classes)
    assert {"decode", "inference", "encode"} <= result.timings_ms.keys()
    assert len(result.weights) == 64
    assert result.request_id
    result.save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")), expected)


def test_the_overlay_colours_the_classes_and_leaves_the_background(server, photo):
    with Client(server.address) as client:
        result = client.segment(PHOTO)
    mask, colours = result.mask, np.asarray(result.image.convert("RGB"))
    assert (mask == 0).any()
    assert (mask != 0).any()
    assert np.array_equal(np.asarray(result.overlay(0)), photo)
    half, whole = np.asarray(result.overlay(0.5)), np.asarray(result.overlay(1))
    for picture in (half, whole):
        assert np.array_equal(picture[mask == 0], photo[mask == 0])
    assert np.array_equal(whole[mask != 0], colours[mask != 0])
    mean = (photo.astype(int) + colours) / 2
    assert np.abs(half[mask != 0] - mean[mask != 0]).max() <= 1
    with pytest.raises(ValueError, match="alpha"):
        result.overlay(1.5)
    name = result.classes[-1].name
    assert np.array_equal(result.select(name), mask == result.classes[-1].index)
    with pytest.raises(KeyError, match="no class 'unicorn'"):
        result.select("unicorn")


def test_every_way_to_give_a_photo_gives_the_same_mask(server, photo, kind):
    lossless = io.BytesIO()
    Image.fromarray(photo).save(lossless, "PNG")
    with kind(server.address) as client:
        masks = [
            client.segment(given).mask
            for given in (
                photo,
                photo[:, ::-1][:, ::-1],  # not contiguous
                Image.fromarray(photo),
                lossless.getvalue(),
                io.BytesIO(lossless.getvalue()),
            )
        ]
        with open(PHOTO, "rb") as file:
            masks.append(client.segment(file).mask)
        from_path = client.segment(str(PHOTO)).mask
    assert all(np.array_equal(mask, masks[0]) for mask in masks[:5])
    assert np.array_equal(masks[5], from_path)


def test_a_pillow_image_keeps_its_orientation(server, photo):
    image = Image.fromarray(photo)
    image.getexif()[0x0112] = 6  # a quarter turn
    with Client(server.address) as client:
        result = client.segment(image)
        assert result.size == (451, 300)
        assert result.overlay().size == (300, 451)
        cmyk = image.convert("CMYK")
        assert client.segment(cmyk).size in ((451, 300), (300, 451))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no such file.jpg", "no such file.jpg: No such file"),
        (np.zeros((4, 5, 3)), "float64"),
        (np.zeros((4, 5, 2), np.uint8), "2 channels"),
        (np.zeros((0, 5, 3), np.uint8), "not a photo"),
        (io.StringIO("text"), 'mode "rb"'),
    ],
)
def test_something_that_is_not_a_photo_is_not_sent(given, message, kind):
    with kind("http://127.0.0.1:9") as client, pytest.raises(PhotoError, match=message):
        client.segment(given)


def test_the_model_and_its_readiness(server, kind):
    with kind(server.address) as client:
        assert client.is_ready() is True
        info = client.model()
    assert info.classes[15].name == "person"
    assert info.limits.max_side == 1024


def test_a_max_side_scales_the_photo_down(server, expected, kind):
    with kind(server.address) as client:
        scaled = client.segment(PHOTO, max_side=64).mask
        assert scaled.shape == expected.shape
        assert not np.array_equal(scaled, expected)
        with pytest.raises(ProblemError) as raised:
            client.segment(PHOTO, max_side=1)
    assert raised.value.name == "invalid-parameter"


def test_every_kind_of_answer_has_its_own_call(server, expected, photo, kind):
    with kind(server.address) as client:
        result = client.segment(PHOTO)
        array = client.segment_array(PHOTO)
        assert (array.dtype, np.array_equal(array, expected)) == (np.uint8, True)
        listed = client.segment_json(PHOTO)
        assert np.array_equal(listed.mask, expected)
        assert listed.classes == result.classes
        present = [entry.index for entry in result.classes if entry.index]
        runs = client.segment_rle(PHOTO)
        assert [entry.index for entry in runs.segments] == present
        assert [entry.properties.index for entry in client.segment_polygons(PHOTO).features] == (
            present
        )
        confidence = client.segment_confidence(PHOTO)
        assert (confidence.dtype, confidence.shape) == (np.uint8, expected.shape)
        overlay = client.segment_overlay(PHOTO, alpha=0)
        assert np.array_equal(np.asarray(overlay), photo)
        blended = client.segment_overlay(PHOTO, jpeg=True)
        assert (blended.format, blended.size) == ("JPEG", (451, 300))


def test_classes_are_kept_by_their_names(server, expected, kind):
    with kind(server.address) as client:
        name = client.segment(PHOTO).classes[-1].name
        kept = client.segment(PHOTO, classes=[name, "person"]).classes
        assert {entry.name for entry in kept} <= {"background", name, "person"}
        assert [entry.name for entry in client.segment_rle(PHOTO, classes=[name]).segments] == [
            name
        ]
        with pytest.raises(ProblemError, match="unicorn"):
            client.segment_array(PHOTO, classes=["unicorn"])


def test_many_photos_have_their_own_results_and_errors(server, expected, photo, kind):
    photos = [PHOTO, "no such file.jpg", b"no image", photo[:40, :50], PHOTO]
    with kind(server.address) as client:
        first, missing, broken, small, last = client.segment_many(iter(photos), max_side=1024)
        assert client.segment_many([]) == []
        alone = client.segment(photo[:40, :50])
    assert np.array_equal(first.mask, expected)
    assert np.array_equal(last.mask, expected)
    assert first.names[15] == "person"
    assert {"decode", "inference", "encode"} <= first.timings_ms.keys()
    assert np.array_equal(small.mask, alone.mask)
    assert isinstance(missing, PhotoError)
    assert (broken.status, broken.name) == (415, "unsupported-type")
    assert first.request_id == broken.request_id != ""


def test_many_photos_are_sent_in_as_many_requests_as_the_limits_ask_for(settings, photo, kind):
    small = png(photo[:40, :50])
    large = png(np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8))
    limits = {"max_files": 3, "max_body_bytes": 100_000}
    with serving(settings.model_copy(update=limits)) as (client_of_all, server):
        with kind(server.address) as client:
            found = client.segment_many([small] * 4 + [large] + [small])
        text = client_of_all.get("/metrics").text
    assert [getattr(result, "status", 200) for result in found] == [200] * 4 + [413, 200]
    assert found[4].name == "body-too-large"
    batches = 'seg_requests_total{route="/v1/segment/batch",status="%d"}'
    assert (metric(text, batches % 200), metric(text, batches % 413)) == (3, 1)


def entry(**fields):
    return {"name": "1", "status": 200, "media_type": "image/png", "height": 4, "width": 5,
            "timings_ms": {}} | fields  # fmt: skip


def test_only_refused_photos_are_sent_again(kind):
    mask = base64.b64encode(MASK.getvalue()).decode()
    refused = {"name": "2", "status": 503, "problem": json.loads(BUSY), "retry_after_s": 0}
    headers = {"Content-Type": "application/json", "X-Weights-Digest": "d" * 64}
    info = json.loads(MODEL[2])
    info["limits"] |= {"max_files": 9, "max_body_bytes": 9000}
    answers = [
        (*MODEL[:2], json.dumps(info).encode()),
        (200, headers, json.dumps([entry(answer=mask), refused, refused]).encode()),
        (200, headers, json.dumps([entry(answer=mask), refused]).encode()),
        (200, headers, json.dumps([entry(answer=mask)]).encode()),
    ]
    with scripted(*answers) as server, kind(server.address, retries=QUICK) as client:
        results = client.segment_many([b"a photo", b"another", b"a third"])
    assert [result.size for result in results] == 3 * [(4, 5)]
    assert [result.photo for result in results] == [b"a photo", b"another", b"a third"]
    bodies = [body for _, path, _, body in server.requests if "batch" in path]
    assert [b"a photo" in body for body in bodies] == [True, False, False]
    assert [b"another" in body for body in bodies] == [True, True, False]
    assert [b"a third" in body for body in bodies] == [True, True, True]


def test_a_problem_is_an_exception_with_the_servers_words(server, kind):
    with kind(server.address) as client, pytest.raises(ProblemError) as raised:
        client.segment(PHOTO.read_bytes(), max_side=1)
    assert "greater than or equal to 32. See /docs" in str(raised.value), "sentences end"
    with kind(server.address) as client, pytest.raises(ProblemError) as raised:
        client.segment(PHOTO.read_bytes()[:1000])
    error = raised.value
    assert (error.status, error.name) == (422, "broken-image")
    assert error.problem.remedy
    assert error.problem.detail in str(error)
    assert error.problem.remedy in str(error)
    assert "\n" not in str(error)
    assert error.request_id


def test_keys_are_sent_and_an_admin_may_reload(settings, kind, tmp_path):
    key, admin = make_key(), make_key()
    lines = [format_line("user", key, admin=False), format_line("admin", admin, admin=True)]
    (tmp_path / "keys.txt").write_text("\n".join(lines) + "\n")
    with serving(settings.model_copy(update={"keys_file": tmp_path / "keys.txt"})) as (_, server):
        with kind(server.address) as client, pytest.raises(ProblemError) as raised:
            client.segment(PHOTO)
        assert raised.value.status == 401
        with kind(server.address, key=key) as client:
            result = client.segment(PHOTO)
            with pytest.raises(ProblemError) as raised:
                client.reload()
        assert raised.value.name == "forbidden"
        with kind(server.address, key=admin, timeout_s=600) as client:
            assert client.reload().digest == result.weights


def test_the_client_waits_for_a_rate_limit_as_long_as_the_server_says(settings, kind):
    limited = settings.model_copy(update={"rate_limit": "2/second"})
    with serving(limited) as (_, server):
        with kind(server.address, retries=ONCE) as client:
            for _ in range(20):
                try:
                    client.segment(PHOTO)
                except ProblemError as error:
                    refused = error
                    break
            else:
                pytest.skip("this machine is too slow to exceed two requests a second")
        assert (refused.status, refused.name) == (429, "too-many-requests")
        assert refused.retry_after_s >= 1
        patient = Retries(attempts=100, max_wait_s=300)
        with kind(server.address, retries=patient) as client:
            assert all(client.segment(PHOTO).size == (300, 451) for _ in range(4))


def test_the_client_waits_for_a_server_that_is_starting(settings, kind):
    with serving(settings, wait=False) as (_, server):
        patient = Retries(attempts=1000, max_wait_s=300)
        with kind(server.address, retries=patient) as client:
            assert client.segment(PHOTO).size == (300, 451)


BUSY = json.dumps(
    {
        "type": "urn:segmentation:problem:overloaded",
        "title": "The server cannot answer in time",
        "status": 503,
        "detail": "The queue is full.",
        "remedy": "Try again later.",
    }
).encode()


def unavailable(retry_after=None):
    headers = {"Content-Type": "application/problem+json"}
    return 503, headers | ({} if retry_after is None else {"Retry-After": retry_after}), BUSY


MASK = io.BytesIO()
Image.fromarray(np.zeros((4, 5), np.uint8)).save(MASK, "PNG")
ANSWER = 200, {"Content-Type": "image/png", "X-Weights-Digest": "d" * 64}, MASK.getvalue()
MODEL = (
    200,
    {"Content-Type": "application/json"},
    json.dumps(
        {
            "architecture": "a", "digest": "d" * 64, "engine": "e", "device": "cpu",
            "classes": [{"index": 0, "name": "nothing", "colour": [0, 0, 0]}],
            "mean": [0, 0, 0], "std": [1, 1, 1], "scores": {}, "recipe": {}, "data": {},
            "limits": {"max_body_bytes": 1, "max_pixels": 1, "max_side": 1, "unscaled_side": 1,
                       "max_queue": 1, "max_files": 1},
        }
    ).encode(),
)  # fmt: skip


def test_the_same_photo_is_sent_again_after_refusals_and_broken_connections(kind):
    answers = [unavailable("0"), CLOSE, unavailable(), (502, {}, b"<html>"), ANSWER, MODEL]
    with scripted(*answers) as server, kind(server.address, retries=QUICK, key="k") as client:
        result = client.segment(b"photo")
    assert [entry.name for entry in result.classes] == ["nothing"]
    assert [path for _, path, _, _ in server.requests] == ["/v1/segment?format=png"] * 5 + [
        "/v1/model"
    ]
    for _, _, headers, body in server.requests[:5]:
        assert body == b"photo"
        assert headers["X-API-Key"] == "k"
        assert headers["X-Request-Timeout"] == "30"


def test_the_last_refusal_is_raised(kind):
    with (
        scripted(*[unavailable("0")] * 9) as server,
        kind(server.address, retries=Retries(attempts=3, backoff_s=0.001)) as client,
        pytest.raises(ProblemError) as raised,
    ):
        client.segment(b"photo")
    assert raised.value.name == "overloaded"
    assert len(server.requests) == 3


def test_a_wait_above_the_limit_raises_at_once(kind):
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for value in ("3600", later):
        with (
            scripted(unavailable(value)) as server,
            kind(server.address) as client,
            pytest.raises(ProblemError) as raised,
        ):
            client.segment(b"photo")
        assert 3000 < raised.value.retry_after_s <= 3600


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500])
def test_a_request_that_would_fail_again_is_sent_once(status, kind):
    with (
        scripted((status, {}, b"")) as server,
        kind(server.address) as client,
        pytest.raises(ProblemError) as raised,
    ):
        client.segment(b"photo")
    assert raised.value.status == status
    assert raised.value.problem.type == "about:blank"
    assert len(server.requests) == 1


def test_an_unreachable_server_is_reported(kind):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with kind(f"http://127.0.0.1:{port}", retries=QUICK) as client:
        assert client.is_ready() is False
        with pytest.raises(ServerUnreachable, match=f":{port} cannot be reached") as raised:
            client.segment(PHOTO)
    assert isinstance(raised.value.__cause__, httpx.ConnectError)


def test_a_timeout_is_reported_and_not_retried(kind, monkeypatch):
    monkeypatch.setattr("app.client.clients.ANSWER_MARGIN_S", 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        timeout = pytest.raises(AnswerTimeout, match=r"within 0\.5 s")
        with kind(address, timeout_s=0.5) as client, timeout:
            client.segment(b"photo")
        silent.accept()[0].close()
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_an_answer_of_another_server_is_recognised(kind):
    page = 200, {"Content-Type": "text/html"}, b"<html>"
    with scripted(page, page) as server, kind(server.address) as client:
        with pytest.raises(InvalidAnswer, match="another server"):
            client.segment(b"photo")
        with pytest.raises(InvalidAnswer, match="text/html"):
            client.model()


def test_class_names_are_left_out_if_the_weights_change_in_between(kind):
    other = ANSWER[0], ANSWER[1] | {"X-Weights-Digest": "e" * 64}, ANSWER[2]
    with scripted(other, MODEL) as server, kind(server.address) as client:
        assert [entry.name for entry in client.segment(b"photo").classes] == ["0"]


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "/v1", "ftp://x", "http://", "http://x:y", "http://[::1"]
)
def test_an_invalid_address_is_refused_at_once(url):
    with pytest.raises(ValueError, match="is not an address"):
        Client(url)


def test_waits_grow_at_random_and_are_never_shorter_than_the_server_asks():
    low, high = Retries(draw=lambda: 0.0), Retries(draw=lambda: 0.999)
    for attempt in (1, 2, 3, 4):
        backoff = 0.25 * 2 ** (attempt - 1)
        choose = {"attempt": attempt, "waited_s": 0.0}
        assert low.choose_wait(**choose, retry_after_s=None) == pytest.approx(backoff / 2)
        assert high.choose_wait(**choose, retry_after_s=None) == pytest.approx(backoff, rel=0.01)
        assert low.choose_wait(**choose, retry_after_s=7) == 7
        assert 7 < high.choose_wait(**choose, retry_after_s=7) <= 7 + backoff
    assert low.choose_wait(5, waited_s=0, retry_after_s=0) is None
    assert low.choose_wait(1, waited_s=55, retry_after_s=5) == 5
    assert low.choose_wait(1, waited_s=55, retry_after_s=5.1) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("12", 12), (" 3 ", 3), ("", None), ("-1", None), ("soon", None), ("1.5", None),
     ("Fri, 31 Dec 1999 23:59:59 GMT", 0)],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(value, seconds):
    assert parse_retry_after({"Retry-After": value}) == seconds


def test_both_clients_have_the_same_calls():
    names = {name for name in vars(Client) if not name.startswith("_")}
    assert names == {name for name in vars(AsyncClient) if not name.startswith("_")}
    for name in names - {"close"}:
        call = getattr(client_calls, name)
        for client in (Client, AsyncClient):
            method = getattr(client, name)
            assert method.__doc__ == call.__doc__
            assert inspect.iscoroutinefunction(method) == (client is AsyncClient)


def test_many_photos_at_the_same_time(server, expected):
    async def run():
        async with AsyncClient(server.address, timeout_s=300) as client:
            return await asyncio.gather(*(client.segment(PHOTO) for _ in range(8)))

    assert all(np.array_equal(result.mask, expected) for result in asyncio.run(run()))


def test_a_cancelled_call_ends():
    async def run():
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with AsyncClient(f"http://127.0.0.1:{silent.getsockname()[1]}") as client:
                task = asyncio.create_task(client.segment(b"photo"))
                await asyncio.to_thread(silent.accept)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    asyncio.run(run())


def test_every_error_of_the_client_is_a_client_error():
    for error in (AnswerTimeout, InvalidAnswer, PhotoError, ProblemError, ServerUnreachable):
        assert issubclass(error, ClientError)
