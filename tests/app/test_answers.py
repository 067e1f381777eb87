"""The formats of POST /v1/segment over HTTP: overlay, runs, polygons, confidence, kept classes."""

import io

import numpy as np
import pytest
from PIL import Image

from model.predictor import open_predictor
from model.weights import get_colormap
from tests.app.codecs.test_decode import saved
from tests.app.codecs.test_polygons import fill
from tests.conftest import PHOTO

SIZES = [(1, 1), (1, 50), (50, 1), (33, 31), (300, 451)]


def png(pixels):
    return saved(Image.fromarray(pixels), format="PNG")


def ask(client, body, **parameters):
    accept = parameters.pop("accept", "*/*")
    answer = client.post("/v1/segment", content=body, params=parameters, headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    return answer


def mask_of(client, body, **parameters):
    return np.load(io.BytesIO(ask(client, body, format="npy", **parameters).content))


def picture_of(answer):
    with Image.open(io.BytesIO(answer.content)) as image:
        return image.mode, np.asarray(image)


@pytest.fixture(scope="session")
def predictor(settings):
    return open_predictor(settings.weights, device="cpu", scaling=settings.scaling)


@pytest.fixture(params=SIZES, ids=str)
def image(request, photo):
    return photo[: request.param[0], : request.param[1]]


def test_an_overlay_blends_the_colours_into_the_photo(client, predictor, image):
    mask = mask_of(client, png(image))
    colours = get_colormap(predictor.metadata)[mask].astype(int)
    for alpha in (0, 0.25, 1):
        answer = ask(client, png(image), format="overlay", alpha=alpha)
        mode, overlay = picture_of(answer)
        assert (answer.headers["content-type"], mode) == ("image/png", "RGB")
        expected = np.where((mask > 0)[..., None], image + alpha * (colours - image), image)
        assert np.abs(overlay - expected).max() <= 0.51


def test_an_overlay_may_be_a_jpeg(client, photo):
    answer = ask(client, PHOTO.read_bytes(), format="overlay", alpha=0.1, accept="image/jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
    _, overlay = picture_of(answer)
    _, exact = picture_of(ask(client, PHOTO.read_bytes(), format="overlay", alpha=0.1))
    assert overlay.shape == (300, 451, 3)
    assert np.abs(overlay.astype(int) - exact).mean() < 4


def test_an_overlay_has_the_photos_size_even_if_the_network_sees_it_scaled(client, photo):
    for body in (png(photo), PHOTO.read_bytes()):
        mode, overlay = picture_of(ask(client, body, format="overlay", max_side=64, alpha=0))
        assert (mode, overlay.shape) == ("RGB", photo.shape)
        assert np.array_equal(overlay, photo)


@pytest.mark.parametrize(
    "lacking", ["model.predictor.Predictor.prepare", "app.codecs.encode.encode_png"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_lack_of_memory_is_an_overload(client, photo, monkeypatch, kind, lacking):
    """After decoding, on a codec thread or for a decoder process, and while encoding."""

    def lack(*_, **__):
        raise MemoryError

    monkeypatch.setattr(lacking, lack)
    body = PHOTO.read_bytes() if kind == "JPEG" else png(photo)
    answer = client.post("/v1/segment", content=body)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["detail"] == "There is no memory for the image."
    monkeypatch.undo()
    assert client.post("/v1/segment", content=body).status_code == 200


def test_a_jpeg_that_would_be_too_long_is_refused(client):
    body = png(np.zeros((1, 70_000, 3), np.uint8))
    answer = client.post(
        "/v1/segment?format=overlay", content=body, headers={"Accept": "image/jpeg"}
    )
    assert (answer.status_code, answer.json()["remedy"]) == (422, "Accept image/png.")
    assert picture_of(ask(client, body, format="overlay"))[1].shape == (1, 70_000, 3)


def test_runs_are_read_by_pycocotools(client, image):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = mask_of(client, png(image))
    body = ask(client, png(image), format="rle").json()
    read = np.zeros_like(mask)
    for segment in body["segments"]:
        pixels = coco.decode(segment["segmentation"]).astype(bool)
        assert segment["pixels"] == pixels.sum()
        read[pixels] = segment["index"]
    assert np.array_equal(read, mask)
    assert (body["height"], body["width"]) == mask.shape


def test_polygons_fill_the_mask(client, image):
    mask = mask_of(client, png(image))
    body = ask(client, png(image), format="polygons").json()
    read = np.zeros_like(mask)
    for feature in body["features"]:
        assert feature["geometry"]["type"] == "MultiPolygon"
        for rings in feature["geometry"]["coordinates"]:
            assert all(ring[0] == ring[-1] for ring in rings)
            filled = fill([np.array(ring[:-1]) for ring in rings], mask.shape).astype(bool)
            assert not read[filled].any()
            read[filled] = feature["properties"]["index"]
    assert np.array_equal(read, mask)


def test_the_confidence_is_that_of_the_class_in_the_mask(client, predictor, image):
    answer = ask(client, png(image), format="confidence")
    mode, confidence = picture_of(answer)
    assert (answer.headers["content-type"], mode) == ("image/png", "L")
    (expected,) = predictor.measure_confidence([predictor.prepare(image)])
    assert np.array_equal(confidence, expected)
    assert confidence.min() >= 255 // 21


def test_classes_that_are_not_kept_become_background(client, predictor):
    body = PHOTO.read_bytes()
    mask = mask_of(client, body)
    names = predictor.metadata.classes
    found = [index for index in np.unique(mask).tolist() if index]
    assert len(found) > 2
    first, second = found[:2]
    expected = np.where(np.isin(mask, (first, second)), mask, 0)
    for wanted in (f"{names[first]},{names[second]}", [names[first], str(second)]):
        assert np.array_equal(mask_of(client, body, classes=wanted), expected)
    segments = ask(client, body, format="rle", classes=names[first]).json()["segments"]
    assert [segment["name"] for segment in segments] == [names[first]]
    _, overlay = picture_of(ask(client, body, format="overlay", alpha=1, classes=names[0]))
    assert np.array_equal(overlay, np.asarray(Image.open(PHOTO).convert("RGB")))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"classes": "cat,dragon"}, "'dragon'"),
        ({"classes": ""}, "''"),
        ({"classes": "21"}, "'21'"),
        ({"classes": "cat", "format": "confidence"}, "classes"),
        ({"alpha": "2"}, "alpha"),
        ({"alpha": "nan"}, "alpha"),
    ],
)
def test_a_parameter_out_of_its_bounds_is_refused(client, parameters, said):
    answer = client.post("/v1/segment", content=PHOTO.read_bytes(), params=parameters)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
