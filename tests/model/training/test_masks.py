import numpy as np
import pytest
from PIL import Image

from model.class_list import VOC, ClassList
from model.classes import PALETTE
from model.errors import DatasetError
from model.training.masks import read_mask

SHIPS = ClassList(
    ("background", "ship", "quay"),
    ((10, 20, 30), (255, 215, 0), (0, 0, 0)),
    void=(255, 255, 255),
)


@pytest.fixture
def target():
    target = np.zeros((40, 60), np.uint8)
    target[:10], target[20:30, 5:], target[39, 59] = 1, 255, 2
    return target


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def indexed(target):
    image = Image.fromarray(target)
    image.putpalette(PALETTE.tobytes())
    return image


def test_a_mask_may_be_grey_or_have_a_palette(tmp_path, target):
    assert np.array_equal(read_mask(save(tmp_path / "a.png", target), SHIPS), target)
    indexed(target).save(tmp_path / "b.png")
    assert np.array_equal(read_mask(tmp_path / "b.png", SHIPS), target)
    save(tmp_path / "c.png", np.dstack([target, np.full_like(target, 9)]))
    assert np.array_equal(read_mask(tmp_path / "c.png", SHIPS), target), "grey with alpha"


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_a_mask_may_have_16_bits(tmp_path, target, kind):
    path = save(tmp_path / f"a.{kind}", target.astype(np.uint16))
    assert np.array_equal(read_mask(path, SHIPS), target)
    target = target.astype(np.uint16)
    target[7, 3] = 300
    with pytest.raises(DatasetError, match="the class index 300 at column 3, row 7"):
        read_mask(save(tmp_path / f"b.{kind}", target), SHIPS)


def test_a_mask_may_be_bilevel(tmp_path, target):
    path = save(tmp_path / "a.png", target == 1)
    assert Image.open(path).mode == "1"
    assert np.array_equal(read_mask(path, SHIPS), target == 1)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("kind", ["png", "bmp", "tiff"])
def test_a_mask_may_be_painted_in_ones_own_colours(tmp_path, target, alpha, kind):
    colours = np.zeros((256, 3), np.uint8)
    colours[:3], colours[255] = SHIPS.palette, SHIPS.void
    painted = colours[target]
    if alpha and kind != "bmp":
        painted = np.dstack([painted, np.full_like(target, 128)])
    assert np.array_equal(read_mask(save(tmp_path / f"a.{kind}", painted), SHIPS), target)


def test_vocs_painted_masks_are_read(tmp_path):
    target = np.array([[0, 15], [20, 255]], np.uint8)
    assert np.array_equal(read_mask(save(tmp_path / "a.png", PALETTE[target]), VOC), target)


def test_a_class_may_have_any_value_in_a_mask(tmp_path):
    classes = ClassList(("background", "sky", "road"), values=(0, 255, 1000))
    mask = np.array([[0, 255], [1000, 0]], np.uint16)
    found = read_mask(save(tmp_path / "a.png", mask), classes)
    assert found.tolist() == [[0, 1], [2, 0]], "255 is a class here, not void"
    with pytest.raises(DatasetError, match=r"index 1 at .*3 classes have the values 0, 255, 1000"):
        read_mask(save(tmp_path / "b.png", mask % 2 + np.uint16(1)), classes)


def test_an_unknown_colour_is_named_with_its_place(tmp_path, target):
    painted = np.array([(10, 20, 30), (255, 215, 0), (0, 0, 0)], np.uint8)[target % 3]
    painted[12, 34], painted[13, 1] = (1, 2, 3), (1, 2, 4)
    with pytest.raises(DatasetError) as caught:
        read_mask(save(tmp_path / "a.png", painted), SHIPS)
    message = str(caught.value)
    assert "#010203 at column 34, row 12 (and 1 more that are unknown)" in message
    assert "--classes FILE" in message
    with pytest.raises(DatasetError, match="a JPEG, which changes colours"):
        read_mask(save(tmp_path / "a.jpg", painted), SHIPS)


def test_an_image_mode_without_indices_or_class_colours_is_refused(tmp_path, target):
    Image.fromarray(target).convert("CMYK").save(tmp_path / "a.tiff")
    with pytest.raises(DatasetError, match="its mode is CMYK"):
        read_mask(tmp_path / "a.tiff", SHIPS)
