"""POST /v1/segment/batch over real HTTP: every file with its own result."""

import base64
import io
import json
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from app.access.keys import format_line, make_key
from app.file_schemas import FileAnswer, FileProblem, FileResults
from app.formats import AnswerFormat
from tests.app.codecs.test_decode import png_of_claimed_size, saved
from tests.app.conftest import connected, held_by, metric, serving, wait_for_metric, wait_for_rest
from tests.conftest import PHOTO

ROUTE = "/v1/segment/batch"


def png(pixels):
    return saved(Image.fromarray(pixels), format="PNG")


def send(client, *files, accept="application/json", **parameters):
    """The answer to files of (name, bytes)."""
    return client.post(
        ROUTE,
        files=[("files", file) for file in files],
        params=parameters,
        headers={"Accept": accept},
    )


def results(answer):
    assert answer.status_code == 200, answer.text
    return FileResults.model_validate_json(answer.content).root


def single(client, body, **parameters):
    answer = client.post("/v1/segment", content=body, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.fixture(scope="module")
def photos(photo):
    """Files of several sizes and formats."""
    return [
        ("cat.jpg", PHOTO.read_bytes()),
        ("small.png", png(photo[:33, :31])),
        ("cat.jpg", saved(Image.fromarray(photo[::-1].copy()), format="WEBP")),
        ("one.bmp", saved(Image.fromarray(photo[:1, :1]), format="BMP")),
    ]


def test_each_file_has_the_answer_that_it_has_alone(client, photos):
    found = results(send(client, *photos))
    assert [result.name for result in found] == [name for name, _ in photos]
    for result, (_, body) in zip(found, photos, strict=True):
        assert isinstance(result, FileAnswer)
        assert base64.b64decode(result.answer) == single(client, body)
        assert result.media_type == "image/png"
        with Image.open(io.BytesIO(base64.b64decode(result.answer))) as mask:
            assert (mask.height, mask.width) == (result.height, result.width)
        assert {"turn", "decode", "queue", "inference", "encode"} <= result.timings_ms.keys()


@pytest.mark.parametrize("wanted", list(AnswerFormat))
@pytest.mark.parametrize("container", ["json", "zip"])
def test_every_answer_is_the_same_as_alone(client, photos, wanted, container):
    parameters = {"format": wanted.value, "max_side": 96, "alpha": 0.3}
    alone = [single(client, body, **parameters) for _, body in photos]
    answer = send(client, *photos, container=container, **parameters)
    assert answer.headers["content-type"] == f"application/{container}"
    if container == "json":
        found = [
            base64.b64decode(entry["answer"])
            if isinstance(entry["answer"], str)
            else entry["answer"]
            for entry in answer.json()
        ]
        if isinstance(found[0], dict):
            alone = [json.loads(text) for text in alone]
    else:
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            found = [
                archive.read(entry["file"]) for entry in json.loads(archive.read("results.json"))
            ]
    assert found == alone


def test_one_bad_file_fails_no_other(client, photos):
    found = results(
        send(
            client,
            photos[0],
            ("notes.txt", b"hello"),
            ("empty.jpg", b""),
            ("half.jpg", PHOTO.read_bytes()[:3000]),
            ("bomb.png", png_of_claimed_size(60_000, 60_000)),
            photos[1],
        )
    )
    assert [result.status for result in found] == [200, 415, 400, 422, 413, 200]
    for result in found[1:5]:
        assert isinstance(result, FileProblem)
        assert result.problem.status == result.status
        assert result.problem.type.startswith("urn:segmentation:problem:")
        assert result.problem.remedy
    assert found[3].problem.type == "urn:segmentation:problem:broken-image"


def test_an_archive_has_the_good_files_and_lists_the_others(client, photos):
    answer = send(client, ("a/../../b c:?.jpg", photos[0][1]), ("notes.txt", b"hi"), photos[1],
                  accept="application/zip")  # fmt: skip
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = ["results.json", "001-b c__.png", "003-small.png"]
        assert archive.namelist() == names
        summary = json.loads(archive.read("results.json"))
        assert [entry["status"] for entry in summary] == [200, 415, 200]
        assert [entry.get("file") for entry in summary] == [names[1], None, names[2]]
        assert summary[1]["problem"]["status"] == 415


def test_large_answers_are_sent_in_pieces(client, photo):
    """Each answer is longer than WHOLE_BYTES."""
    large = png(np.tile(photo, (4, 3, 1)))
    files = [("a.png", large), ("b.png", large), ("c.png", b"none")]
    for wanted in ("json", "npy", "raw"):
        alone = single(client, large, format=wanted)
        first, second, third = send(client, *files, format=wanted).json()
        assert third["status"] == 415
        for entry in (first, second):
            if wanted == "json":
                assert entry["answer"] == json.loads(alone)
            else:
                assert base64.b64decode(entry["answer"]) == alone
        answer = send(client, *files, format=wanted, container="zip")
        assert len(answer.content) < len(alone)
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            assert archive.read(f"002-b.{wanted}") == alone
    overlays = send(client, *files, format="overlay", container="zip")
    assert len(overlays.content) > 2**20
    with zipfile.ZipFile(io.BytesIO(overlays.content)) as archive:
        assert archive.read("001-a.png") == single(client, large, format="overlay")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "detail"),
    [
        ("image/jpeg", PHOTO.read_bytes(), 415, "not multipart/form-data"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 400, "No file in the multipart field"),
        ("multipart/form-data; boundary=b", b"", 400, "has no end"),
        ("multipart/form-data", b"", 400, "boundary"),
    ],
)
def test_a_request_without_files_is_refused_as_a_whole(client, content_type, body, status, detail):
    answer = client.post(ROUTE, content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert detail in answer.json()["detail"]


def test_other_fields_of_the_form_are_ignored(client, photos):
    answer = client.post(ROUTE, files=[("photo", photos[0])], data={"note": "hello"})
    assert answer.status_code == 400
    assert "fields: 'note', 'photo'" in answer.json()["detail"]
    answer = client.post(ROUTE, files=[("files", photos[0])], data={"note": "hello"})
    assert len(results(answer)) == 1


@pytest.mark.parametrize(
    ("parameters", "accept", "status"),
    [
        ({"format": "bmp"}, "*/*", 422),
        ({"classes": "unicorn"}, "*/*", 422),
        ({"container": "tar"}, "*/*", 422),
        ({}, "text/html", 406),
        ({}, "image/png", 406),
    ],
)
def test_a_wrong_parameter_is_a_problem_of_the_request(client, photos, parameters, accept, status):
    assert send(client, photos[0], accept=accept, **parameters).status_code == status


def test_more_files_than_the_limit_are_refused(settings, photos):
    with serving(settings.model_copy(update={"max_files": 2})) as (client, _):
        assert client.get("/v1/model").json()["limits"]["max_files"] == 2
        assert len(results(send(client, *photos[:2]))) == 2
        refused = send(client, *photos[:3])
        assert refused.status_code == 400
        assert "more than 2 files" in refused.json()["detail"]
        assert "up to 2 files" in refused.json()["remedy"]


def test_files_are_counted(settings, photos):
    with serving(settings) as (client, server):
        send(client, *photos, ("x", b"none"))
        text = client.get("/metrics").text
        assert metric(text, 'seg_files_total{status="200"}') == 4
        assert metric(text, 'seg_files_total{status="415"}') == 1
        assert metric(text, f'seg_requests_total{{route="{ROUTE}",status="200"}}') == 1
        assert metric(text, 'seg_rejections_total{reason="unsupported-type"}') == 1
        assert metric(text, 'seg_stage_seconds_count{stage="inference"}') == 4
        assert metric(text, 'seg_stage_seconds_count{stage="files"}') == 1
        assert held_by(server) == {}


def test_every_file_uses_one_request_of_the_rate(settings, photos, tmp_path):
    key = make_key()
    (tmp_path / "keys").write_text(format_line("anna", key))
    limits = {"rate_limit": "5/hour", "keys_file": tmp_path / "keys"}
    with serving(settings.model_copy(update=limits)) as (client, _):
        client.headers["X-API-Key"] = key
        answer = send(client, *photos[:3])
        assert {result.status for result in results(answer)} == {200}
        assert answer.headers["ratelimit"].startswith('"5-per-3600s";r=2;')
        answer = send(client, *photos)
        assert [result.status for result in results(answer)] == [200, 200, 429, 429]
        assert results(answer)[2].retry_after_s > 1
        assert answer.headers["ratelimit"].startswith('"5-per-3600s";r=0;')
        refused = send(client, *photos)
        assert refused.status_code == 429


@pytest.fixture
def gate(settings):
    """A server whose engine waits: the client, the server, `busy` and `goes_on`."""
    limits = {"max_queue": 3, "max_files": 6}
    with serving(settings.model_copy(update=limits)) as (client, server):
        predict = server.service.predictor.predict
        goes_on, busy = threading.Event(), threading.Event()

        def gated(canvases):
            busy.set()
            assert goes_on.wait(60)
            return predict(canvases)

        server.service.predictor.predict = gated
        try:
            yield client, server, busy, goes_on
        finally:
            goes_on.set()


def start(target):
    thread = threading.Thread(target=target)
    thread.start()
    return thread


def test_files_wait_for_their_turn_and_do_not_refuse_each_other(gate, photos):
    """Six files, and a queue with three places."""
    client, server, busy, goes_on = gate
    answers = []
    first = start(lambda: answers.append(send(client, *photos, *photos[:2])))
    assert busy.wait(60)
    wait_for_metric(server, "seg_in_flight", 3)
    goes_on.set()
    first.join(60)
    assert [result.status for result in results(answers[0])] == 6 * [200]


@pytest.mark.parametrize("wanted", ["png", "overlay"])
@pytest.mark.parametrize("images", [1, 3, 5])
def test_files_do_not_take_each_others_pixels(settings, wanted, images):
    """With a budget for so many of the largest images."""
    limits = {"max_pixels": 300 * 451, "max_queue_pixels": images * 300 * 451}
    with serving(settings.model_copy(update=limits)) as (client, server):
        files = [(f"{number}.jpg", PHOTO.read_bytes()) for number in range(8)]
        found = results(send(client, *files, format=wanted, max_side=64))
        assert [result.status for result in found] == 8 * [200]
        wait_for_rest(server)


def test_a_full_queue_refuses_files_but_not_those_that_have_a_place(gate, photos):
    client, server, busy, goes_on = gate
    answers = []
    others = [start(lambda: answers.append(single(client, photos[0][1]))) for _ in range(2)]
    assert busy.wait(60)
    wait_for_metric(server, "seg_in_flight", 2)
    batch = start(lambda: answers.append(send(client, *photos)))
    wait_for_metric(server, "seg_files_total", 3, status="503")
    goes_on.set()
    for thread in (*others, batch):
        thread.join(60)
    found = results(next(answer for answer in answers if not isinstance(answer, bytes)))
    assert sorted(result.status for result in found) == [200, 503, 503, 503]
    assert all(result.retry_after_s >= 1 for result in found if result.status == 503)
    wait_for_rest(server)


def form(files):
    """The body of a multipart form with these files."""
    parts = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), data)
        for name, data in files
    )
    return b"".join(parts) + b"--b--\r\n"


