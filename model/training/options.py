"""The command line of `python -m model.train`, and the recipe that it describes.

The command line overrides the recipe file, which overrides the preset. Knows nothing of how a
network is trained.
"""

import argparse
import os
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from model.arguments import parse_count
from model.errors import RecipeError
from model.extras import name_program
from model.training.data import (
    add_data_options,
    add_reading_options,
    add_validation_options,
)
from model.training.device_images import Choice
from model.training.explanations import EXPLANATIONS
from model.training.recipe import PRESETS, Recipe

TRAINED = frozenset(Recipe.__slots__) - {"name"}
"""The fields that the command line and a recipe file may set."""


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name_program("python -m model.train"), description=description
    )
    _add_data_options(parser)
    _add_run_options(parser)
    overrides = parser.add_argument_group("options that override the preset")
    overrides.add_argument("--recipe", type=Path, metavar="FILE", help="TOML file of these options")
    hints = get_type_hints(Recipe)
    for entry in fields(Recipe):
        if entry.name in TRAINED:
            flag = f"--{entry.name.replace('_', '-')}"
            explanation = f"{EXPLANATIONS[entry.name]} ({_format_presets(entry.name)})"
            overrides.add_argument(
                flag, help=explanation, **_describe_flag(entry.name, hints[entry.name])
            )
    return parser


def choose_recipe(options: argparse.Namespace) -> Recipe:
    """Merge the preset, the recipe file and the command line. Raises RecipeError."""
    values = _read_recipe_file(options.recipe) if options.recipe else {}
    given = {name: getattr(options, name) for name in TRAINED}
    values |= {name: value for name, value in given.items() if value is not None}
    try:
        recipe = TypeAdapter(Recipe).validate_python(PRESETS[options.preset].as_dict() | values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}, found {entry['input']!r}"
            for entry in error.errors()
        ]
        raise RecipeError(f"the recipe is not valid: {'; '.join(problems)}") from error
    if options.soft_labels and not recipe.augment:
        raise RecipeError("--soft-labels needs --augment: only augmented views have soft labels")
    return recipe


def _read_recipe_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read as TOML: {error}") from error
    unknown = sorted(values.keys() - TRAINED)
    if unknown:
        raise RecipeError(
            f"{path}: unknown {', '.join(unknown)}; a recipe has {', '.join(sorted(TRAINED))}"
        )
    return values


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, image_set="train")
    add_reading_options(parser)
    add_validation_options(parser)
    add = parser.add_argument
    add("--download", action="store_true", help="fetch VOC2012 (and SBD for train_aug)")
    add(
        "--val-every",
        type=parse_count,
        help="epochs between validations; 0: only at the end (default: so many that they take at"
        " most a twentieth of the time; d2l: 1)",
    )
    add("--soft-labels", type=Path, metavar="DIR", help="folder of a teacher's soft labels")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="default", help="recipe (default: default)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--init", type=Path, metavar="FILE", help="weights file to start from")
    start.add_argument(
        "--backbone", default="imagenet", help="imagenet, none, or a ResNet-18 state dict's file"
    )
    add(
        "--output",
        type=Path,
        default=Path("runs/fcn_resnet18.safetensors"),
        metavar="FILE",
        help="weights file to write; other files are written beside it (default: %(default)s)",
    )
    add("--resume", action="store_true", help="continue from the checkpoint beside --output")
    add("--overwrite", action="store_true", help="replace the results of an earlier run")
    add("--seed", type=parse_count, default=0, help="seed of everything random (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    workers = max(1, min(8, (os.cpu_count() or 1) // 2))
    add("--workers", type=parse_count, default=workers, help="loader processes (here: %(default)s)")
    where = "keep decoded images on the device and augment them there (auto: if it is a GPU)"
    add("--device-data", choices=get_args(Choice), default="auto", help=where)
    add("--compile", action="store_true", help="compile the network: minutes in the first step")
    add(
        "--checkpoint-steps",
        type=parse_count,
        default=0,
        help="also save a checkpoint every N steps",
    )
    add(
        "--feature-cache",
        type=Path,
        metavar="DIR",
        help="store the outputs of the --frozen layers for all --views here, and read them",
    )
    add("--tensorboard", action="store_true", help="also write TensorBoard events")
    add("--half", action="store_true", help="store kernels as float16: about half the file")


def _format_presets(name: str) -> str:
    """Return the field's value in the default preset, and in those that differ."""
    values = {preset: _format_value(getattr(recipe, name)) for preset, recipe in PRESETS.items()}
    usual = values.pop("default")
    others = [f"{preset}: {value}" for preset, value in values.items() if value != usual]
    return "; ".join([f"default: {usual}", *others])


def _format_value(value: Any) -> str:
    """Return a value as one writes it on the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _describe_flag(name: str, hint: Any) -> dict[str, Any]:
    """Return the arguments of argparse for a recipe's field of this type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return {"type": type(get_args(hint)[0]), "choices": get_args(hint)}
    if get_origin(hint) is not tuple:
        return {"type": hint, "metavar": "N" if hint is int else "X"}
    item, *rest = get_args(hint)
    if rest == [...]:
        named = get_origin(item) is Literal
        return {"choices": get_args(item), "nargs": "*"} if named else {"type": item, "nargs": "*"}
    metavar = ("HEIGHT", "WIDTH") if name == "crop" else ("LEAST", "MOST")
    return {"type": item, "nargs": 1 + len(rest), "metavar": metavar}
