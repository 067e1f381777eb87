"""Turn a state dict that the notebook saved into a weights file; its predictions stay the same.

Run as `python -m model.convert notebook.pth --output fcn.safetensors`. Accepts a `.pth` that
`torch.save(net.state_dict(), path)` wrote, or safetensors; no pickled module is ever loaded.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision")

import argparse
import sys
from pathlib import Path

from model.classes import CLASSES, read_class_names
from model.errors import ModelError, NetworkError
from model.state_dict import (
    convert_notebook_state,
    network_from_state,
    read_state_dict,
    tensors_of,
)
from model.weights import Metadata, write_weights


def convert(source: Path, output: Path, *, classes: tuple[str, ...] | None = None) -> Metadata:
    """Read `source`, check that it is a whole FCN, write `output`; what was written is returned.

    `classes` names the network's classes; without, there must be VOC's 21. Raises NetworkError.
    """
    network = network_from_state(
        convert_notebook_state(read_state_dict(source)), source=str(source)
    )
    names = classes or CLASSES
    if len(names) != network.num_classes:
        raise NetworkError(
            f"{source}: the network has {network.num_classes} classes, {len(names)} are named; "
            "name them with --class-names FILE, one a line"
        )
    recipe = {"name": "converted", "source": source.name}
    return write_weights(output, tensors_of(network), Metadata(classes=names, recipe=recipe))


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    source = options.state_dict or options.weights
    if source is None:
        sys.exit(
            "error: which state dict? Give its path: python -m model.convert FILE --output OUT"
        )
    try:
        classes = read_class_names(options.class_names) if options.class_names else None
        metadata = convert(source, options.output, classes=classes)
    except ModelError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {options.output}: {len(metadata.classes)} classes, digest {metadata.digest}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.convert", description=__doc__)
    parser.add_argument("state_dict", type=Path, nargs="?", help="the notebook's state dict")
    parser.add_argument("--weights", type=Path, help="the same, by option")
    parser.add_argument("--output", type=Path, required=True, help="weights file to write")
    parser.add_argument("--class-names", type=Path, help="the classes' names, one a line")
    return parser


if __name__ == "__main__":
    main()
