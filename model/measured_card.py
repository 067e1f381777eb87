"""The measured part of a quality card: sections, pictures and JSON, from one image set.

Run through `python -m model.card FILE --data DIR --output FOLDER`.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from model.averaging import AveragingPredictor
from model.engines.base import Array
from model.predictor import open_predictor
from model.quality import Quality
from model.quality_figures import draw_calibration, draw_confusion, draw_ranked
from model.training.figures import draw_curves
from model.training.history import EpochRow
from model.training.samples import Sample
from model.weights import atomic_write, colormap, read_weights

RANKED = 12
"""Best and worst images that are shown."""


def write_measured_card(text: str, weights: Path, samples: list[Sample], folder: Path) -> None:
    """`card.md` begins with `text`; beside it `card.json` and the pictures. Raises ModelError."""
    predictor = open_predictor(weights)
    averaging = AveragingPredictor(read_weights(weights))
    classes = predictor.metadata.classes
    quality = Quality(classes)
    for sample in tqdm(samples, desc="measure", unit="image"):
        image, target = sample.read(len(classes))
        mask = predictor(image)
        confidence = averaging.probabilities(image).max(dim=0).values
        quality.add(target, mask, confidence.cpu().numpy())
    folder.mkdir(parents=True, exist_ok=True)
    draw_confusion(folder / "confusion.png", quality.confusion, classes)
    draw_calibration(folder / "calibration.png", quality.confidence)
    scores = quality.image_scores()
    ranked = np.argsort(scores)[::-1].tolist()
    shown = {"best": ranked[:RANKED], "worst": ranked[::-1][:RANKED]}
    colours = colormap(predictor.metadata)

    def picture(index: int) -> tuple[str, list[Array]]:
        image, target = samples[index].read(len(classes))
        title = f"{samples[index].name}: {100 * scores[index]:.0f} %"
        return title, [image, colours[predictor(image)], colours[target]]

    for name, indices in shown.items():
        draw_ranked(folder / f"{name}.png", [picture(index) for index in indices])
    rows = read_history(weights.with_name(f"{weights.stem}.history.csv"))
    if rows:
        draw_curves(folder / "curves.png", rows)
    report = quality.as_dict() | {
        "weights": predictor.metadata.digest,
        "engine": predictor.engine.description,
        "recipe": dict(predictor.metadata.recipe),
        "data": dict(predictor.metadata.data),
        "image_scores": {s.name: round(v, 6) for s, v in zip(samples, scores, strict=True)},
    }
    with atomic_write(folder / "card.json") as file:
        file.write(json.dumps(report, indent=1).encode() + b"\n")
    with atomic_write(folder / "card.md") as file:
        file.write((text + describe(quality, curves=bool(rows))).encode())


def describe(quality: Quality, *, curves: bool) -> str:
    """The sections in Markdown."""
    iou, boundary = quality.iou(), quality.boundary_f()
    lines = ["", f"## Measured on {len(quality.images)} images, whole, at their original size", ""]
    lines += ["| class | IoU, % | boundary F, % |", "|---|---|---|"]
    lines += [
        f"| {name} | {_percent(one)} | {_percent(other)} |"
        for name, one, other in zip(quality.classes, iou, boundary, strict=True)
    ]
    mean, edge = _percent(np.nanmean(iou)), _percent(np.nanmean(boundary))
    lines += [f"| **mean** | **{mean}** | **{edge}** |", ""]
    lines += [
        "A boundary pixel counts as met within 0.75 % of the image's diagonal. The expected "
        f"calibration error is {_percent(quality.calibration_error)} %.",
        "",
        "## What it gets wrong",
        "",
    ]
    weakest = np.argsort(np.where(np.isnan(iou), np.inf, iou))[:3]
    weak = ", ".join(f"{quality.classes[i]} ({_percent(iou[i])} %)" for i in weakest)
    lines += [f"The weakest classes are {weak}. Most often taken for something else:", ""]
    lines += [
        f"- {target}: {_percent(share)} % of its pixels are called {prediction}"
        for target, prediction, share in quality.confusions(5)
    ]
    pictures = ["confusion", "calibration", "best", "worst", *(["curves"] if curves else [])]
    lines += [""] + [f"![{name}]({name}.png)" for name in pictures]
    return "\n".join([*lines, ""])


def read_history(path: Path) -> list[EpochRow]:
    """A run's epochs; none where there is no such file."""
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


def _percent(share: float | np.floating[Any]) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f}"
