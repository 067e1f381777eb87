"""Make soft labels of an image set with a weights file, for distillation.

Run as `python -m model.soft_labels --images DIR --weights FILE --output DIR`; masks are not needed.
For other networks, call `model.training.soft_labels.label_images`.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision", "tqdm")

import argparse
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model.arguments import add_scaling_option
from model.engines.base import Array
from model.engines.torch_engine import choose_device, normalise, use_exact_float32
from model.errors import DatasetError, ModelError
from model.outputs import require_folder
from model.predictor import find_canvas_size, find_fill_colour
from model.scaling import UNSCALED, Scaling, find_content_size, scale_down
from model.state_dict import network_from_weights
from model.training.data import add_data_options, list_images_of
from model.training.defects import BrokenSample, require_sound
from model.training.pairs import list_images
from model.training.photos import read_photo
from model.training.soft_labels import label_images
from model.weights import SHIPPED_WEIGHTS, Weights, read_weights


class NetworkTeacher:
    """A weights file's network as a teacher. `scaling` is that of its input."""

    def __init__(
        self, weights: Weights, *, device: torch.device, scaling: Scaling = UNSCALED
    ) -> None:
        network = network_from_weights(weights)
        self.network = network.eval().to(device)
        self.metadata = weights.metadata
        self.device = device
        self.scaling = scaling

    @torch.inference_mode()
    def __call__(self, image: Array) -> NDArray[np.floating]:
        """RGB (H, W, 3) uint8 to logits (h, w, classes)."""
        content = find_content_size((image.shape[0], image.shape[1]), self.scaling)
        canvas = np.empty((*find_canvas_size(content), 3), np.uint8)
        canvas[:] = find_fill_colour(self.metadata)
        canvas[: content[0], : content[1]] = np.asarray(scale_down(Image.fromarray(image), content))
        batch = torch.from_numpy(canvas).to(self.device)[None]
        logits = self.network(normalise(batch, self.metadata.mean, self.metadata.std))[0]
        seen: NDArray[np.floating] = logits[:, : content[0], : content[1]].cpu().numpy()
        return np.moveaxis(seen, 0, 2)


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    use_exact_float32()
    try:
        require_folder(options.output)
        teacher = NetworkTeacher(
            read_weights(options.weights),
            device=choose_device(options.device),
            scaling=options.scaling,
        )
        images = find_images(options)
        require_empty(options.output, overwrite=options.overwrite)
        require_readable(images)
        label_images(images, teacher, options.output)
    except ModelError as error:
        sys.exit(f"error: {error}")
    print(f"wrote soft labels of {len(images)} images into {options.output}")


def find_images(options: argparse.Namespace) -> Mapping[str, Path]:
    """Find the images, by the names that they have in training. Raises DatasetError."""
    if options.images and not (options.data or options.pairs):
        return list_images(options.images)
    return {sample.name: sample.image_path for sample in list_images_of(options).samples}


def require_empty(output: Path, *, overwrite: bool) -> None:
    """Raises DatasetError if the folder has soft labels, perhaps of another teacher."""
    if not overwrite and next(output.rglob("*.npz"), None) is not None:
        raise DatasetError(
            f"{output} holds soft labels already: choose another folder, or --overwrite them"
        )


def require_readable(images: Mapping[str, Path]) -> None:
    """Raises DatasetError that lists what is missing or broken."""

    def check(path: Path) -> BrokenSample | None:
        try:
            read_photo(path)
        except BrokenSample as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:
        broken = [error for error in pool.map(check, images.values()) if error is not None]
    require_sound(broken, name="to label", samples=len(images))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.soft_labels", description=__doc__)
    add_data_options(parser, image_set="train")
    add = parser.add_argument
    add("--weights", type=Path, default=SHIPPED_WEIGHTS, help="the teacher (default: the shipped)")
    add("--output", type=Path, required=True, help="folder for the soft labels")
    add("--overwrite", action="store_true", help="replace soft labels in the folder")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_scaling_option(parser)
    return parser


if __name__ == "__main__":
    main()
