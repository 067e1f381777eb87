"""A run's figures as CSV: a row per epoch, and a row per step. Knows nothing of networks."""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from model.weights import write_atomically


@dataclass(frozen=True, slots=True)
class Validation:
    """The scores after an epoch, each in 0..1; None if it was not measured."""

    accuracy: float | None = None
    mean_iou: float | None = None


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch's figures; `val_...` are None where that was not measured."""

    epoch: int
    loss: float
    """Mean over the images for "image_sum" (the notebook's loss), over the pixels otherwise."""
    train_accuracy: float
    val_accuracy: float | None
    val_mean_iou: float | None
    lr: float
    images_per_s: float


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step's figures. Steps and epochs count from 1."""

    step: int
    epoch: int
    loss: float
    lr: float


def find_best(rows: Sequence[EpochRow]) -> EpochRow | None:
    """Return the first epoch with the highest mean IoU, or accuracy if no mean IoU was measured.

    None if nothing was measured.
    """
    measured = [row for row in rows if row.val_accuracy is not None]
    if not measured:
        return None
    return max(measured, key=lambda row: (row.val_mean_iou or 0.0, row.val_accuracy or 0.0))


def count_worse(rows: Sequence[EpochRow]) -> int:
    """Count the validations since the best one."""
    best = find_best(rows)
    later = [row for row in rows if best and row.epoch > best.epoch]
    return sum(row.val_accuracy is not None for row in later)


@dataclass(slots=True)
class EpochSums:
    """The current epoch's figures in one process. Its time starts when `start` is first called."""

    loss: float = 0.0
    """The sum of the images' losses. Each image of a batch has the batch's mean."""
    images: int = 0
    hits: int = 0
    known: int = 0
    seconds: float = 0.0
    _last: float | None = None

    def start(self) -> None:
        """Start the clock, unless it runs: at the first batch, after what precedes an epoch."""
        if self._last is None:
            self._last = time.perf_counter()

    def add(self, loss: float, images: int, hits: int, known: int) -> None:
        self.loss += loss * images
        self.images += images
        self.hits += hits
        self.known += known
        now = time.perf_counter()
        self.seconds += now - (now if self._last is None else self._last)
        self._last = now

    @property
    def images_per_s(self) -> float:
        return self.images / max(self.seconds, 1e-9)


class StepLog:
    """A CSV with a row per training step: step, epoch, loss, lr."""

    HEADER = tuple(entry.name for entry in fields(StepRow))

    def __init__(self, path: Path, *, first_step: int) -> None:
        """Continue a file at `first_step`. Removes later rows, of an interrupted run."""
        kept: list[list[str]] = []
        if first_step > 1 and path.is_file():
            with path.open(newline="") as file:
                kept = [row for row in list(csv.reader(file))[1:] if int(row[0]) < first_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", buffering=1)
        self._writer = csv.writer(self._file)
        self._writer.writerows([self.HEADER, *kept])

    def write(self, row: StepRow) -> None:
        self._writer.writerow([row.step, row.epoch, f"{row.loss:.6f}", f"{row.lr:.6g}"])

    def close(self) -> None:
        self._file.close()


def write_history(path: Path, rows: list[EpochRow]) -> None:
    """Write the epochs so far as CSV. A figure that was not measured is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [entry.name for entry in fields(EpochRow)])
    writer.writeheader()
    for row in rows:
        values = asdict(row).items()
        writer.writerow({k: round(v, 6) if isinstance(v, float) else v for k, v in values})
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())
