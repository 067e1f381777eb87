"""The classes of a data set: their names, their colours, and their values in a mask.

Read from a TOML, JSON or YAML file, or taken from a weights file's metadata. Knows nothing of
images.
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.classes import CLASSES, IGNORE_INDEX, PALETTE
from model.errors import DatasetError, WeightsError
from model.metadata import REMEDY, Metadata

Colour = tuple[int, int, int]

VOID_COLOUR: Colour = (224, 224, 192)
MAX_VALUE = 2**16 - 1
"""The largest value of a pixel in a 16-bit mask."""

CLASS_KEYS = frozenset({"name", "colour", "value"})
FILE_KEYS = frozenset({"classes", "void"})
FORMAT = (
    'expected "classes", a list of names or of {name, colour, value}, background first, and '
    'perhaps "void", a colour'
)


@dataclass(frozen=True, slots=True)
class ClassList:
    """Names, colours and values of the classes.

    Painted masks and the palette use the colours, masks of indices the values.
    """

    names: tuple[str, ...] = CLASSES
    palette: tuple[Colour, ...] = ()
    values: tuple[int, ...] = ()
    """The pixel value of each class in a mask of indices: the class index, unless the file has
    another.
    """
    void: Colour = VOID_COLOUR
    """The colour of pixels that are ignored. As an index, void is 255, unless a class has 255."""

    def __post_init__(self) -> None:
        if not self.palette:
            colours = PALETTE[: len(self.names)].tolist()
            object.__setattr__(self, "palette", tuple(map(tuple, colours)))
        if not self.values:
            object.__setattr__(self, "values", tuple(range(len(self.names))))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_plain_values(self) -> bool:
        """Whether a mask's values are the class indices."""
        return self.values == tuple(range(len(self)))

    def as_metadata(self) -> Metadata:
        """Return the metadata of a weights file with these classes."""
        data = {}
        if not (self.has_plain_values and self.void == VOID_COLOUR):
            data["masks"] = {"values": list(self.values), "void": list(self.void)}
        return Metadata(classes=self.names, palette=self.palette, data=data)


VOC = ClassList()


def make_class_list(metadata: Metadata) -> ClassList:
    """Read the classes of a weights file, with the colours and values of its training masks.

    Raises DatasetError.
    """
    masks = metadata.data.get("masks")
    if masks is None:
        return ClassList(metadata.classes, metadata.palette)
    try:
        values = tuple(_read_value(index, v) for index, v in enumerate(masks["values"]))
        void = _read_colour(masks["void"])
    except (TypeError, KeyError, DatasetError) as error:
        raise DatasetError(
            f"the weights do not say how masks are read ({error}): give --classes FILE"
        ) from error
    if len(set(values)) != len(metadata.classes):
        raise DatasetError("the weights name too few values of masks: give --classes FILE")
    return ClassList(metadata.classes, metadata.palette, values, void)


def read_classes(path: Path) -> ClassList:
    """Read TOML, JSON or YAML by the suffix, else one name per line. Raises DatasetError."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; it should name the classes, background first")
    parse = PARSERS.get(path.suffix.lower(), _parse_lines)
    try:
        content = parse(path.read_text())
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    except Exception as error:  # each format has exceptions of its own
        kind = path.suffix[1:].upper()
        raise DatasetError(f"{path} cannot be read as {kind}: {error}") from error
    try:
        return _build(content)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    except WeightsError as error:
        problem = str(error).removeprefix("metadata ").removesuffix(f". {REMEDY}")
        raise DatasetError(f"{path}: {problem}") from error


def _build(content: Any) -> ClassList:
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise DatasetError(FORMAT)
    _require_known(content, FILE_KEYS)
    entries = [_Entry.read(index, item) for index, item in enumerate(content["classes"])]
    names = tuple(entry.name for entry in entries)
    palette = tuple(entry.colour for entry in entries)
    Metadata(classes=names, palette=palette or (VOID_COLOUR,))  # checks them
    void = _read_colour(content["void"]) if "void" in content else VOID_COLOUR
    values = tuple(entry.value for entry in entries)
    _require_different("colour", [*map(format_colour, palette), format_colour(void)], names)
    _require_different("value", values, names)
    return ClassList(names, palette, values, void)


def _require_different(what: str, found: Sequence[object], names: tuple[str, ...]) -> None:
    owners: dict[object, str] = {}
    for value, name in zip(found, (*names, "void"), strict=False):
        if value in owners:
            raise DatasetError(
                f"{owners[value]} and {name} have the same {what}, {value}: give each its own"
            )
        owners[value] = name


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    colour: Colour
    value: int

    @classmethod
    def read(cls, index: int, item: Any) -> "_Entry":
        if isinstance(item, str):
            item = {"name": item}
        if not isinstance(item, dict) or "name" not in item:
            raise DatasetError(f"classes[{index}] is {item!r}; {FORMAT}")
        _require_known(item, CLASS_KEYS)
        voc: Any = tuple(PALETTE[min(index, IGNORE_INDEX - 1)].tolist())
        colour = _read_colour(item["colour"]) if "colour" in item else voc
        return cls(item["name"], colour, _read_value(index, item.get("value", index)))


def _require_known(item: Mapping[str, Any], keys: frozenset[str]) -> None:
    unknown = sorted(map(str, item.keys() - keys))
    if unknown:
        raise DatasetError(f"unknown {', '.join(unknown)}; known: {', '.join(sorted(keys))}")


def _read_value(index: int, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_VALUE:
        raise DatasetError(f"classes[{index}] has the value {value!r}: 0 to {MAX_VALUE} expected")
    return value


def _read_colour(value: Any) -> Colour:
    """[255, 215, 0] or "#ffd700"."""
    levels = value
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        try:
            levels = list(bytes.fromhex(value[1:]))
        except ValueError:
            levels = None
    is_colour = (
        isinstance(levels, list)
        and len(levels) == 3
        and all(type(level) is int and 0 <= level <= 255 for level in levels)
    )
    if not is_colour:
        raise DatasetError(f'the colour {value!r}: expected [255, 215, 0] or "#ffd700"')
    return levels[0], levels[1], levels[2]


def format_colour(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _parse_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _parse_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise DatasetError(
            "YAML needs a package that is not installed here: pip install pyyaml, or write TOML or "
            "JSON"
        ) from None
    return yaml.safe_load(text)


PARSERS: Mapping[str, Callable[[str], Any]] = {
    ".toml": tomllib.loads,
    ".json": json.loads,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
