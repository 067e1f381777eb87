"""The metadata of a weights file: its classes, their colours, how images are normalised.

A `Metadata` checks its values when it is created, so users need not. Knows nothing of files.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from model.architectures import ARCHITECTURES, BY_IDENTIFIER, Architecture
from model.classes import CLASSES, MAX_CLASSES, voc_colormap
from model.errors import WeightsError

FORMAT_VERSION = "1"

# ImageNet's, as torchvision's ResNet18_Weights.IMAGENET1K_V1 documents them: RGB in 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MIN_CLASSES = 2
"""The smallest number of classes: background and one other."""

MAX_NAME_CHARACTERS = 100
MAX_TEXT_CHARACTERS = 2**20
"""The largest size of one entry of the header. `/v1/model` returns most entries."""

STD_RANGE = 1e-3, 1e3
"""The allowed standard deviations: beyond them, the squares of a normalised image overflow float32.
"""

MAX_DEPTH = 16
"""The deepest nesting of lists and objects; JSON libraries differ in what they accept."""

MAX_SHOWN_CHARACTERS = 80
REMEDY = "Train, convert or copy the weights again"


@dataclass(frozen=True, slots=True)
class Metadata:
    """`palette` has one RGB triple per class. Raises WeightsError for an invalid value."""

    classes: tuple[str, ...] = CLASSES
    palette: tuple[tuple[int, int, int], ...] = ()
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = ARCHITECTURES["fcn32s"].identifier
    format_version: str = FORMAT_VERSION
    digest: str = ""

    def __post_init__(self) -> None:
        if self.architecture not in BY_IDENTIFIER:
            raise WeightsError(
                f"expected the architecture {' or '.join(BY_IDENTIFIER)}, found "
                f"{shorten(self.architecture, str)}"
            )
        _require_names(self.classes)
        if not self.palette:
            colours = voc_colormap(len(self.classes)).tolist()
            object.__setattr__(self, "palette", tuple(map(tuple, colours)))
        _require_colours(self.palette, self.classes)
        _require_triple("mean", self.mean, 0, 1)
        _require_triple("std", self.std, *STD_RANGE)
        for name in ("recipe", "data", "scores"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise _describe_fault(name, "an object", value)
            _require_plain(name, value)

    @property
    def network(self) -> Architecture:
        """The architecture that the identifier names."""
        return BY_IDENTIFIER[self.architecture]


def parse_metadata(header: Mapping[str, str]) -> Metadata:
    """Parse the strings of a file's header. Raises WeightsError."""
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"expected a weights file of format version {FORMAT_VERSION}, found "
            f"{'no format version' if version is None else f'version {shorten(version, str)}'}. "
            "Other state dicts are converted with: python -m model.convert FILE --output OUT"
        )
    missing = sorted({entry.name for entry in fields(Metadata)} - header.keys())
    if missing:
        raise WeightsError(f"its metadata lacks {', '.join(missing)}. {REMEDY}")
    return Metadata(
        classes=_read_sequence("classes", header),
        palette=_read_palette(header),
        mean=_read_sequence("mean", header),
        std=_read_sequence("std", header),
        recipe=_read_json("recipe", header),
        data=_read_json("data", header),
        scores=_read_json("scores", header),
        architecture=header["architecture"],
        format_version=version,
        digest=header["digest"],
    )


def shorten(value: object, text: Any = repr) -> str:
    """Format a value for a message of one line; a long value is shortened."""
    written: str = text(value)
    written = written if written.isprintable() else ascii(written)
    if len(written) <= MAX_SHOWN_CHARACTERS:
        return written
    return written[: MAX_SHOWN_CHARACTERS - 3] + "..."


def _describe_fault(name: str, expected: str, found: object) -> WeightsError:
    return WeightsError(f"metadata {name}: expected {expected}, found {shorten(found)}. {REMEDY}")


def _require_names(classes: tuple[str, ...]) -> None:
    if not MIN_CLASSES <= len(classes) <= MAX_CLASSES:
        raise _describe_fault("classes", f"{MIN_CLASSES} to {MAX_CLASSES} names", len(classes))
    for index, name in enumerate(classes):
        if not (isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARACTERS):
            expected = f"a name of 1 to {MAX_NAME_CHARACTERS} characters"
            raise _describe_fault(f"classes[{index}]", expected, name)
        if name.isspace() or not name.isprintable():
            raise _describe_fault(f"classes[{index}]", "a printable name", name)
    if len(set(classes)) < len(classes):
        twice = next(name for index, name in enumerate(classes) if name in classes[:index])
        raise _describe_fault("classes", "names that differ", f"{twice} twice")


def _require_colours(palette: tuple[Any, ...], classes: tuple[str, ...]) -> None:
    if len(palette) != len(classes):
        raise _describe_fault(
            "palette", f"one colour for each of its {len(classes)} classes", len(palette)
        )
    for index, colour in enumerate(palette):
        levels = colour if isinstance(colour, tuple) and len(colour) == 3 else (None,)
        if not all(type(level) is int and 0 <= level <= 255 for level in levels):
            raise _describe_fault(f"palette[{index}]", "three integers of 0 to 255", colour)


def _require_triple(name: str, values: tuple[Any, ...], least: float, most: float) -> None:
    if not (
        len(values) == 3
        and all(type(value) in (int, float) and least <= value <= most for value in values)
    ):
        raise _describe_fault(name, f"three numbers of {least:g} to {most:g}", values)


def _require_plain(name: str, value: object, depth: int = 0) -> None:
    """Require a value that every JSON library can write, because `/v1/model` returns it."""
    if depth > MAX_DEPTH:
        raise _describe_fault(name, f"at most {MAX_DEPTH} lists and objects in each other", "more")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _describe_fault(name, "strings as names", key)
            _require_plain(name, key, depth + 1)
            _require_plain(f"{name}.{shorten(key, str)}", inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _require_plain(name, inner, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _describe_fault(name, "a finite number", value)
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise _describe_fault(name, "text that UTF-8 can hold", value)
    elif not (value is None or isinstance(value, (bool, int))):
        raise _describe_fault(name, "a value that JSON has", value)


def _read_palette(header: Mapping[str, str]) -> tuple[Any, ...]:
    colours = _read_sequence("palette", header)
    if not colours:  # Metadata would use VOC's
        raise _describe_fault("palette", "one colour for each class", "none")
    return tuple(tuple(colour) if isinstance(colour, list) else colour for colour in colours)


def _read_sequence(name: str, header: Mapping[str, str]) -> tuple[Any, ...]:
    values = _read_json(name, header)
    if not isinstance(values, list):
        raise _describe_fault(name, "a list", values)
    return tuple(values)


def _read_json(name: str, header: Mapping[str, str]) -> Any:
    text = header[name]
    if len(text) > MAX_TEXT_CHARACTERS:
        raise _describe_fault(name, f"at most {MAX_TEXT_CHARACTERS} characters", len(text))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _describe_fault(name, f"JSON ({error})", text) from error
