"""The quality card of a weights file: what it is, how it was made, how good it is.

Run as `python -m model.card FILE > CARD.md`. Reads only the file's metadata.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import ModelError
from model.extras import name_program
from model.scaling import Scaling
from model.weights import Metadata, read_metadata


def describe_weights(name: str, metadata: Metadata) -> str:
    """Return the card of a file called `name`, in Markdown."""
    recipe, data, scores = metadata.recipe, metadata.data, metadata.scores
    facts = {
        "architecture": metadata.architecture,
        "digest": f"`{metadata.digest}`",
        "started from": data.get("start", "not recorded"),
        "trained on": f"{data.get('images', '?')} images, list `{data.get('image_set', '?')}`",
        "recipe": ", ".join(f"{key} {_format_value(key, value)}" for key, value in recipe.items()),
    }
    if scores:
        facts |= {
            "measured on": f"{scores.get('images', '?')} images, list "
            f"`{scores.get('image_set', '?')}`, {_find_scaling(scores).describe()}",
            "mean IoU": f"**{format_percent(scores.get('mean_iou'))} %**",
            "pixel accuracy": f"{format_percent(scores.get('pixel_accuracy'))} %",
        }
    lines = [f"# {name}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    iou = scores.get("iou")
    if isinstance(iou, Mapping):
        lines += ["", "| class | IoU, % |", "|---|---|"]
        lines += [f"| {name} | {format_percent(value)} |" for name, value in iou.items()]
    return "\n".join([*lines, ""])


def _find_scaling(scores: Mapping[str, Any]) -> Scaling:
    return Scaling(**{name: scores.get(name, 0) for name in Scaling._fields})


def format_percent(share: object) -> str:
    """Return a share in percent; a dash if it was not measured, as for a class without pixels."""
    if not isinstance(share, int | float) or math.isnan(share):
        return "-"
    return f"{100 * share:.1f}"


SEPARATORS = {"crop": " x ", "scale": " to "}
"""The separator of the two numbers in these fields of a recipe; other lists have commas."""


def _format_value(key: str, value: object) -> str:
    if not isinstance(value, list | tuple):
        return str(value)
    return SEPARATORS.get(key, ", ").join(map(str, value)) or "none"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=name_program("python -m model.card"), description=__doc__)
    parser.add_argument("weights", type=Path, metavar="FILE", help="weights file")
    options = parser.parse_args(arguments)
    try:
        print(describe_weights(options.weights.name, read_metadata(options.weights)), end="")
    except ModelError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
