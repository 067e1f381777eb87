"""Measure weights on an image set: mean IoU, IoU per class and pixel accuracy.

Run as `python -m model.evaluate --data DIR --weights FILE`. Checks all images and masks first. Then
the service's predictor predicts every image at its own size, and one confusion matrix counts all
pixels.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision", "tqdm")

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from model.arguments import add_scaling_option
from model.engines.base import EngineName, Precision
from model.errors import EngineError, ModelError
from model.extras import name_program, require_packages
from model.outputs import require_writable
from model.predictor import Predictor, open_predictor
from model.training.data import (
    add_data_options,
    add_reading_options,
    choose_classes,
    open_evaluation_images,
)
from model.training.validation import score
from model.weights import SHIPPED_WEIGHTS, read_weights, write_atomically

if TYPE_CHECKING:  # it needs torchvision
    from model.averaging import AveragingPredictor

MAX_SCALE = 4
"""The largest scale: with larger ones, the logits of an image would take gigabytes."""


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    if options.output:
        require_packages("matplotlib")
    try:
        require_writable(options.json, options.output)
        predictor = choose_predictor(options)
        images = open_evaluation_images(options, choose_classes(options, predictor.metadata))
        scores = score(predictor, images)
    except ModelError as error:
        sys.exit(f"error: {error}")
    print(scores)
    if options.json:
        report = {
            "image_set": images.name,
            "weights": predictor.metadata.digest,
            "engine": describe_predictor(predictor),
            **options.scaling._asdict(),
        }
        with write_atomically(options.json) as file:
            file.write(json.dumps(report | scores.as_dict(), indent=2).encode() + b"\n")
    if options.output:
        from model.training import figures

        first = [images.read(index) for index in range(min(4, len(images)))]
        figures.draw_samples(options.output, predictor, first)


def choose_predictor(options: argparse.Namespace) -> "Predictor | AveragingPredictor":
    """Choose the service's predictor, or one that averages over views. Raises ModelError."""
    if options.scales == [1.0] and not options.flip:
        return open_predictor(
            options.weights,
            engine=options.engine,
            device=options.device,
            precision=options.precision,
            scaling=options.scaling,
        )
    if options.engine not in ("auto", "torch") or options.precision not in ("auto", "float32"):
        raise EngineError(
            f"--scales and --flip average the probabilities of PyTorch in float32, not those of "
            f"--engine {options.engine} --precision {options.precision}: leave these options out"
        )
    from model.averaging import AveragingPredictor

    return AveragingPredictor(
        read_weights(options.weights),
        scales=options.scales,
        flip=options.flip,
        device=options.device,
        scaling=options.scaling,
    )


def describe_predictor(predictor: "Predictor | AveragingPredictor") -> str:
    return (
        predictor.engine.description if isinstance(predictor, Predictor) else predictor.description
    )


def parse_scale(text: str) -> float:
    value = float(text)
    if not 0 < value <= MAX_SCALE:
        raise argparse.ArgumentTypeError(f"{text}: above 0 to {MAX_SCALE} expected")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name_program("python -m model.evaluate"), description=__doc__
    )
    add_data_options(parser, image_set="val")
    add_reading_options(parser)
    parser.add_argument(
        "--weights",
        type=Path,
        default=SHIPPED_WEIGHTS,
        metavar="FILE",
        help="weights file (default: the shipped)",
    )
    parser.add_argument("--engine", choices=get_args(EngineName), default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_scaling_option(parser)
    parser.add_argument(
        "--scales",
        type=parse_scale,
        nargs="+",
        default=[1.0],
        help="average PyTorch's probabilities over these scales",
    )
    parser.add_argument("--flip", action="store_true", help="average over mirror images, too")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the scores to this file"
    )
    parser.add_argument(
        "--output", type=Path, help="draw the first images, predictions and targets as PNG here"
    )
    return parser


if __name__ == "__main__":
    main()
