"""The page in a real Chromium: photos in, masks on the canvas, files out."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.app.web.conftest import (
    ask_for_mask,
    choose,
    encode,
    make_file,
    read_canvas,
    show_mode,
    wait_for_mask,
)
from tests.conftest import PHOTO

CAT = PHOTO.read_bytes()


def cat(name="cat.jpg"):
    return make_file(name, CAT, "image/jpeg")


def colours_of(indices, palette):
    """The opaque pixels (H, W, 4) of these indices."""
    opaque = np.full((*indices.shape, 1), 255, np.uint8)
    return np.concatenate([palette[indices].astype(np.uint8), opaque], axis=-1)


@pytest.fixture
def shown(page):
    """A page that shows the cat and its mask."""
    choose(page, cat())
    wait_for_mask(page)
    return page


def test_the_mask_on_the_canvas_is_the_servers(shown, client):
    indices, palette, _ = ask_for_mask(client, CAT)
    show_mode(shown, "mask")
    assert np.array_equal(read_canvas(shown, "mask-canvas"), colours_of(indices, palette))
    show_mode(shown, "overlay")
    over = read_canvas(shown, "mask-canvas")
    assert np.array_equal(over[..., 3] == 255, indices != 0), (
        "the background lets the photo through"
    )
    assert np.array_equal(over[indices != 0], colours_of(indices, palette)[indices != 0])


def test_the_outlines_run_between_the_classes(shown, client):
    indices, _, _ = ask_for_mask(client, CAT)
    edges = np.zeros(indices.shape, bool)
    edges[:, 1:] |= indices[:, 1:] != indices[:, :-1]
    edges[1:] |= indices[1:] != indices[:-1]
    assert np.array_equal(read_canvas(shown, "outline-canvas")[..., 3] == 255, edges)


def test_the_legend_has_the_share_of_each_class(shown, client):
    answer = client.post("/v1/segment?format=json", content=CAT).json()
    expected = {entry["name"]: entry["pixels"] / (300 * 451) for entry in answer["classes"]}
    rows = shown.locator("#classes button").all()
    listed = {row.locator(".name").inner_text(): row.locator(".share").inner_text() for row in rows}
    assert listed.keys() == expected.keys()
    for name, share in expected.items():
        text = "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
        assert listed[name] == text
    order = [expected[name] for name in listed if name != "background"]
    assert order == sorted(order, reverse=True)


def test_a_class_is_highlighted_from_the_legend_until_escape(shown, client):
    indices, palette, _ = ask_for_mask(client, CAT)
    show_mode(shown, "mask")
    row = shown.locator("#classes button").first
    chosen = int(row.get_attribute("data-index"))
    row.click()
    assert row.get_attribute("aria-pressed") == "true"
    expected = colours_of(np.where(indices == chosen, chosen, 0), palette)
    assert np.array_equal(read_canvas(shown, "mask-canvas"), expected)
    shown.keyboard.press("Escape")
    assert row.get_attribute("aria-pressed") == "false"
    assert np.array_equal(read_canvas(shown, "mask-canvas"), colours_of(indices, palette))


def test_the_class_under_the_pointer_is_named_and_marked(shown, client):
    indices, _, _ = ask_for_mask(client, CAT)
    names = [entry["name"] for entry in client.get("/v1/model").json()["classes"]]
    box = shown.locator("#stage").bounding_box()
    for row, column in [(20, 30), (150, 225), (280, 440)]:
        at_x = box["x"] + box["width"] * (column + 0.5) / 451
        at_y = box["y"] + box["height"] * (row + 0.5) / 300
        shown.mouse.move(at_x, at_y)
        name = names[indices[row, column]]
        assert shown.locator("#probe-name").inner_text() == name
        assert shown.locator("#classes button.pointed .name").inner_text() == name
    shown.mouse.move(1, 1)
    assert shown.locator("#probe").is_hidden()
    assert shown.locator("#classes button.pointed").count() == 0


def test_the_arrow_keys_read_classes_too(shown, client):
    indices, _, _ = ask_for_mask(client, CAT)
    names = [entry["name"] for entry in client.get("/v1/model").json()["classes"]]
    shown.locator("#stage").focus()
    row, column = 150, 225  # the first key shows the crosshair in the middle
    for key, step in [("ArrowLeft", 0), ("ArrowRight", 1), ("Shift+ArrowDown", 0)]:
        shown.keyboard.press(key)
        column += 11 * step
        row += key.startswith("Shift")
        expected = f"{names[indices[row, column]]}, row {row + 1}, column {column + 1}"
        assert shown.locator("#announcement").inner_text() == expected


def test_the_opacity_is_that_of_the_slider(shown):
    shown.locator("#opacity").fill("20")
    assert shown.locator("#opacity-value").inner_text() == "20 %"
    opacity = "document.getElementById('mask-canvas').style.opacity"
    assert shown.evaluate(opacity) == "0.2"
    show_mode(shown, "mask")
    assert shown.evaluate(opacity) == "1"
    assert shown.locator("#opacity").is_disabled()


def test_the_divider_moves_by_keys_and_by_pointer(shown):
    divider = shown.locator("#divider")
    assert divider.is_hidden()
    show_mode(shown, "compare")
    divider.focus()
    for key, value in [("ArrowRight", 52), ("PageDown", 42), ("Home", 0), ("End", 100)]:
        shown.keyboard.press(key)
        assert divider.get_attribute("aria-valuenow") == str(value)
    clip = "getComputedStyle(document.getElementById('layers')).clipPath"
    assert shown.evaluate(clip) == "inset(0px 0px 0px 100%)"
    box = shown.locator("#stage").bounding_box()
    handle = divider.bounding_box()
    shown.mouse.move(handle["x"] + 10, box["y"] + 40)
    shown.mouse.down()
    shown.mouse.move(box["x"] + box["width"] / 4, box["y"] + 40)
    shown.mouse.up()
    shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    assert divider.get_attribute("aria-valuenow") == "25"


def download(page, identifier):
    with page.expect_download() as started:
        page.locator(identifier).click()
    return started.value.suggested_filename, started.value.path().read_bytes()


def test_the_mask_and_the_array_are_the_servers_to_the_byte(shown, client):
    indices, _, png = ask_for_mask(client, CAT)
    assert download(shown, "#download-mask") == ("cat-mask.png", png)
    name, data = download(shown, "#download-array")
    assert name == "cat-mask.npy"
    array = np.load(io.BytesIO(data))
    assert array.dtype == np.uint8
    assert np.array_equal(array, indices)


def test_the_overlay_is_what_is_shown_at_the_photos_size(page, client, photo):
    data = encode(photo)
    indices, palette, _ = ask_for_mask(client, data)
    choose(page, make_file("a.b.png", data))
    wait_for_mask(page)
    page.locator("#opacity").fill("40")
    name, saved = download(page, "#download-overlay")
    assert name == "a.b-overlay.png"
    overlay = np.asarray(Image.open(io.BytesIO(saved)).convert("RGB")).astype(int)
    mixed = np.where((indices == 0)[..., None], photo, 0.6 * photo + 0.4 * palette[indices])
    edges = read_canvas(page, "outline-canvas")[..., 3] == 255
    assert np.abs(overlay - mixed)[~edges].max() <= 2
    assert (overlay[edges] == 255).all()


def test_every_stage_of_the_server_has_its_time(page):
    with page.expect_response("**/v1/segment*") as answered:
        choose(page, cat())
    wait_for_mask(page)
    stages = [part.split(";")[0].strip() for part in
              answered.value.headers["server-timing"].split(",")]  # fmt: skip
    rows = page.locator("#times div").all()
    assert [row.get_attribute("class") for row in rows] == [
        f"stage-{name}" for name in [*stages, "transfer"]
    ]
    for row in rows:
        assert row.locator("dd").inner_text().endswith(("ms", "s"))


def test_the_sample_needs_no_photo_of_ones_own(page, client):
    page.locator("#sample").click()
    wait_for_mask(page)
    show_mode(page, "mask")
    assert read_canvas(page, "mask-canvas").shape == (300, 451, 4)


FILES = """names => Promise.all(names.map(async (name) => {
  const photo = await (await fetch("web/sample.jpg")).blob();
  return new File([photo], name, { type: "image/jpeg" });
})).then((files) => {
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  return transfer;
})"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_photos_can_be_dropped_and_pasted(page, way):
    transfer = page.evaluate_handle(FILES, ["one.jpg", "two.jpg"])
    page.evaluate(
        """([way, transfer]) => {
          const event = way === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
          document.body.dispatchEvent(event);
        }""",
        [way, transfer],
    )
    wait_for_mask(page)
    page.locator("#photos li[data-state=done]").nth(1).wait_for()
    assert page.locator(".tile-name").all_inner_texts() == ["one.jpg", "two.jpg"]


