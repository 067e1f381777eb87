"""Turn a state dict that the notebook saved into a weights file; its predictions stay the same.

Run as `python -m model.convert notebook.pth --output fcn.safetensors`. Accepts a `.pth` that
`torch.save(net.state_dict(), path)` wrote, or safetensors; no pickled module is ever loaded.
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
from model.state_dict import (
    convert_notebook_state,
    network_from_state,
    read_state_dict,
    tensors_of,
)
from model.weights import Metadata, write_weights


def convert(source: Path, output: Path, *, classes: ClassList = VOC) -> Metadata:
    """Read `source`, check that it is a whole FCN, write `output`; what was written is returned.

    `classes` are the network's. Raises NetworkError.
    """
    network = network_from_state(
        convert_notebook_state(read_state_dict(source)), source=str(source)
    )
    if len(classes) != network.num_classes:
        raise NetworkError(
            f"{source}: the network has {network.num_classes} classes, {len(classes)} are named; "
            "name them with --classes FILE"
        )
    recipe = {"name": "converted", "source": source.name}
    metadata = replace(classes.as_metadata(), recipe=recipe)
    return write_weights(output, tensors_of(network), metadata)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    source = options.state_dict or options.weights
    if source is None:
        sys.exit(
            "error: which state dict? Give its path: python -m model.convert FILE --output OUT"
        )
    try:
        classes = read_classes(options.classes) if options.classes else VOC
        metadata = convert(source, options.output, classes=classes)
    except ModelError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {options.output}: {len(metadata.classes)} classes, digest {metadata.digest}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.convert", description=__doc__)
    parser.add_argument("state_dict", type=Path, nargs="?", help="the notebook's state dict")
    parser.add_argument("--weights", type=Path, help="the same, by option")
    parser.add_argument("--output", type=Path, required=True, help="weights file to write")
    parser.add_argument("--classes", type=Path, help="the classes' names and colours")
    return parser


if __name__ == "__main__":
    main()
