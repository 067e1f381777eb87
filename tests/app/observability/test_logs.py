"""No request can forge a log line, and neither keys nor pictures appear in the log.

The tests call a real server process, at level debug and in both formats, and read its log.
"""

import io
import json
import re
import signal
import socket
import threading

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from app.access.keys import format_line, make_key
from app.observability.logs import (
    MAX_CHARACTERS,
    MAX_LINES,
    make_printable,
    write_indented_traceback,
)
from tests.app.crashing import FORGED
from tests.app.test_program import program

SECRET = "what-the-picture-shows"
EVENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[\w+ *\] ")

PATHS = [
    f"/v1/a%0A{FORGED.replace(' ', '%20')}",
    f"/v1/a%0D%0A{FORGED.replace(' ', '%20')}%0D",
    "/v1/%1B[2J%1B]0;title%07%9B31m",
    "/v1/%C2%9B31m%E2%80%A8%E2%80%AEline-separator-and-right-to-left",
    "/v1/a'\"=status=200%20status=200",
    "/v1/" + "a" * 60_000,
    "/v1/" + "%0A" * 20_000,
]


def pictures():
    """Files with a secret in their metadata, which Pillow's debug messages quote."""
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    text = PngImagePlugin.PngInfo()
    text.add_text(SECRET, SECRET)
    exif = Image.Exif()
    exif[0x010E] = SECRET
    for options in (
        {"format": "PNG", "pnginfo": text, "exif": exif},
        {"format": "JPEG", "exif": exif, "comment": SECRET},
        {"format": "TIFF", "description": SECRET},
        {"format": "WEBP", "exif": exif},
    ):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        yield buffer.getvalue()


def raw_requests(key):
    """Requests that no client library would send."""
    yield from (f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode() for path in PATHS)
    yield f"GET /v1/model?key={key} HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\tb\r\n".encode()
    yield f"GET /v1/model HTTP/1.1\r\nHost: x\r\nX-Request-Timeout: \x9b{FORGED}\r\n".encode(
        "latin-1"
    )
    yield (
        f"GET /v1/model?key={key} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"
    ).encode()


def malformed(key):
    yield f"GET /\x1b[2J{key} HTTP/1.1\r\n".encode()
    yield f"{FORGED} /{key} HTTP/1.1\r\n".encode()
    yield f"GET / HTTP/1.1\r\nA\nB: {key}\x00{FORGED}\r\n".encode()


def odd_forms(key):
    for head in (
        f'Content-Disposition: form-data; name="\x1b{SECRET}"',
        f"{SECRET}: \x1b\r{FORGED}",
        f'Content-Disposition: form-data; name="file"; filename="{SECRET}"\r\nB\x00: {FORGED}',
    ):
        yield f"--b\r\n{head}\r\n\r\n{SECRET}\r\n--b--{SECRET * 100}".encode("latin-1")


def send(address, request):
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(request)
        assert connection.recv(65536).startswith(b"HTTP/1.1 ")


@pytest.fixture(scope="module", params=["console", "json"])
def session(request, weights_file, tmp_path_factory):
    """(format, lines of the log, number of requests that reached a route, the caller's key)."""
    key = make_key()
    keys_file = tmp_path_factory.mktemp("keys") / "keys"
    keys_file.write_text(format_line("anna", key))
    mine = {"Authorization": f"Bearer {key}"}
    with program(
        module="tests.app.crashing",
        weights=weights_file,
        port=0,
        device="cpu",
        threads=1,
        log_level="debug",
        log_format=request.param,
        keys_file=keys_file,
    ) as process:
        lines = []
        for line in process.stderr:
            lines.append(line.removesuffix("\n"))
            if found := re.search(r'address"?[=:] ?"?(http://[\d.:]+)', line):
                break
        rest = threading.Thread(target=lambda: lines.extend(process.stderr.read().split("\n")))
        rest.start()
        address, count = found[1], 0
        for raw in raw_requests(key):
            send(address, raw + f"Authorization: Bearer {key}\r\n\r\n".encode())
            count += 1
        for raw in malformed(key):
            send(address, raw + f"Authorization: Bearer {key}\r\n\r\n".encode())
        with httpx.Client(base_url=address, headers=mine, timeout=60) as client:
            for picture in pictures():
                assert client.post("/v1/segment", content=picture).status_code == 500
                assert client.post("/v1/segment", content=picture[:-20]).status_code >= 400
                count += 2
            for form in odd_forms(key):
                client.post(
                    "/v1/segment",
                    content=form,
                    headers={"Content-Type": "multipart/form-data; boundary=b"},
                )
                count += 1
            client.get("/health/live", headers={"X-API-Key": "x" * 30_000})
            count += 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        rest.join(60)
    return request.param, [line for line in lines if line], count, key


