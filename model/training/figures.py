"""Pictures of a run: its curves, and images beside predictions and targets. PNG files only."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.engines.base import Array
from model.predictor import Segmenter
from model.training.history import EpochRow
from model.weights import get_colormap, write_atomically


def draw_curves(path: Path, rows: Sequence[EpochRow]) -> None:
    """Draw the loss on the left axis, and measured accuracies and mean IoU on the right one."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    loss_axis = figure.add_subplot()
    epochs = [row.epoch for row in rows]
    loss_axis.plot(epochs, [row.loss for row in rows], "o-", ms=3, color="C0", label="train loss")
    loss_axis.set_xlabel("epoch")
    loss_axis.set_ylabel("loss", color="C0")
    loss_axis.set_ylim(bottom=0)
    loss_axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss_axis.grid(alpha=0.3)

    share_axis = loss_axis.twinx()
    share_axis.set_ylabel("accuracy, mean IoU")
    share_axis.set_ylim(0, 1)
    curves: dict[str, tuple[str, list[float | None]]] = {
        "train accuracy": ("C1", [row.train_accuracy for row in rows]),
        "validation accuracy": ("C2", [row.val_accuracy for row in rows]),
        "validation mean IoU": ("C3", [row.val_mean_iou for row in rows]),
    }
    for label, (colour, values) in curves.items():
        measured = {e: v for e, v in zip(epochs, values, strict=True) if v is not None}
        if measured:
            x, y = list(measured.keys()), list(measured.values())
            share_axis.plot(x, y, "o-", ms=3, color=colour, label=label)
    handles = [*loss_axis.get_lines(), *share_axis.get_lines()]
    loss_axis.legend(handles=handles, loc="center right", fontsize=8)
    save_figure(figure, path)


def draw_samples(path: Path, predictor: Segmenter, pairs: Sequence[tuple[Array, Array]]) -> None:
    """Draw a row per pair: the image, its prediction and its target, in the classes' colours."""
    figure = Figure(figsize=(9, 2.6 * len(pairs)), layout="constrained")
    colours = get_colormap(predictor.metadata)
    axes = figure.subplots(len(pairs), 3, squeeze=False)
    for row, (image, target) in zip(axes, pairs, strict=True):
        for axis, picture in zip(
            row, (image, colours[predictor(image)], colours[target]), strict=True
        ):
            axis.imshow(picture)
            axis.set_axis_off()
    for axis, title in zip(axes[0], ("image", "prediction", "target"), strict=True):
        axis.set_title(title)
    save_figure(figure, path)


def join_sample(predictor: Segmenter, image: Array, target: Array) -> Array:
    """Put an image, its prediction and its target side by side, (H, 3 W, 3)."""
    colours = get_colormap(predictor.metadata)
    return np.concatenate([image, colours[predictor(image)], colours[target]], axis=1)


def save_figure(figure: Figure, path: Path) -> None:
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=120)
