import pytest

from app.errors import NotAcceptable
from app.formats import AnswerFormat
from app.http.negotiation import accepts_gzip, choose_media_type, negotiate


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "png"),
        (" , ", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/png", "png"),
        ("application/json", "json"),
        ("APPLICATION/JSON ; charset=utf-8", "json"),
        ("application/*", "json"),
        ("application/x-npy", "npy"),
        ("application/octet-stream", "raw"),
        ("text/html, application/json;q=0.5, image/png;q=0.4", "json"),
        ("image/png;q=0.1, application/x-npy;q=0.9", "npy"),
        ("*/*;q=0.1, application/x-npy", "npy"),
        ("image/png;q=0, */*", "json"),
        ("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", "png"),
    ],
)
def test_the_callers_preference_wins(accept, expected):
    assert negotiate(accept) is AnswerFormat(expected)


@pytest.mark.parametrize("accept", ["text/html", "image/webp", "image/png;q=0", "*/*;q=x"])
def test_an_unknown_type_is_not_acceptable(accept):
    with pytest.raises(NotAcceptable) as caught:
        negotiate(accept)
    assert "image/png" in caught.value.remedy


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("*", True),
        ("gzip;q=0, *", False),
        ("identity", False),
    ],
)
def test_gzip_is_used_for_callers_that_accept_it(header, expected):
    assert accepts_gzip(header) is expected


@pytest.mark.parametrize(
    ("answer", "accept", "expected"),
    [
        ("overlay", "", "image/png"),
        ("overlay", "*/*", "image/png"),
        ("overlay", "image/jpeg", "image/jpeg"),
        ("overlay", "image/png;q=0.5, image/jpeg", "image/jpeg"),
        ("overlay", "text/html", "image/png"),
        ("rle", "image/jpeg", "application/json"),
    ],
)
def test_the_caller_chooses_between_the_two_types_of_a_format(answer, accept, expected):
    assert choose_media_type(AnswerFormat(answer), accept) == expected
