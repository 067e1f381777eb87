"""State dicts: read from files, renamed from the notebook's names, checked, and turned into an FCN.

Knows nothing of training or of the metadata of a weights file.
"""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.architectures import ARCHITECTURES, Architecture
from model.errors import NetworkError
from model.network import BACKBONE_CHILDREN, FCN
from model.weights import Weights


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return a state dict from a `.safetensors` file or one that `torch.save` wrote.

    Pickled code is never run: a file that holds a whole module raises NetworkError.
    """
    return require_state_dict(read_saved(path), path)


def read_saved(path: Path) -> Any:
    """Read what `torch.save` or safetensors wrote: tensors, plain values. Raises NetworkError."""
    if not path.is_file():
        raise NetworkError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise NetworkError(f"{path}: not a safetensors file ({error})") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own for a wrong file
        raise NetworkError(
            f"{path}: not a state dict ({type(error).__name__}). Save it with "
            "torch.save(net.state_dict(), path); a pickled module is never loaded"
        ) from error


def require_state_dict(state: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise NetworkError(f"{path}: holds {type(state).__name__}, not a state dict of tensors")
    return dict(state)


def convert_notebook_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the notebook's `nn.Sequential` to those of `FCN`.

    The notebook's "0.weight" is `backbone.conv1.weight`, "4." is `backbone.layer1.`, and so on;
    `final_conv` and `transpose_conv` keep their names. Prefixes that DataParallel ("module.") and
    torch.compile ("_orig_mod.") put in front are dropped; names of `FCN` itself pass unchanged.
    """
    return {_rename(name): tensor for name, tensor in state.items()}


def _rename(name: str) -> str:
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    position, _, rest = name.partition(".")
    if position.isdecimal() and int(position) < len(BACKBONE_CHILDREN):
        return f"backbone.{BACKBONE_CHILDREN[int(position)]}.{rest}"
    return name


def network_from_state(
    state: Mapping[str, Tensor], *, source: str, architecture: Architecture | None = None
) -> FCN:
    """Build an FCN in evaluation mode from the tensors of `state`, which define its classes.

    Its skips determine the architecture unless it is given. Raises NetworkError that names every
    tensor that is missing, unknown or of another shape.
    """
    head = state.get("final_conv.weight")
    if head is None or head.ndim != 4:
        raise NetworkError(
            f"{source}: no final_conv.weight of four dimensions; found {list_some(state)}"
        )
    architecture = architecture or recognise_architecture(state)
    network = FCN(num_classes=head.shape[0], architecture=architecture.name)
    expected = network.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in expected]
    problems += [
        f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in state.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if problems:
        raise NetworkError(f"{source}: {'; '.join(problems)}")
    network.load_state_dict(dict(state))
    return network.eval()


def recognise_architecture(names: Container[str]) -> Architecture:
    """Return the finest architecture all of whose skips are among the names of these tensors."""
    return max(
        (
            architecture
            for architecture in ARCHITECTURES.values()
            if all(f"skip_convs.{skip}.weight" in names for skip in architecture.skips)
        ),
        key=lambda architecture: len(architecture.skips),
    )


def network_from_weights(weights: Weights) -> FCN:
    """Build the FCN of a weights file, with the architecture that its metadata names."""
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.tensors.items()}
    return network_from_state(state, source=weights.source, architecture=weights.metadata.network)


def list_tensors(network: FCN, *, half: bool = False) -> dict[str, NDArray[Any]]:
    """Return the state dict as arrays; `half` rounds the convolutions' kernels to float16.

    Transposed convolutions keep float32: bilinear values need 12 bits, float16 has 11.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().numpy()
        for name, tensor in network.state_dict().items()
    }
    if not half:
        return tensors
    return {
        name: array.astype(np.float16)
        if array.ndim == 4 and not name.startswith(("transpose_conv", "doublings"))
        else array
        for name, array in tensors.items()
    }


def list_some(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)[:3]) or "nothing"
