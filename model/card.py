"""The quality card of a weights file: what it is, how it was made, how good it is.

Run as `python -m model.card FILE > CARD.md`, it says only what the file's own metadata says. With
`--data DIR --output FOLDER` it measures, too, and writes a card with pictures and JSON.
"""

import argparse
import sys
from pathlib import Path

from model.errors import ModelError
from model.extras import require_packages
from model.weights import Metadata, read_metadata


def card(name: str, metadata: Metadata) -> str:
    """Markdown, of a file called `name`."""
    recipe, data, scores = metadata.recipe, metadata.data, metadata.scores
    facts = {
        "architecture": metadata.architecture,
        "digest": f"`{metadata.digest}`",
        "started from": data.get("start", "not recorded"),
        "trained on": f"{data.get('images', '?')} images, list `{data.get('image_set', '?')}`",
        "recipe": ", ".join(f"{key} {_shown(value)}" for key, value in recipe.items()),
    }
    if scores:
        facts |= {
            "measured on": f"{scores['images']} images, list `{scores['image_set']}`, "
            "whole images at their original size",
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


def _shown(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.card", description=__doc__)
    parser.add_argument("weights", type=Path, help="weights file")
    parser.add_argument("--data", type=Path, help="folder that holds VOCdevkit/VOC2012, to measure")
    parser.add_argument("--image-set", default="val", help="list to measure on (default: val)")
    parser.add_argument("--output", type=Path, help="folder for the measured card")
    options = parser.parse_args(arguments)
    if (options.data is None) != (options.output is None):
        parser.error("--data and --output go together")
    try:
        text = card(options.weights.name, read_metadata(options.weights))
        if options.data is None:
            print(text, end="")
            return
        require_packages("torch", "torchvision", "matplotlib", "tqdm")
        from model.measured_card import write_measured_card
        from model.training.voc import list_samples

        samples = list_samples(options.data, options.image_set)
        write_measured_card(text, options.weights, samples, options.output)
        print(f"wrote {options.output / 'card.md'}")
    except ModelError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
