"""The quality card of a weights file: what it is, how it was made, how good it is.

Run as `python -m model.card FILE > CARD.md`. Reads only the file's metadata.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import ModelError
from model.extras import name_program
from model.weights import Metadata, read_metadata


def describe_weights(name: str, metadata: Metadata) -> str:
    """The card of a file called `name`, in Markdown."""
    recipe, data, scores = metadata.recipe, metadata.data, metadata.scores
    facts = {
        "architecture": metadata.architecture,
        "digest": f"`{metadata.digest}`",
        "started from": data.get("start", "not recorded"),
        "trained on": f"{data.get('images', '?')} images, list `{data.get('image_set', '?')}`",
        "recipe": ", ".join(f"{key} {_format_value(value)}" for key, value in recipe.items()),
    }
    if scores:
        facts |= {
            "measured on": f"{scores['images']} images, list `{scores['image_set']}`, "
            f"{_describe_size(scores)}",
            "mean IoU": f"**{100 * scores['mean_iou']:.1f} %**",
            "pixel accuracy": f"{100 * scores['pixel_accuracy']:.1f} %",
        }
    lines = [f"# {name}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    if scores:
        lines += ["", "| class | IoU, % |", "|---|---|"]
        lines += [
            f"| {name} | {'-' if iou is None else f'{100 * iou:.1f}'} |"
            for name, iou in scores["iou"].items()
        ]
    return "\n".join([*lines, ""])


def _describe_size(scores: Mapping[str, Any]) -> str:
    if not scores.get("max_side"):
        return "whole images at their original size"
    return (
        f"whole images, scaled to at most {scores['max_side']} pixels; masks at the original size"
    )


def _format_value(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


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
