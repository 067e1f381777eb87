"""The pictures of a quality card: confusion matrix, calibration, best and worst images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.engines.base import Array
from model.training.figures import save_figure


def draw_confusion(path: Path, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draw the confusion matrix. Rows are targets and add up to one."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axis = figure.add_subplot()
    image = axis.imshow(shares, vmin=0, vmax=1, cmap="viridis")
    axis.set_xticks(range(len(classes)), classes, rotation=90)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("prediction")
    axis.set_ylabel("target")
    figure.colorbar(image, label="share of the target's pixels")
    save_figure(figure, path)


def draw_calibration(path: Path, bins: NDArray[np.float64]) -> None:
    """Draw accuracy over confidence, and the share of the pixels with that confidence."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.add_subplot()
    pixels, confident, right = bins[bins[:, 0] > 0].T
    axis.plot([0, 1], [0, 1], color="grey", lw=1)
    axis.plot(confident / pixels, right / pixels, "o-", label="accuracy")
    axis.plot(confident / pixels, pixels / pixels.sum(), "s--", ms=3, label="share of the pixels")
    axis.set_xlabel("confidence")
    axis.set_ylim(0, 1)
    axis.legend(loc="upper left", fontsize=8)
    axis.grid(alpha=0.3)
    save_figure(figure, path)


def draw_ranked(path: Path, rows: Sequence[tuple[str, Sequence[Array]]]) -> None:
    """Draw a row of three for each title: image, prediction and target, in colours."""
    columns = 3
    height = -(-len(rows) // columns)
    figure = Figure(figsize=(4.5 * columns, 1.6 * height), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, pictures) in zip(axes, rows, strict=False):
        axis.imshow(np.concatenate(pictures, axis=1))
        axis.set_title(title, fontsize=7)
    save_figure(figure, path)
