"""Records a training run while it goes on: files, curves and a progress bar.

Never changes the training. With data parallelism, only the main process records.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from model.engines.base import Array
from model.errors import OutputError
from model.outputs import require_writable
from model.training import figures
from model.training.checkpoint import write_checkpoint
from model.training.history import EpochRow, StepLog, find_best, write_history
from model.training.state import Training
from model.training.validation import Measured
from model.weights import write_weights


@dataclass(frozen=True, slots=True)
class Files:
    """The weights file of a run, and the other files, which are named after it."""

    weights: Path

    @property
    def best(self) -> Path:
        return self._name_beside("best.safetensors")

    @property
    def checkpoint(self) -> Path:
        return self._name_beside("checkpoint.pt")

    @property
    def history(self) -> Path:
        return self._name_beside("history.csv")

    @property
    def steps(self) -> Path:
        return self._name_beside("steps.csv")

    @property
    def curves(self) -> Path:
        return self._name_beside("curves.png")

    @property
    def samples(self) -> Path:
        return self._name_beside("samples.png")

    @property
    def tensorboard(self) -> Path:
        return self._name_beside("tensorboard")

    def require_usable(self) -> None:
        """Raises OutputError for a path that is no weights file, or that cannot be written."""
        if self.weights.is_dir():
            raise OutputError(f"{self.weights} is a folder: name a .safetensors file in it")
        if self.weights.suffix != ".safetensors":
            raise OutputError(
                f"{self.weights}: the name of a weights file ends with .safetensors, and those of "
                f"the run's other files are made of it. Choose {self.weights}.safetensors"
            )
        require_writable(self.weights)

    def require_absent(self) -> None:
        """Raises OutputError if there are results of an earlier run."""
        for path in (self.weights, self.best, self.checkpoint):
            if path.exists():
                raise OutputError(
                    f"{path} is there already, from an earlier run: choose another --output, "
                    "continue that run with --resume, or replace it with --overwrite"
                )

    def remove(self) -> None:
        """Remove the results of an earlier run, which could be mistaken for those of this run."""
        for path in (self.weights, self.best, self.checkpoint):
            path.unlink(missing_ok=True)

    def _name_beside(self, suffix: str) -> Path:
        return self.weights.with_name(f"{self.weights.stem}.{suffix}")


def open_files(weights: Path, *, is_main: bool, is_new: bool) -> Files:
    """Return the files of a run that writes `weights`; `is_new`: it may not replace another run's.

    Raises OutputError.
    """
    files = Files(weights)
    if is_main:  # the machines of other processes may have no such folder
        files.require_usable()
    if is_new:
        files.require_absent()
    return files


class Recorder:
    """Writes the results of a run. A context manager that closes its files on every exit."""

    def __init__(self, training: Training, files: Files, *, tensorboard: bool) -> None:
        self._training = training
        self._files = files
        self._silent = not training.group.is_main
        self._steps: StepLog | None = None
        self._board: Any = None
        if not self._silent:
            self._steps = StepLog(files.steps, first_step=training.step + 1)
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(files.tensorboard), purge_step=training.step + 1)
        self._bar = tqdm(
            total=training.total_steps,
            initial=training.step,
            unit="step",
            dynamic_ncols=True,
            disable=self._silent,
            mininterval=0.1 if sys.stderr.isatty() else 15,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        if self._steps:
            self._steps.close()
        if self._board:
            self._board.close()

    def record_steps(self, *, wait: bool = False) -> None:
        """Record the steps whose figures are known, or all: write rows, advance the bar."""
        training = self._training
        for row in training.collect_steps(wait=wait):
            if self._steps:
                self._steps.write(row)
                epochs = training.recipe.epochs
                self._bar.set_description(f"epoch {row.epoch}/{epochs}", refresh=False)
                self._bar.set_postfix(
                    loss=f"{row.loss:.3f}",
                    acc=f"{training.running_accuracy:.3f}",
                    images_per_s=f"{training.running_images_per_s:.1f}",
                    refresh=False,
                )
            self._bar.update()

    def record_epoch(self, row: EpochRow) -> None:
        """Record an epoch: write the history, draw the curves, print a line."""
        if self._silent:
            return
        write_history(self._files.history, self._training.history)
        figures.draw_curves(self._files.curves, self._training.history)
        self._bar.write(_describe(row))
        if self._board:
            for name, value in asdict(row).items():
                if value is not None:
                    self._board.add_scalar(name, value, self._training.step)

    def record_validation(self, measured: Measured, pairs: Sequence[tuple[Array, Array]]) -> None:
        """Record a validation: keep the weights if they are the best so far, draw some pairs."""
        if self._board:
            self._show(measured, pairs)
        best = find_best(self._training.history)
        if best is self._training.history[-1]:
            write_weights(self._files.best, measured.weights.tensors, measured.weights.metadata)

    def _show(self, measured: Measured, pairs: Sequence[tuple[Array, Array]]) -> None:
        step = self._training.step
        for number, pair in enumerate(pairs, start=1):
            sample = figures.join_sample(measured.predictor, *pair)
            self._board.add_image(f"sample {number}", sample, step, dataformats="HWC")
        for name, iou in (measured.scores.iou if measured.scores else {}).items():
            self._board.add_scalar(f"iou/{name}", iou, step)

    def save_checkpoint(self) -> None:
        """Save the current state, for --resume."""
        state = self._training.state()
        self.record_steps()
        if not self._silent:
            write_checkpoint(self._files.checkpoint, state)
        self._training.group.wait()

    def save_interrupted(self) -> None:
        """Save a checkpoint and say how to continue."""
        self.save_checkpoint()
        if not self._silent:
            print(
                f"interrupted after step {self._training.step}, saved {self._files.checkpoint}: "
                "the same command with --resume continues"
            )


def _describe(row: EpochRow) -> str:
    measured = {
        "loss": row.loss,
        "train accuracy": row.train_accuracy,
        "val accuracy": row.val_accuracy,
        "val mean IoU": row.val_mean_iou,
    }
    shown = [f"{name} {value:.3f}" for name, value in measured.items() if value is not None]
    return f"epoch {row.epoch}: {', '.join(shown)}, {row.images_per_s:.1f} images/s"
