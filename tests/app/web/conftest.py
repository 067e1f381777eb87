"""A real Chromium, one for all tests of the pages; each test has a profile of its own."""

import base64
import io
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

ARGUMENTS = [
    "--no-sandbox",  # the tests of a container run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
PATIENCE_MS = 120_000
"""So long that a wait times out only if the expected event never happens."""


# Not longer than this package: while it runs, no other test can start an event loop.
@pytest.fixture(scope="package")
def chromium() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=ARGUMENTS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


class Opened:
    """A page, the messages of its console, and the addresses of its requests."""

    def __init__(self, context) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.set_default_navigation_timeout(PATIENCE_MS)
        self.messages: list[str] = []
        self.urls: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))

    def own_messages(self) -> list[str]:
        """Chromium itself logs every error status, even if the page handles it."""
        return [text for text in self.messages if not text.startswith("Failed to load resource")]


@pytest.fixture
def open_page(chromium, server) -> Iterator:
    """Opens pages, of the shared server by default. None may write to its console."""
    opened, contexts = [], []

    def open_(path="/", *, address=server.address, ready=True, **options):
        contexts.append(chromium.new_context(**options))
        opened.append(Opened(contexts[-1]))
        page = opened[-1].page
        page.goto(address + path)
        if path == "/" and ready:
            page.locator("#known").wait_for()
        return page

    open_.opened = opened
    yield open_
    for context in contexts:
        context.close()
    for one in opened:
        assert one.own_messages() == []
        own = {one.page.url.split("/")[2]}
        visited = {url.split("/")[2] for url in one.urls if url.startswith("http")}
        assert visited <= own | {"127.0.0.1"}


@pytest.fixture(scope="package")
def shared(chromium, server) -> Iterator[Opened]:
    """One page for all tests that need no special browser, because loading takes longest."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = Opened(context)
    opened.page.goto(server.address)
    opened.page.locator("#known").wait_for()
    yield opened
    context.close()


@pytest.fixture
def page(shared) -> Iterator:
    """The shared page, without photos, as at its start."""
    shared.messages.clear()
    shared.urls.clear()
    yield shared.page
    shared.page.unroute_all()
    clear(shared.page)
    assert shared.own_messages() == []


def clear(page) -> None:
    """Remove all photos and put the controls back."""
    page.keyboard.press("Escape")
    while page.locator("#photos li").count():
        page.locator("#photos .remove").first.click()
    page.locator("#start").wait_for()
    page.locator("#opacity").evaluate(
        "slider => { slider.value = 65; slider.dispatchEvent(new Event('input')); }"
    )
    page.locator("#modes input[value=overlay]").evaluate(
        "input => input.dispatchEvent(new Event('change', { bubbles: true }))"
    )


def make_file(name="photo.png", data=b"", media_type="image/png"):
    return {"name": name, "mimeType": media_type, "buffer": data}


def encode(pixels, form="PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form, **options)
    return file.getvalue()


def choose(page, *files) -> None:
    page.set_input_files("#files", list(files))


def wait_for_mask(page) -> None:
    """Until the selected photo has its mask."""
    page.locator("#downloads-part").wait_for()
    page.locator("#stage[aria-busy=false]").wait_for()


def show_mode(page, mode) -> None:
    page.locator(f"#modes input[value={mode}]").check()


READ = """id => {
  const canvas = document.getElementById(id);
  const { width, height } = canvas;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  let text = "";
  for (let i = 0; i < data.length; i += 32768) {
    text += String.fromCharCode(...data.subarray(i, i + 32768));
  }
  return { width, height, text: btoa(text) };
}"""


def read_canvas(page, identifier) -> np.ndarray:
    """The canvas' pixels, (H, W, 4)."""
    read = page.evaluate(READ, identifier)
    pixels = np.frombuffer(base64.b64decode(read["text"]), np.uint8)
    return pixels.reshape(read["height"], read["width"], 4)


def ask_for_mask(client, data) -> tuple[np.ndarray, np.ndarray, bytes]:
    """The API's own answer: indices (H, W), palette (N, 3), and the PNG."""
    png = client.post("/v1/segment", content=data).raise_for_status().content
    picture = Image.open(io.BytesIO(png))
    return np.asarray(picture), np.array(picture.getpalette()).reshape(-1, 3), png