def test_every_line_is_an_event_and_no_event_is_forged(session):
    log_format, lines, count, _ = session
    events = []
    for line in lines:
        assert line.isprintable()
        if log_format == "json":
            assert "forged" not in json.loads(line)["event"]
            events.append(json.loads(line)["event"])
        elif not line.startswith("    "):  # a traceback is indented
            assert EVENT.match(line), line
            assert not line.startswith(FORGED)
            events.append(EVENT.sub("", line).split(" ")[0])
    assert events.count("request") + events.count("request failed") >= count
    requests = [line for line in lines if re.search(r'\] request +\[|"event": "request"', line)]
    assert len(requests) == count


def test_even_decoded_a_value_has_no_control_characters(session):
    log_format, lines, _, _ = session
    # In the console format, the lines themselves are read.
    values = map(json.loads, lines) if log_format == "json" else lines

    def texts(value):
        if isinstance(value, dict):
            return [text for entry in value.values() for text in texts(entry)]
        if isinstance(value, list):
            return [text for entry in value for text in texts(entry)]
        return [value] if isinstance(value, str) else []

    for value in values:
        for text in texts(value):
            assert text.isprintable()
            assert len(text) < 10 * MAX_CHARACTERS


def test_lines_are_bounded(session):
    log_format, lines, _, _ = session
    longest = max(len(line) for line in lines)
    # A character that is escaped has six at most here; JSON has a whole traceback in one line.
    assert longest < (6 * MAX_CHARACTERS + 500 if log_format == "console" else 50_000)


def test_the_log_has_neither_keys_nor_image_content(session):
    _, lines, _, key = session
    text = "\n".join(lines)
    for secret in (key, SECRET, SECRET[:10], "Bearer", "uthorization", "xxxxxxxxxx" * 60):
        assert secret not in text
    assert "an error" in text, "the crash itself is there"
    assert "anna" in text, "and who called"


def test_a_traceback_is_indented_escaped_and_bounded():
    sio = io.StringIO()
    try:
        raise ValueError("first\x1b[2J\r" + f"\n{FORGED}" * 10_000)
    except ValueError as error:
        write_indented_traceback(sio, (type(error), error, error.__traceback__))
    first, *lines = sio.getvalue().split("\n")
    assert first == ""
    assert len(lines) == MAX_LINES + 1
    assert all(line.startswith("    ") and line.isprintable() for line in lines)
    assert lines[0].strip() == "Traceback (most recent call last):"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("/v1/segment", "/v1/segment"),
        ("Straße 1", "Straße 1"),
        ("a\nb\x1b\u202e\u2028", r"a\nb\x1b\u202e\u2028"),
        ("\udc80", r"\udc80"),
        ("ends\n", "ends"),
        (
            "x" * (MAX_CHARACTERS + 1),
            "x" * MAX_CHARACTERS + f"... ({MAX_CHARACTERS + 1} characters)",
        ),
    ],
)
def test_control_characters_are_escaped(text, written):
    assert make_printable(text) == written
