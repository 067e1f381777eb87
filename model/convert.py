"""Turn a state dict that the notebook saved, or the checkpoint of a run, into a weights file.

Run as `python -m model.convert notebook.pth --output fcn.safetensors`. Accepts a `.pth` that
`torch.save(net.state_dict(), path)` wrote, safetensors, the `.checkpoint.pt` of a run, finished or
not, or a weights file. Never loads a pickled module. The network stays the same; `--half` rounds
its kernels, which changes a few pixels.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision")

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from model.class_list import VOC, ClassList, read_classes
from model.errors import ModelError, NetworkError
from model.extras import name_program
from model.network import FCN
from model.outputs import require_writable
from model.state_dict import (
    convert_notebook_state,
    list_tensors,
    network_from_state,
    network_from_weights,
    read_saved,
    require_state_dict,
)
from model.training.checkpoint import is_checkpoint, open_checkpoint
from model.weights import Metadata, is_weights_file, read_weights, write_weights


def convert(
    source: Path, output: Path, *, classes: ClassList | None = None, half: bool = False
) -> Metadata:
    """Read `source`, check that it is a complete FCN, and write `output`.

    Returns the written metadata. `classes` defaults to those of the checkpoint or the weights file,
    or else to VOC's. `half` rounds kernels to float16. Raises NetworkError, and WeightsError for a
    damaged weights file and for numbers that are not finite.
    """
    network, metadata = read_network(source)
    if classes:
        metadata = name_classes(metadata, classes)
    if len(metadata.classes) != network.num_classes:
        raise NetworkError(
            f"{source}: the network has {network.num_classes} classes, {len(metadata.classes)} are "
            "named; name them with --classes FILE"
        )
    return write_weights(output, list_tensors(network, half=half), metadata)


def read_network(source: Path) -> tuple[FCN, Metadata]:
    """Read the network and what is known of it. Raises NetworkError and WeightsError."""
    if is_weights_file(source):
        weights = read_weights(source)
        return network_from_weights(weights), weights.metadata
    saved = read_saved(source)
    if is_checkpoint(saved):
        state, metadata = open_checkpoint(saved)
    else:
        state = require_state_dict(saved, source)
        recipe = {"name": "converted", "source": source.name}
        metadata = replace(VOC.as_metadata(), recipe=recipe)
    network = network_from_state(convert_notebook_state(state), source=str(source))
    return network, replace(metadata, architecture=network.architecture.identifier)


def name_classes(metadata: Metadata, classes: ClassList) -> Metadata:
    """Give metadata other classes. Scores of classes with other names are dropped."""
    named = classes.as_metadata()
    kept = {key: value for key, value in metadata.data.items() if key != "masks"}
    scores = metadata.scores if named.classes == metadata.classes else {}
    return replace(
        metadata,
        classes=named.classes,
        palette=named.palette,
        data={**kept, **named.data},
        scores=scores,
    )


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    source = options.state_dict or options.weights
    if source is None:
        sys.exit("error: give the path of a state dict: python -m model.convert FILE --output OUT")
    try:
        classes = read_classes(options.classes) if options.classes else None
        require_writable(options.output)
        metadata = convert(source, options.output, classes=classes, half=options.half)
    except ModelError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {options.output}: {len(metadata.classes)} classes, digest {metadata.digest}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name_program("python -m model.convert"), description=__doc__
    )
    parser.add_argument(
        "state_dict", type=Path, nargs="?", help="state dict, checkpoint or weights file"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the same as the argument")
    parser.add_argument("--output", type=Path, required=True, help="weights file to write")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="the classes' names and colours"
    )
    parser.add_argument("--half", action="store_true", help="store kernels as float16")
    return parser


if __name__ == "__main__":
    main()
