"""The resumable state of a training run, as a file, and the weights in it.

Raises CheckpointError if the file does not exist or is not a checkpoint.
"""

from collections.abc import Iterator, Mapping
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
    """Return a checkpoint's state. Raises CheckpointError."""
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


def require_same_run(found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises CheckpointError that lists how the descriptions of two runs differ."""
    differences = list(_list_differences(found, own))
    if differences:
        raise CheckpointError(
            f"the checkpoint belongs to another run: {'; '.join(differences)}. Resume with the "
            "options and the images that the run was started with"
        )


def _list_differences(found: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    for name in {**own, **found}:
        before, now = found.get(name), own.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from (f"{name}, {inner}" for inner in _list_differences(before, now))
        elif before != now:
            yield f"{name} was {before}, now it is {now}"


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