def test_a_dropped_link_is_refused_with_a_message(page):
    page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.setData("text/uri-list", "x:y");
          document.body.dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }"""
    )
    assert "fetches nothing" in page.locator("#notice").inner_text()
    page.locator("#notice-button").click()
    assert page.locator("#notice").is_hidden()


def test_each_of_several_photos_has_its_own_mask_or_its_own_error(page, client):
    rng = np.random.default_rng(0)
    photos = [encode(rng.integers(0, 256, (60 + 7 * i, 90, 3), np.uint8)) for i in range(4)]
    files = [make_file(f"{i}.png", data) for i, data in enumerate(photos)]
    files.insert(2, make_file("broken.png", b"hello"))
    running, most = set(), []

    def start(request):
        if "/v1/segment" in request.url:
            running.add(request)
            most.append(len(running))

    page.on("request", start)
    page.on("requestfinished", lambda request: running.discard(request))
    choose(page, *files)
    page.locator("#photos li[data-state=done]").nth(3).wait_for()
    page.locator("#photos li[data-state=failed]").wait_for()
    assert max(most) <= 3
    assert len(most) == 5
    show_mode(page, "mask")
    for i, data in enumerate(photos):
        page.locator(f"#photos .tile[title='{i}.png']").click()
        page.wait_for_function(
            "height => document.getElementById('mask-canvas').height === height", arg=60 + 7 * i
        )
        indices, palette, _ = ask_for_mask(client, data)
        assert np.array_equal(read_canvas(page, "mask-canvas"), colours_of(indices, palette))
    page.locator("#photos .tile[title='broken.png']").click()
    assert page.locator("#problem").is_visible()
    assert page.locator("#downloads-part").is_hidden()


def test_a_photo_can_be_removed(page):
    choose(page, cat("one.jpg"), cat("two.jpg"))
    page.locator("#photos li[data-state=done]").nth(1).wait_for()
    page.get_by_role("button", name="Remove one.jpg").click()
    assert page.locator(".tile-name").all_inner_texts() == ["two.jpg"]
    assert page.locator("#title").inner_text() == "two.jpg"
    page.get_by_role("button", name="Remove two.jpg").click()
    assert page.locator("#start").is_visible()


def test_a_rotated_photo_is_shown_upright_with_its_mask(page, client, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = encode(photo, "JPEG", exif=exif, quality=95)
    choose(page, make_file("turned.jpg", data, "image/jpeg"))
    wait_for_mask(page)
    show_mode(page, "mask")
    indices, palette, _ = ask_for_mask(client, data)
    assert indices.shape == (451, 300)
    assert np.array_equal(read_canvas(page, "mask-canvas"), colours_of(indices, palette))
    assert read_canvas(page, "photo-canvas").shape == (451, 300, 4)


def test_a_photo_that_the_browser_cannot_show_still_has_its_mask(page, client, photo):
    data = encode(photo, "TIFF")
    choose(page, make_file("photo.tif", data, "image/tiff"))
    wait_for_mask(page)
    assert "cannot show photos in this format" in page.locator("#stage-note").inner_text()
    indices, palette, _ = ask_for_mask(client, data)
    assert np.array_equal(read_canvas(page, "mask-canvas"), colours_of(indices, palette))
    assert page.locator("#download-overlay").is_disabled()


def test_a_large_photo_is_shown_smaller_and_saved_whole(page, client):
    columns = np.linspace(0, 255, 2500).astype(np.uint8)
    pixels = np.broadcast_to(columns[None, :, None], (1500, 2500, 3))
    data = encode(np.ascontiguousarray(pixels), "JPEG")
    choose(page, make_file("large.jpg", data, "image/jpeg"))
    wait_for_mask(page)
    show_mode(page, "mask")
    indices, palette, png = ask_for_mask(client, data)
    height, width = round(1500 * 2048 / 2500), 2048
    rows = ((np.arange(height) + 0.5) * 1500 / height).astype(int)
    columns = ((np.arange(width) + 0.5) * 2500 / width).astype(int)
    expected = colours_of(indices[np.ix_(rows, columns)], palette)
    assert np.array_equal(read_canvas(page, "mask-canvas"), expected)
    assert download(page, "#download-mask")[1] == png


def test_masks_of_other_encoders_are_read_too(page, photo):
    """The server's PNGs have no filters; the decoder knows all five."""
    rng = np.random.default_rng(1)
    indices = (np.cumsum(rng.integers(0, 3, (64, 90)), axis=1) % 21).astype(np.uint8)
    raw = filter_rows(indices)
    decoded = page.evaluate(
        """async ([width, height, rows]) => {
          const { decodeIndexedPng } = await import("/web/js/png.js");
          const packed = new Blob([new Uint8Array(rows)]).stream()
            .pipeThrough(new CompressionStream("deflate"));
          const body = new Uint8Array(await new Response(packed).arrayBuffer());
          const header = new DataView(new ArrayBuffer(13));
          header.setUint32(0, width);
          header.setUint32(4, height);
          header.setUint8(8, 8);
          header.setUint8(9, 3);
          const chunk = (name, content) => {
            const whole = new Uint8Array(12 + content.length);
            new DataView(whole.buffer).setUint32(0, content.length);
            whole.set(new TextEncoder().encode(name), 4);
            whole.set(content, 8);
            return whole;
          };
          const half = body.length >> 1;
          const parts = [
            new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]),
            chunk("IHDR", new Uint8Array(header.buffer)),
            chunk("PLTE", new Uint8Array(63)),
            chunk("IDAT", body.subarray(0, half)),
            chunk("IDAT", body.subarray(half)),
            chunk("IEND", new Uint8Array(0)),
          ];
          const png = new Uint8Array(await new Blob(parts).arrayBuffer());
          return [...(await decodeIndexedPng(png)).indices];
        }""",
        [90, 64, raw],
    )
    assert decoded == indices.ravel().tolist()


