"""The figures of steps, which are read from the device while it computes the next one.

Knows nothing of networks.
"""

import math
from collections import deque
from dataclasses import replace

from torch import Tensor

from model.errors import RecipeError
from model.training.history import EpochSums, StepRow
from model.training.transfer import Receipt

RUNNING_STEPS = 1
"""The steps that a GPU may have left to compute when the next one is prepared."""


class StepFigures:
    """The steps of the current epoch: `add` them, `collect` those whose figures are known."""

    def __init__(self) -> None:
        self.sums = EpochSums()
        self._running: deque[tuple[StepRow, int, Receipt]] = deque()
        self._rows: list[StepRow] = []

    def add(self, row: StepRow, images: int, figures: Tensor) -> None:
        """Add a step whose loss, hits and known pixels, (3,), are computed on the device.

        Raises RecipeError if the loss of an earlier step is not finite.
        """
        self._running.append((row, images, Receipt(figures)))
        self.read(running=RUNNING_STEPS)

    def read(self, *, running: int = 0) -> None:
        """Read the figures of all steps, except those of the last `running` ones.

        Raises RecipeError if a loss is not finite.
        """
        while len(self._running) > running:
            row, images, figures = self._running.popleft()
            loss, hits, known = figures.read().tolist()
            if not math.isfinite(loss):
                raise RecipeError(
                    f"the loss is {loss} at step {row.step}: training diverged; start again with "
                    "a lower --lr and --lr-pretrained"
                )
            self.sums.add(loss, images, int(hits), int(known))
            self._rows.append(replace(row, loss=loss))

    def collect(self) -> list[StepRow]:
        """Return the steps that were read, each once."""
        rows, self._rows = self._rows, []
        return rows
