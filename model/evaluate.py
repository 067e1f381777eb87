"""Measure weights on an image set: mean IoU, IoU per class and pixel accuracy.

Every image goes through the predictor that serves, at its own size, into one confusion matrix. Run
as `python -m model.evaluate --data DIR --weights FILE`.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "tqdm")

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from model.engines.base import Array, EngineName, Precision
from model.errors import ModelError
from model.extras import require_packages
from model.predictor import open_predictor
from model.training.samples import Sample
from model.training.validation import evaluate
from model.training.voc import list_samples
from model.weights import SHIPPED_WEIGHTS, atomic_write


def read_pairs(samples: list[Sample], *, num_classes: int) -> Iterable[tuple[Array, Array]]:
    """The samples' images and targets, one at a time, behind a progress bar."""
    for sample in tqdm(samples, desc="evaluate", unit="image"):
        yield sample.read(num_classes)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.output:
        require_packages("matplotlib")
    try:
        samples = list_samples(options.data, options.image_set)
        predictor = open_predictor(
            options.weights,
            engine=options.engine,
            device=options.device,
            precision=options.precision,
            max_side=options.max_side,
        )
        num_classes = len(predictor.metadata.classes)
        scores = evaluate(predictor, read_pairs(samples, num_classes=num_classes))
        if options.output:
            from model.training import figures

            first = [sample.read(num_classes) for sample in samples[:4]]
            figures.draw_samples(options.output, predictor, first)
    except ModelError as error:
        sys.exit(f"error: {error}")
    print(scores)
    if options.json:
        report = {
            "image_set": options.image_set,
            "weights": predictor.metadata.digest,
            "engine": predictor.engine.description,
            "max_side": options.max_side,
        }
        with atomic_write(options.json) as file:
            file.write(json.dumps(report | scores.as_dict(), indent=2).encode() + b"\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.evaluate", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that holds VOCdevkit/VOC2012"
    )
    parser.add_argument("--image-set", default="val", help="list to measure on (default: val)")
    parser.add_argument(
        "--weights", type=Path, default=SHIPPED_WEIGHTS, help="weights file (default: the shipped)"
    )
    parser.add_argument("--engine", choices=get_args(EngineName), default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--max-side", type=int, default=0, help="scale longer images down to this; 0: never"
    )
    parser.add_argument("--json", type=Path, help="write the scores here, too")
    parser.add_argument(
        "--output", type=Path, help="draw the first images, predictions and targets as PNG here"
    )
    return parser


if __name__ == "__main__":
    main()
