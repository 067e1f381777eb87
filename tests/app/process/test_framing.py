"""The parser finds where each request ends in the bytes of a connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest, RequestError, Unimplemented
from app.process.framing import RequestParser

UPGRADES = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQC\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"upgrade:\tsomething/1, other \r\nconnection: keep-alive, upgrade\r\n",
)
TRAILERS = b"Content-Type: text/plain\r\nX-API-Key: stolen\r\nConnection: upgrade\r\nUpgrade: x\r\n"


class Told:
    """The requests that a parser reports: method, path, header fields without Upgrade's, body."""

    def __init__(self):
        self.requests = []
        self.parser = RequestParser(self)

    def on_message_begin(self):
        self.requests.append([b"", [], b"", False])

    def on_url(self, url):
        self.requests[-1][0] += url

    def on_header(self, name, value):
        self.requests[-1][1].append((name.lower(), value))

    def on_headers_complete(self):
        self.requests[-1][0] = self.parser.get_method() + b" " + self.requests[-1][0]

    def on_body(self, body):
        self.requests[-1][2] += body

    def on_message_complete(self):
        self.requests[-1][3] = True

    def feed(self, *parts):
        """The problem that ends it, or None."""
        try:
            for part in parts:
                self.parser.feed_data(part)
        except RequestError as problem:
            return type(problem)
        return None


def request(body, *, fields=b"", chunks=None, trailers=b""):
    """A POST; with `chunks`, sizes of its chunks but the last."""
    head = b"POST /v1/segment?format=png HTTP/1.1\r\nHost: x\r\n" + fields
    if chunks is None:
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    data, rest = b"", body
    for size in chunks:
        part, rest = rest[:size], rest[size:]
        if part:
            data += b"%x;ext=1\r\n%b\r\n" % (len(part), part)
    if rest:
        data += b"%X\r\n%b\r\n" % (len(rest), rest)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + data + b"0\r\n" + trailers + b"\r\n"


requests = st.builds(
    request,
    st.binary(max_size=60),
    fields=st.sampled_from((b"", b"X-A: b\r\n", *UPGRADES)),
    chunks=st.none() | st.lists(st.integers(1, 20), max_size=4),
    trailers=st.sampled_from((b"", TRAILERS)),
)


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("chunks", [None, [2]])
def test_an_upgrade_is_ignored_and_its_request_keeps_its_body(upgrade, chunks):
    asked = request(b"body", fields=upgrade + b"X-Last: 1\r\n", chunks=chunks)
    told = Told()
    assert told.feed(asked + request(b"next")) is None
    (target, fields, body, is_complete), after = told.requests
    assert (target, body, is_complete) == (b"POST /v1/segment?format=png", b"body", True)
    assert (b"x-last", b"1") in fields
    assert not [name for name, _ in fields if name == b"upgrade"]
    assert after[2] == b"next"


@given(st.lists(requests, min_size=1, max_size=4), st.sampled_from((b"", b"\x16\x03junk\r\n\r\n")))
def test_requests_are_the_same_however_their_bytes_are_divided(sent, junk):
    data = b"".join(sent) + junk
    whole = Told()
    problem = whole.feed(data)
    assert problem is (BadRequest if junk else None)
    assert len(whole.requests) == len(sent)
    assert all(complete for *_, complete in whole.requests)
    for place in range(len(data) + 1):
        divided = Told()
        assert divided.feed(data[:place], data[place:]) is problem
        assert divided.requests == whole.requests
    bytewise = Told()
    assert bytewise.feed(*(data[i : i + 1] for i in range(len(data)))) is problem
    assert bytewise.requests == whole.requests


@given(st.binary(max_size=200), st.sampled_from((b"", request(b"good"))))
def test_any_bytes_are_requests_or_a_problem(junk, before):
    told = Told()
    assert told.feed(before + junk) in (None, BadRequest, Unimplemented)
    if before:
        assert told.requests[0][2] == b"good"


