import json

import pytest

from model.class_list import VOC, ClassList, make_class_list, read_classes
from model.classes import CLASSES
from model.errors import DatasetError
from model.metadata import Metadata

COINS = ClassList(
    ("background", "coin"), ((0, 0, 0), (255, 215, 0)), values=(0, 255), void=(255, 255, 255)
)
TOML = """
void = [255, 255, 255]
[[classes]]
name = "background"
[[classes]]
name = "coin"
colour = "#ffd700"
value = 255
"""
YAML = """
void: [255, 255, 255]
classes:
  - background
  - {name: coin, colour: [255, 215, 0], value: 255}
"""
JSON = json.dumps(
    {
        "void": "#ffffff",
        "classes": ["background", {"name": "coin", "colour": [255, 215, 0], "value": 255}],
    }
)


@pytest.mark.parametrize(("suffix", "text"), [("toml", TOML), ("yaml", YAML), ("json", JSON)])
def test_classes_and_colours_are_read_from_a_file(tmp_path, suffix, text):
    path = tmp_path / f"classes.{suffix}"
    path.write_text(text)
    assert read_classes(path) == COINS


@pytest.mark.parametrize(
    ("suffix", "text"), [("txt", "background\n\nship\n"), ("json", '["background", "ship"]')]
)
def test_names_alone_take_vocs_colours(tmp_path, suffix, text):
    path = tmp_path / f"classes.{suffix}"
    path.write_text(text)
    assert read_classes(path) == ClassList(("background", "ship"), ((0, 0, 0), (128, 0, 0)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["only"]', "expected 2 to 255 names, found 1"),
        ('["a", "a"]', "names that differ"),
        ('["a", ""]', r"a name of 1 to 100 characters"),
        ("{", "cannot be read as JSON"),
        ("3", 'expected "classes"'),
        ('{"classes": ["a", 3]}', r"classes\[1\] is 3"),
        ('{"classes": ["a", "b"], "pallete": 1}', "unknown pallete; known: classes, void"),
        ('["a", {"name": "b", "color": 1}]', "unknown color; known: colour, name, value"),
        ('["a", {"name": "b", "colour": [0, 0, 0]}]', "a and b have the same colour, #000000"),
        ('["a", {"name": "b", "colour": [224, 224, 192]}]', "b and void have the same colour"),
        ('["a", {"name": "b", "colour": "#12345z"}]', "the colour '#12345z': expected"),
        ('["a", {"name": "b", "value": 0}]', "a and b have the same value, 0"),
        ('["a", {"name": "b", "value": 70000}]', "the value 70000: 0 to 65535"),
    ],
)
def test_an_error_in_a_file_of_classes_is_named(tmp_path, text, message):
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        read_classes(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(DatasetError, match="no such file"):
        read_classes(tmp_path / "nothing")


def test_yaml_without_its_package_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    (tmp_path / "classes.yml").write_text(YAML)
    with pytest.raises(DatasetError, match="pip install pyyaml, or write TOML or JSON"):
        read_classes(tmp_path / "classes.yml")


def test_weights_remember_how_their_masks_are_read():
    assert make_class_list(COINS.as_metadata()) == COINS
    assert make_class_list(Metadata()) == VOC
    assert VOC.as_metadata() == Metadata(classes=CLASSES)


@pytest.mark.parametrize("masks", [3, {}, {"values": [0], "void": [1, 2, 3]}, {"values": [0, 1]}])
def test_weights_with_invalid_mask_values_are_refused(masks):
    metadata = Metadata(classes=("a", "b"), data={"masks": masks})
    with pytest.raises(DatasetError, match="give --classes FILE"):
        make_class_list(metadata)
