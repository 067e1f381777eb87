"""The comparison with answers that photos get alone finds and keeps every difference."""

from http import HTTPStatus

from benchmarks.connection import Request, Response
from benchmarks.exchange import Plan, compare, keep_failures
from benchmarks.requests import make_judge
from benchmarks.results import Outcome


def test_concurrent_callers_get_the_answers_that_they_get_alone(tmp_path):
    results, starts = compare(Plan.make_quick(), tmp_path)
    assert starts >= 1
    assert {result.outcome for result in results} == {Outcome.MASK}
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_differs_is_kept_with_its_photo(tmp_path):
    request, headers = Request("a photo", b"", b"photo"), {"x-weights-digest": "0"}
    alone, other = (Response(HTTPStatus.OK, headers, body) for body in (b"mask", b"other"))
    judge = keep_failures(make_judge({request: {"0": alone}}), tmp_path)
    assert judge(request, alone) is Outcome.MASK
    assert judge(request, other) is Outcome.WRONG
    assert (tmp_path / "0-photo").read_bytes() == b"photo"
    assert (tmp_path / "0-answer").read_bytes() == b"other"
    assert "x-weights-digest" in (tmp_path / "0-headers").read_text()