def test_a_disconnected_request_cancels_all_its_files(gate, photos):
    client, server, busy, goes_on = gate
    body = form(photos)
    with connected(server) as caller:
        caller.sendall(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            % (ROUTE.encode(), len(body))
            + body
        )
        assert busy.wait(60)
    wait_for_metric(server, "seg_dropped_total", 1, stage="files")
    goes_on.set()
    wait_for_rest(server)
    text = client.get("/metrics").text
    assert "seg_files_total{" not in text, "nobody has a result"
    assert len(results(send(client, *photos))) == len(photos)


def test_an_expired_deadline_is_a_problem_of_each_file(gate, photos):
    client, server, _, goes_on = gate
    answer = client.post(
        ROUTE, files=[("files", file) for file in photos], headers={"X-Request-Timeout": "2"}
    )
    if answer.status_code == 200:  # otherwise the machine was too busy to read the body
        assert {result.status for result in results(answer)} == {503}
    goes_on.set()
    wait_for_rest(server)


def test_a_crash_is_a_problem_of_its_file_without_details(settings, photos):
    with serving(settings) as (client, server):
        prepare = server.service.predictor.prepare

        def crashes(pixels, **options):
            if pixels.shape[:2] == (33, 31):
                raise RuntimeError("a secret")
            return prepare(pixels, **options)

        server.service.predictor.prepare = crashes
        answer = send(client, *photos)
        assert [result.status for result in results(answer)] == [200, 500, 200, 200]
        assert results(answer)[1].problem.type == "urn:segmentation:problem:internal"
        assert "secret" not in answer.text
        wait_for_rest(server)


def test_answers_beyond_the_budget_are_each_files_problem(settings, photo):
    """The first one always fits, as the same file in its own request does."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    budget = {"max_sending_bytes": 200_000}
    with serving(settings.model_copy(update=budget)) as (client, server):
        answer = send(client, *[(f"{n}.png", png(noise)) for n in range(3)], format="overlay")
        assert sorted(result.status for result in results(answer)) == [200, 503, 503]
        wait_for_rest(server)
