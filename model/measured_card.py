"""The quality card of a weights file with measurements on an image set: text, pictures, JSON.

Run as `python -m model.measured_card FILE --data DIR --output FOLDER`.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision", "matplotlib", "tqdm")

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.averaging import AveragingPredictor
from model.card import describe_weights, format_percent
from model.engines.base import Array
from model.errors import ModelError
from model.outputs import require_folder
from model.predictor import Predictor, open_predictor
from model.quality import Quality
from model.quality_figures import draw_calibration, draw_confusion, draw_ranked
from model.scaling import SERVED
from model.training.data import (
    add_data_options,
    add_reading_options,
    choose_classes,
    open_evaluation_images,
)
from model.training.dataset import SegmentationDataset
from model.training.figures import draw_curves
from model.training.history import EpochRow
from model.weights import get_colormap, read_metadata, read_weights, write_atomically

RANKED = 12
"""The number of the best images, and of the worst, that the card shows."""


def write_measured_card(text: str, path: Path, images: SegmentationDataset, folder: Path) -> None:
    """Write `card.md`, which begins with `text`, `card.json` and pictures. Raises ModelError."""
    predictor = open_predictor(path, scaling=SERVED)
    averaging = AveragingPredictor(read_weights(path), scaling=SERVED)
    quality = measure_quality(predictor, averaging, images)
    folder.mkdir(parents=True, exist_ok=True)
    draw_confusion(folder / "confusion.png", quality.confusion, quality.classes)
    draw_calibration(folder / "calibration.png", quality.confidence)
    scores = quality.score_images()
    draw_best_and_worst(folder, predictor, images, scores)
    rows = read_history(path.with_name(f"{path.stem}.history.csv"))
    if rows:
        draw_curves(folder / "curves.png", rows)
    report = quality.as_dict() | {
        "weights": predictor.metadata.digest,
        "engine": predictor.engine.description,
        "recipe": dict(predictor.metadata.recipe),
        "data": dict(predictor.metadata.data),
        "image_set": images.name,
        "image_scores": {
            sample.name: round(score, 6)
            for sample, score in zip(images.samples, scores, strict=True)
        },
    }
    with write_atomically(folder / "card.json") as file:
        file.write(json.dumps(report, indent=1).encode() + b"\n")
    with write_atomically(folder / "card.md") as file:
        file.write((text + describe(quality, curves=bool(rows))).encode())


def measure_quality(
    predictor: Predictor, averaging: AveragingPredictor, images: SegmentationDataset
) -> Quality:
    """Measure the masks of the service's engine, and PyTorch's confidence in its own masks."""
    quality = Quality(predictor.metadata.classes)
    for index in tqdm(range(len(images)), desc="measure", unit="image"):
        image, target = images.read(index)
        confidence = averaging.compute_probabilities(image).max(dim=0).values
        quality.add(target, predictor(image), confidence.cpu().numpy())
    return quality


def draw_best_and_worst(
    folder: Path, predictor: Predictor, images: SegmentationDataset, scores: list[float]
) -> None:
    ranked = np.argsort(scores)[::-1].tolist()
    colours = get_colormap(predictor.metadata)

    def read_row(index: int) -> tuple[str, list[Array]]:
        image, target = images.read(index)
        title = f"{images.samples[index].name}: {100 * scores[index]:.0f} %"
        return title, [image, colours[predictor(image)], colours[target]]

    for name, indices in (("best", ranked[:RANKED]), ("worst", ranked[::-1][:RANKED])):
        draw_ranked(folder / f"{name}.png", [read_row(index) for index in indices])


def describe(quality: Quality, *, curves: bool) -> str:
    """Format the sections in Markdown."""
    columns = quality.compute_iou(), quality.compute_boundary_f(), quality.compute_boundary_iou()
    iou = columns[0]
    lines = ["", f"## Measured on {len(quality.images)} {SERVED.describe()}", ""]
    lines += ["| class | IoU, % | boundary F, % | boundary IoU, % |", "|---|---|---|---|"]
    lines += [
        f"| {name} | " + " | ".join(format_percent(figure) for figure in figures) + " |"
        for name, *figures in zip(quality.classes, *columns, strict=True)
    ]
    means = (f"**{format_percent(np.nanmean(figures))}**" for figures in columns)
    lines += [f"| **mean** | {' | '.join(means)} |", ""]
    lines += [
        "A boundary pixel counts as matched within 0.75 % of the image's diagonal. The boundary "
        "IoU compares only bands along the insides of the boundaries, 2 % of the diagonal wide. "
        f"The expected calibration error is {format_percent(quality.calibration_error)} %.",
        "",
        "## What it gets wrong",
        "",
    ]
    weakest = np.argsort(np.where(np.isnan(iou), np.inf, iou))[:3]
    weak = ", ".join(f"{quality.classes[i]} ({format_percent(iou[i])} %)" for i in weakest)
    confusions = quality.rank_confusions(5)
    title = "The most frequent confusions:" if confusions else "No class is confused with another."
    lines += [f"The weakest classes are {weak}. {title}", ""]
    lines += [
        f"- {target}: {format_percent(share)} % of its pixels are called {prediction}"
        for target, prediction, share in confusions
    ]
    pictures = ["confusion", "calibration", "best", "worst", *(["curves"] if curves else [])]
    lines += [""] + [f"![{name}]({name}.png)" for name in pictures]
    return "\n".join([*lines, ""])


def read_history(path: Path) -> list[EpochRow]:
    """Read a run's epochs; an empty list if the file does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            EpochRow(
                epoch=int(row["epoch"]),
                loss=float(row["loss"]),
                train_accuracy=float(row["train_accuracy"]),
                val_accuracy=float(row["val_accuracy"]) if row["val_accuracy"] else None,
                val_mean_iou=float(row["val_mean_iou"]) if row["val_mean_iou"] else None,
                lr=float(row["lr"]),
                images_per_s=float(row["images_per_s"]),
            )
            for row in csv.DictReader(file)
        ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.measured_card", description=__doc__)
    parser.add_argument("weights", type=Path, help="weights file")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    add_data_options(parser, image_set="val")
    add_reading_options(parser)
    options = parser.parse_args(arguments)
    try:
        require_folder(options.output)
        metadata = read_metadata(options.weights)
        images = open_evaluation_images(options, choose_classes(options, metadata))
        text = describe_weights(options.weights.name, metadata)
        write_measured_card(text, options.weights, images, options.output)
    except ModelError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {options.output / 'card.md'}")


if __name__ == "__main__":
    main()