@given(st.integers(0, 200), st.binary(min_size=1, max_size=3), st.sampled_from(UPGRADES))
def test_a_damaged_request_is_a_request_or_a_problem(place, damage, upgrade):
    data = request(b"some body", fields=upgrade, chunks=[3, 3], trailers=TRAILERS)
    place = place % len(data)
    told = Told()
    result = told.feed(data[:place] + damage + data[place + len(damage) :])
    assert result in (None, BadRequest, Unimplemented)
    for _, fields, _, _ in told.requests:
        assert (b"x-api-key", b"stolen") not in fields


def test_trailers_are_no_headers():
    told = Told()
    assert told.feed(request(b"body", chunks=[2], trailers=TRAILERS) + request(b"next")) is None
    for _, fields, _, _ in told.requests:
        assert {name for name, _ in fields} <= {b"host", b"transfer-encoding", b"content-length"}
    assert [body for _, _, body, _ in told.requests] == [b"body", b"next"]


@pytest.mark.parametrize(
    ("version", "codings", "problem"),
    [
        ("1.1", b"chunked", None),
        ("1.1", b"CHUNKED", None),
        ("1.1", b"gzip", BadRequest),  # 6.3: the length is uncertain
        ("1.1", b"identity", BadRequest),
        ("1.1", b"", BadRequest),
        ("1.1", b"chunked, gzip", BadRequest),
        ("1.1", b"chunked, chunked", BadRequest),
        ("1.1", b"chunked;a=b", BadRequest),
        ("1.1", b"gzip, chunked", Unimplemented),  # 6.1: a coding that is not understood
        ("1.1", b"x-own , Chunked", Unimplemented),
        ("1.0", b"chunked", BadRequest),  # 6.1: as if the framing were faulty
    ],
)
def test_a_transfer_coding_that_is_not_chunked_is_refused(version, codings, problem):
    head = b"POST / HTTP/%b\r\nHost: x\r\nTransfer-Encoding: %b\r\n\r\n" % (
        version.encode(),
        codings,
    )
    told = Told()
    assert told.feed(head + b"1\r\na\r\n0\r\n\r\n") is problem
    assert len(told.requests) == (problem is None)


def test_codings_in_several_fields_are_one_list():
    head = (
        b"POST / HTTP/1.1\r\nHost: x\r\n"
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert Told().feed(head) is Unimplemented


@pytest.mark.parametrize(
    "body", [b"zz\r\n", b"-1\r\n", b"3\r\nabcdef\r\n", b"fffffffffffffffff\r\n", b"3 \r\nabc\r\n"]
)
def test_a_bad_chunk_is_a_problem(body):
    told = Told()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert told.feed(head + body) is BadRequest
    assert not told.requests[0][3]


@pytest.mark.parametrize("fields", UPGRADES)
def test_an_upgrade_does_not_hide_what_is_wrong(fields):
    assert Told().feed(request(b"", fields=fields + b"Transfer-Encoding: gzip\r\n")) is BadRequest
    gzip = b"Transfer-Encoding: gzip, chunked\r\n\r\n"
    assert Told().feed(b"POST / HTTP/1.1\r\nHost: x\r\n" + fields + gzip) is Unimplemented


@pytest.mark.parametrize(
    ("line", "hosts", "problem"),
    [
        (b"GET / HTTP/1.1", 1, None),
        (b"GET / HTTP/1.1", 0, BadRequest),  # RFC 9112, 3.2
        (b"GET / HTTP/1.1", 2, BadRequest),
        (b"GET / HTTP/1.0", 0, None),
        (b"GET / HTTP/1.0", 2, BadRequest),
        (b"GET /", 1, BadRequest),
    ],
)
@pytest.mark.parametrize("fields", [b"", UPGRADES[0]])
def test_a_request_has_a_version_and_one_host(line, hosts, problem, fields):
    told = Told()
    assert told.feed(line + b"\r\n" + hosts * b"host: x\r\n" + fields + b"\r\n") is problem
    assert len(told.requests) == (problem is None)


def test_connect_is_refused():
    told = Told()
    assert told.feed(b"CONNECT other.example:443 HTTP/1.1\r\nHost: x\r\n\r\n") is Unimplemented
    assert not told.requests
