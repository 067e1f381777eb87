"""Compare two weights files on one image set, and tell whether the difference is significant.

Run as `python -m model.compare A B --data DIR`. Prints the IoU of each class with 95 % intervals of
a paired bootstrap over the images. The exit status is 3 if B is worse than A, 4 with
--require-better unless B is better, and otherwise 0.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "tqdm")

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np
from tqdm import tqdm

from model.arguments import add_scaling_option
from model.comparison import CONFIDENCE, MIN_IMAGES, Counts, Difference, compare_counts
from model.confusion import count_pixels
from model.engines.base import EngineName, Precision
from model.errors import ModelError, WeightsError
from model.extras import name_program
from model.outputs import require_writable
from model.predictor import Predictor, open_predictor
from model.training.data import (
    add_data_options,
    add_reading_options,
    choose_classes,
    open_evaluation_images,
)
from model.training.dataset import SegmentationDataset
from model.weights import write_atomically

EXIT_WORSE = 3
EXIT_NOT_BETTER = 4

SENTENCES = {
    "better": "B is better than A",
    "worse": "B is worse than A",
    "undecided": "No difference is shown",
}


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    try:
        require_writable(options.json)
        predictors = [_open(path, options) for path in (options.first, options.second)]
        classes = predictors[0].metadata.classes
        if predictors[1].metadata.classes != classes:
            raise WeightsError(
                f"{options.second} has other classes than {options.first}: only networks of the "
                "same classes can be compared"
            )
        own = choose_classes(options, predictors[0].metadata)
        images = open_evaluation_images(options, own)
        first, second = count_images(predictors, images)
    except ModelError as error:
        sys.exit(f"error: {error}")
    differences = compare_counts(first, second)
    rows = dict(zip((*classes, "mean IoU"), differences, strict=True))
    print(describe(rows, images=len(images)))
    if options.json:
        report = {
            "image_set": images.name,
            "images": len(images),
            "first": predictors[0].metadata.digest,
            "second": predictors[1].metadata.digest,
            "confidence": CONFIDENCE,
            "iou": {n: d.as_dict() for n, d in zip(classes, differences[:-1], strict=True)},
            "mean_iou": differences[-1].as_dict(),
        }
        with write_atomically(options.json) as file:
            file.write(json.dumps(report, indent=2).encode() + b"\n")
    sys.exit(choose_exit_status(differences[-1], require_better=options.require_better))


def choose_exit_status(difference: Difference, *, require_better: bool) -> int:
    if difference.verdict == "worse":
        return EXIT_WORSE
    return EXIT_NOT_BETTER if require_better and difference.verdict != "better" else 0


def count_images(predictors: list[Predictor], images: SegmentationDataset) -> list[Counts]:
    """Return, for each predictor, a confusion matrix per image."""
    number = len(predictors[0].metadata.classes)
    counts: list[list[Counts]] = [[] for _ in predictors]
    for index in tqdm(range(len(images)), desc="compare", unit="image"):
        image, target = images.read(index)
        for predictor, own in zip(predictors, counts, strict=True):
            own.append(count_pixels(target, predictor(image), classes=number))
    return [np.stack(own) for own in counts]


def describe(differences: dict[str, Difference], *, images: int) -> str:
    """Format a table in percent, which marks significant differences, and the verdict."""
    width = max(map(len, differences))
    lines = [f"{'':<{width}}      A      B   B - A  95 % interval"]
    for name, difference in differences.items():
        if np.isnan(difference.gain):
            lines.append(f"{name:<{width}}  {'-':>5}  {'-':>5}")
            continue
        values = 100 * np.array(
            [difference.first, difference.second, difference.gain, difference.low, difference.high]
        )
        row = "  {:5.1f}  {:5.1f}   {:+5.1f}  {:+5.1f} to {:+5.1f}".format(*values)
        mark = "" if difference.verdict == "undecided" else f"  {difference.verdict}"
        lines.append(f"{name:<{width}}{row}{mark}")
    mean = list(differences.values())[-1]
    sentence = SENTENCES[mean.verdict]
    if images < MIN_IMAGES:
        sentence = f"Undecided, because fewer than {MIN_IMAGES} images show nothing beyond chance"
    lines += [
        "",
        f"{sentence}: {100 * mean.gain:+.1f} points of mean IoU "
        f"({100 * mean.low:+.1f} to {100 * mean.high:+.1f}).",
        f"{images} images, the same for both. Of twenty classes about one is marked by chance.",
    ]
    return "\n".join(lines)


def _open(path: Path, options: argparse.Namespace) -> Predictor:
    return open_predictor(
        path,
        engine=options.engine,
        device=options.device,
        precision=options.precision,
        scaling=options.scaling,
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name_program("python -m model.compare"), description=__doc__
    )
    add = parser.add_argument
    add("first", type=Path, metavar="A", help="weights file, such as the one that is served")
    add("second", type=Path, metavar="B", help="weights file that may replace it")
    add_data_options(parser, image_set="val")
    add_reading_options(parser)
    add("--engine", choices=get_args(EngineName), default="auto")
    add("--precision", choices=get_args(Precision), default="float32")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_scaling_option(parser)
    add("--json", type=Path, help="also write the figures to this file")
    add(
        "--require-better", action="store_true", help=f"status {EXIT_NOT_BETTER} unless B is better"
    )
    return parser


if __name__ == "__main__":
    main()
