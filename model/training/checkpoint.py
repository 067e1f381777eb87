"""The resumable state of a training run, as a file, and the weights in it.

Raises CheckpointError if the file does not exist or is not a checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import CheckpointError
from model.weights import Metadata, write_atomically


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    with write_atomically(path) as file:
        torch.save(dict(state), file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's state. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no checkpoint to resume from; start the run without --resume"
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own for a wrong file
        raise CheckpointError(
            f"{path}: not a checkpoint of model.train ({type(error).__name__})"
        ) from error
    return state


def is_checkpoint(saved: Any) -> bool:
    return isinstance(saved, Mapping) and {"run", "step", "network"} <= saved.keys()


def open_checkpoint(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Metadata]:
    """Return the network's state dict and the metadata of its weights file. Raises WeightsError."""
    run = state["run"]
    # Checkpoints of earlier versions have less metadata.
    known = state.get("metadata") or {
        "classes": tuple(run["classes"]),
        "recipe": run["recipe"],
        "data": {"start": run["start"], "image_set": run["image set"]},
    }
    data = {**known["data"], "steps": state["step"], "epochs": len(state["history"])}
    return state.get("average") or state["network"], Metadata(**{**known, "data": data})