def filter_rows(indices):
    """Rows with the filters none, sub, up, average and Paeth in turn (PNG, 9)."""
    padded = np.pad(indices.astype(int), ((1, 0), (1, 0)))
    rows = []
    for y in range(indices.shape[0]):
        left, up, corner = padded[y + 1, :-1], padded[y, 1:], padded[y, :-1]
        guess = left + up - corner
        nearest = np.argmin([abs(guess - left), abs(guess - up), abs(guess - corner)], axis=0)
        predictions = [0, left, up, (left + up) // 2, np.choose(nearest, [left, up, corner])]
        filtered = (indices[y].astype(int) - predictions[y % 5]) % 256
        rows += [y % 5, *filtered.tolist()]
    return rows


def test_the_theme_follows_the_system_until_it_is_chosen(open_page):
    page = open_page(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    button = page.locator("#theme-button")
    button.click()
    light = page.evaluate(ground)
    assert light != dark
    assert button.inner_text() == "Light"
    page.reload()
    assert page.evaluate(ground) == light
    button.click()
    button.click()
    assert button.inner_text() == "Auto"
    assert page.evaluate(ground) == dark


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_shows_everything_within_its_width(open_page, width):
    page = open_page(viewport={"width": width, "height": 800}, has_touch=True, is_mobile=True)
    widest = "document.documentElement.scrollWidth"
    assert page.evaluate(widest) <= width
    choose(page, cat("a-name-that-is-longer-than-any-phone-is-wide-0123456789.jpg"))
    wait_for_mask(page)
    assert page.evaluate(widest) <= width
    page.locator("#classes button").first.tap()
    box = page.locator("#stage").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator("#probe-name").inner_text()


def test_all_can_be_done_by_keyboard(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "sample"
    page.keyboard.press("Enter")
    wait_for_mask(page)
    page.locator("#modes input[value=overlay]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#divider").is_visible()
    visited = []
    for _ in range(60):  # the legend has a button for each class
        page.keyboard.press("Tab")
        visited.append(
            page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    for identifier in ("opacity", "stage", "divider", "download-mask", "download-array"):
        assert identifier in visited


def test_a_finished_photo_is_announced(shown, client):
    names = {entry["name"] for entry in
             client.post("/v1/segment?format=json", content=CAT).json()["classes"]}  # fmt: skip
    said = shown.locator("#announcement").inner_text()
    assert said.startswith("cat.jpg: ")
    assert all(name in said for name in names)


def test_the_page_lists_the_classes_and_limits_at_the_start(page, client):
    """The start lists the classes and the limits of the server."""
    model = client.get("/v1/model").json()
    listed = page.locator("#known-classes li").all_inner_texts()
    assert listed == [entry["name"] for entry in model["classes"][1:]]
    limits = page.locator("#limits").inner_text()
    assert "4 megapixels" in limits
    assert "8 MiB" in limits
    assert json.dumps(model["engine"]).strip('"') in page.locator("#server").inner_text()
