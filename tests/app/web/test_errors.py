"""The page shows every error as text, and never in the console."""

import json

import pytest

from app.access.keys import format_line, make_key
from tests.app.conftest import serving
from tests.app.web.conftest import choose, make_file, wait_for_mask
from tests.conftest import PHOTO

CAT = make_file("cat.jpg", PHOTO.read_bytes(), "image/jpeg")
OVERLOADED = {
    "type": "urn:segmentation:problem:overloaded",
    "title": "The server cannot answer in time",
    "status": 503,
    "detail": "The queue is full.",
    "remedy": "Come back later.",
}


def fulfil(retry_after):
    """The answer of an overloaded server."""
    return {
        "status": 503,
        "headers": {"Retry-After": str(retry_after), "Content-Type": "application/problem+json"},
        "body": json.dumps(OVERLOADED),
    }


def test_a_problem_is_shown_in_the_servers_words(page, client):
    choose(page, make_file("notes.txt", b"hello", "text/plain"))
    page.locator("#problem").wait_for()
    problem = client.post("/v1/segment", content=b"hello").json()
    for part in ("title", "detail", "remedy"):
        assert page.locator(f"#problem-{part}").inner_text() == problem[part]
        assert problem[part] in page.locator("#announcement").inner_text()
    assert page.locator("#problem-key").is_hidden()
    assert page.locator("#stage-help").is_hidden()  # there is nothing to point at


def test_a_file_above_the_limit_is_not_sent(page, shared):
    choose(page, make_file("huge.png", b"\x89PNG" + bytes(8 * 2**20)))
    page.locator("#problem").wait_for()
    assert "at most 8 MiB" in page.locator("#problem-detail").inner_text()
    assert not [url for url in shared.urls if "/v1/segment" in url]


def test_without_a_network_the_page_says_so_and_tries_again(page):
    page.route("**/v1/segment*", lambda route: route.abort())
    choose(page, CAT)
    page.locator("#problem").wait_for()
    assert page.locator("#problem-title").inner_text() == "The server cannot be reached"
    page.unroute("**/v1/segment*")
    page.locator("#problem-again").click()
    wait_for_mask(page)
    assert page.locator("#problem").is_hidden()


def test_a_busy_server_is_asked_again_when_it_says(open_page):
    page = open_page()
    page.clock.install()
    page.route("**/v1/segment*", lambda route: route.fulfill(**fulfil(7)), times=1)
    choose(page, CAT)
    page.locator("#photos li[data-state=retrying]").wait_for()
    text = page.locator("#progress").inner_text()
    assert "The server cannot answer in time" in text
    assert "Trying again in 7 s" in text
    page.clock.run_for(7000)
    wait_for_mask(page)


def test_a_long_wait_is_shown_and_not_retried(page):
    page.route("**/v1/segment*", lambda route: route.fulfill(**fulfil(3600)))
    choose(page, CAT)
    page.locator("#problem").wait_for()
    assert page.locator("#problem-detail").inner_text() == OVERLOADED["detail"]
    assert page.locator("#problem-remedy").inner_text() == OVERLOADED["remedy"]


def test_an_answer_of_another_server_is_a_problem_too(page):
    page.route("**/v1/segment*", lambda route: route.fulfill(status=502, body="<h1>proxy</h1>"))
    choose(page, CAT)
    page.locator("#problem").wait_for()
    assert page.locator("#problem-title").inner_text() == "The server answered with status 502"


@pytest.mark.parametrize("body", [b"no PNG", b""])
def test_an_invalid_mask_is_a_problem_too(page, body):
    page.route("**/v1/segment*", lambda route: route.fulfill(status=200, body=body))
    choose(page, CAT)
    page.locator("#problem").wait_for()
    assert page.locator("#problem-title").inner_text() == "The mask cannot be shown"


def test_a_server_that_does_not_answer_at_the_start_is_asked_again(open_page, server):
    page = open_page()
    page.route("**/v1/model", lambda route: route.abort())
    page.reload()
    page.locator("#notice").wait_for()
    assert page.locator("#notice-title").inner_text() == "The server cannot be reached"
    page.unroute("**/v1/model")
    page.locator("#notice-button").click()
    page.locator("#known").wait_for()
    assert page.locator("#notice").is_hidden()


def test_a_server_with_keys_asks_for_one_and_keeps_it_in_the_tab_only(
    open_page, settings, tmp_path
):
    key = make_key()
    (tmp_path / "keys").write_text(format_line("anna", key))
    with serving(settings.model_copy(update={"keys_file": tmp_path / "keys"})) as (_, server):
        page = open_page(address=server.address, ready=False)
        page.locator("#notice").wait_for()
        assert "no API key" in page.locator("#notice-text").inner_text()
        choose(page, CAT)
        dialog = page.get_by_role("dialog", name="API key")
        dialog.wait_for()
        dialog.get_by_label("Key").fill("wrong")
        dialog.get_by_role("button", name="Use this key").click()
        page.locator("#key-problem").wait_for()
        assert "unknown" in page.locator("#key-problem").inner_text()
        dialog.get_by_label("Key").fill("ключ")
        dialog.get_by_role("button", name="Use this key").click()
        assert "letters" in page.locator("#key-problem").inner_text()
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_role("button", name="Use this key").click()
        wait_for_mask(page)
        assert page.locator("#notice").is_hidden()
        assert key not in "".join(open_page.opened[0].urls)
        assert page.evaluate("JSON.stringify({ ...localStorage }) + document.cookie") == "{}"
        page.reload()
        page.locator("#known").wait_for()
        other = open_page(address=server.address, ready=False)
        other.locator("#notice").wait_for()
