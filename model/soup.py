"""Average the weights of several runs that started from the same weights ("model soup").

Run as `python -m model.soup A.safetensors B.safetensors --output C.safetensors`. The average is
often better than each of its parts (Wortsman et al., 2022, arXiv 2203.05482) and as fast as one of
them, as its network is that of A. `python -m model.compare` tells whether it is better.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision")

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError, NetworkError
from model.extras import name_program
from model.outputs import require_writable
from model.state_dict import list_tensors, network_from_weights
from model.weights import Metadata, Weights, read_weights, write_weights


def average(parts: Sequence[Weights]) -> Weights:
    """Average tensors of the same name and shape; others stay as in the first part.

    So a finer network adds its backbone and classifier to a coarser one, but not its skips. Raises
    NetworkError if the parts have other classes, or normalise images in another way.
    """
    first, *others = parts
    for other in others:
        for name in ("classes", "mean", "std"):
            if getattr(other.metadata, name) != getattr(first.metadata, name):
                raise NetworkError(f"{other.source} has other {name} than {first.source}")
    tensors = {name: _average(name, tensor, others) for name, tensor in first.tensors.items()}
    data = {
        key: value
        for key, value in first.metadata.data.items()
        if all(other.metadata.data.get(key) == value for other in others)
    }
    data["start"] = "the average of " + " and ".join(part.metadata.digest for part in parts)
    metadata = replace(first.metadata, recipe={"name": "average"}, data=data, scores={})
    return Weights(tensors, metadata, source="the average")


def _average(name: str, tensor: NDArray[Any], others: Sequence[Weights]) -> NDArray[Any]:
    if not np.issubdtype(tensor.dtype, np.floating):
        return tensor  # the number of batches that a batch norm has seen
    found = [other.tensors.get(name) for other in others]
    same = [one for one in found if one is not None and one.shape == tensor.shape]
    mean: NDArray[Any] = np.mean([tensor, *same], axis=0, dtype=np.float64).astype(tensor.dtype)
    return mean


def average_files(sources: Sequence[Path], output: Path, *, half: bool = False) -> Metadata:
    """Write the average of weights files, and return its metadata.

    `half` rounds kernels to float16. Raises NetworkError, and WeightsError for a damaged file.
    """
    averaged = average([read_weights(source) for source in sources])
    network = network_from_weights(averaged)
    return write_weights(output, list_tensors(network, half=half), averaged.metadata)


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    parts = [options.first, *options.others]
    try:
        require_writable(options.output)
        metadata = average_files(parts, options.output, half=options.half)
    except ModelError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {options.output}: average of {len(parts)}, digest {metadata.digest}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name_program("python -m model.soup"), description=__doc__)
    add = parser.add_argument
    add("first", type=Path, metavar="A", help="weights file with the network of the result")
    add("others", type=Path, nargs="+", metavar="B", help="weights files to average it with")
    add("--output", type=Path, required=True, help="weights file to write")
    add("--half", action="store_true", help="store kernels as float16")
    return parser


if __name__ == "__main__":
    main()
