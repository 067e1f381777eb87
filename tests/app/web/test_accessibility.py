"""axe-core checks every state of the page, and Swagger UI works under its security policy."""

import pytest

from tests.app.web.conftest import choose, make_file, show_mode, wait_for_mask
from tests.conftest import PHOTO

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)
CAT = make_file("cat.jpg", PHOTO.read_bytes(), "image/jpeg")


def violations(page):
    """axe's findings, of all its rules."""
    result = axe.Axe().run(page)
    return [
        f"{found['id']}: {node['html']}"
        for found in result.response["violations"]
        for node in found["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_of_the_page_is_accessible(open_page, scheme):
    page = open_page(color_scheme=scheme, reduced_motion="reduce")
    assert violations(page) == []
    choose(page, CAT, make_file("notes.txt", b"hello", "text/plain"))
    wait_for_mask(page)
    show_mode(page, "compare")
    page.locator("#classes button").first.click()
    page.locator("#stage").focus()
    page.keyboard.press("ArrowLeft")
    page.locator("#photos li[data-state=failed]").wait_for()
    assert violations(page) == []
    page.locator("#photos .tile[title='notes.txt']").click()
    page.locator("#problem").wait_for()
    assert violations(page) == []
    page.evaluate("document.getElementById('key-button').hidden = false")
    page.locator("#key-button").click()
    assert violations(page) == []


def test_the_phone_is_accessible(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    choose(page, CAT)
    wait_for_mask(page)
    assert violations(page) == []
    assert page.locator("#stage-help").inner_text().startswith("Touch the picture")


@pytest.mark.parametrize(
    ("system", "chosen", "is_dark"),
    [
        ("light", None, False),
        ("dark", None, True),
        ("dark", "light", False),
        ("light", "dark", True),
    ],
)
def test_the_api_has_the_theme_of_the_page(open_page, system, chosen, is_dark):
    page = open_page(color_scheme=system)
    if chosen:
        page.evaluate("theme => localStorage.setItem('theme', theme)", chosen)
    page.goto(page.url + "docs")
    page.locator(".opblock").first.wait_for()
    assert page.locator("main").count() == 1
    colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert colour == ("rgb(28, 32, 34)" if is_dark else "rgba(0, 0, 0, 0)")


def test_the_api_can_be_tried_out_under_docs(open_page):
    page = open_page("/docs")
    operation = page.locator(".opblock-post", has_text="/v1/segment").first
    operation.locator("button.opblock-summary-control").click()
    operation.locator("input[type=file]").set_input_files(CAT)
    operation.locator("button.execute").click()
    picture = operation.locator(".live-responses-table img")
    picture.wait_for()
    page.wait_for_function(
        "document.querySelector('.live-responses-table img').naturalWidth === 451"
    )
