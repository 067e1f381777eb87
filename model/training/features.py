"""The features of each view, the output of the backbone's frozen first layers, cached on disk.

With `views` in the recipe, training sees each image in a fixed number of views. The frozen layers'
output for a view never changes, so it is computed once, and training runs only the other layers.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.engines.base import Array
from model.engines.torch_engine import normalise
from model.errors import RecipeError
from model.outputs import require_folder
from model.training.frozen import count_frozen_start, take_frozen_start
from model.training.identity import identify_content
from model.training.loader import TrainingSamples, ignore_signals
from model.training.state import Training
from model.weights import write_atomically

BATCH = 16
"""Views that go through the frozen layers together."""


class FeatureCache:
    """One file of features, (images * views, h, w, channels), and its description beside it."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        """`description`: all that features depend on, and their `shape` and `dtype`."""
        self.path = folder / "features.npy"
        self.description_path = folder / "features.json"
        self.description = description
        self._views = int(description["views"])
        self._file: NDArray[Any] | None = None

    def read(self, index: int, view: int) -> NDArray[Any]:
        """Read a view's features, (h, w, channels): float32, or the bits of bfloat16."""
        if self._file is None:  # each loader process opens its own
            self._file = np.load(self.path, mmap_mode="r")
        features: NDArray[Any] = self._file[index * self._views + view]
        return features

    def is_complete(self) -> bool:
        """Return whether the finished file exists. Raises RecipeError if it is another run's."""
        if not (self.path.exists() and self.description_path.exists()):
            return False
        if self._read_description() != self.description:
            raise RecipeError(
                f"{self.path} was made of other images, views or weights: name another folder "
                "with --feature-cache, or remove this file"
            )
        return self._is_whole()

    def _read_description(self) -> Any:
        try:
            return json.loads(self.description_path.read_text())
        except ValueError:  # it describes nothing, so it belongs to no known run
            return None

    def _is_whole(self) -> bool:
        """Return whether the file has the size that its header and the description say."""
        try:
            file = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError):
            return False
        return bool(list(file.shape) == self.description["shape"])

    def write(self, batches: Iterator[Tensor]) -> None:
        """Fill the file from features (N, h, w, channels) in order.

        Raises RecipeError for a disk that is too small, and OutputError.
        """
        folder, shape = self.path.parent, tuple(self.description["shape"])
        dtype = np.dtype(np.int16 if self.description["dtype"] == "bfloat16" else np.float32)
        require_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = dtype.itemsize * int(np.prod(shape)), shutil.disk_usage(folder).free
        if needed > free:
            raise RecipeError(
                f"the features need {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB: "
                "choose fewer --views or another folder"
            )
        self.description_path.unlink(missing_ok=True)  # of a file that is no longer whole
        file = np.lib.format.open_memmap(self.path, mode="w+", dtype=dtype, shape=shape)
        row = 0
        for features in batches:
            bits = features.view(torch.int16) if features.dtype == torch.bfloat16 else features
            file[row : row + len(bits)] = bits.numpy()
            row += len(bits)
        file.flush()
        # Written last: a file without its description is not finished.
        with write_atomically(self.description_path) as marker:
            marker.write(json.dumps(self.description, indent=1).encode())


def open_feature_cache(
    folder: Path, training: Training, samples: TrainingSamples, *, workers: int
) -> FeatureCache:
    """Open the features of all views of these samples; compute them if they do not exist.

    With data parallelism, the main process computes them, and every process must call this.
    Raises RecipeError.
    """
    recipe = training.recipe
    if not recipe.views or not count_frozen_start(recipe):
        raise RecipeError(
            "--feature-cache needs --views, and --frozen with the backbone's first layers, such "
            "as --frozen conv1 bn1 layer1"
        )
    if recipe.copy_paste:
        raise RecipeError("--copy-paste needs pixels, which a --feature-cache does not keep")
    cache = FeatureCache(folder, describe_features(training, samples))
    complete = cache.is_complete()
    training.group.wait()  # no process may look while the main one writes
    if training.group.is_main and not complete:
        views = _AllViews(samples)
        loader: DataLoader[Array] = DataLoader(
            views,  # type: ignore[arg-type]  # it has what a map-style dataset needs
            batch_size=BATCH,
            num_workers=workers,
            worker_init_fn=ignore_signals,
        )
        bar = tqdm(loader, desc="features", unit="batch", disable=None)
        cache.write(_compute(training, images) for images in bar)
    training.group.wait()
    return cache


def describe_features(training: Training, samples: TrainingSamples) -> dict[str, Any]:
    """Describe what features depend on: images, views, normalisation and the frozen layers."""
    recipe, metadata = training.recipe, training.metadata
    frozen = hashlib.sha256()
    for name, tensor in take_frozen_start(training.network, recipe).state_dict().items():
        frozen.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    probe = _compute(training, torch.zeros(1, *recipe.crop, 3, dtype=torch.uint8))
    return {
        "images": identify_content(samples.images),
        "weights": frozen.hexdigest(),
        "views": recipe.views,
        "crop": list(recipe.crop),
        "scale": list(recipe.scale),
        "augment": recipe.augment,
        "seed": samples.seed,
        "mean": list(metadata.mean),
        "std": list(metadata.std),
        "dtype": str(probe.dtype).removeprefix("torch."),
        "shape": [len(samples.images) * recipe.views, *probe.shape[1:]],
    }


@torch.no_grad()
def _compute(training: Training, images: Tensor) -> Tensor:
    """Compute the features (N, h, w, channels) of views (N, H, W, 3) uint8, on the CPU."""
    device, metadata = training.group.device, training.metadata
    layers = take_frozen_start(training.network, training.recipe).eval()
    inputs = normalise(images.to(device), metadata.mean, metadata.std)
    with torch.autocast(device.type, torch.bfloat16, enabled=training.autocast):
        features: Tensor = layers(inputs)
    return features.permute(0, 2, 3, 1).contiguous().cpu()


class _AllViews:
    """Every view of every image, in the order of the file."""

    def __init__(self, samples: TrainingSamples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples) * self.samples.recipe.views

    def __getitem__(self, row: int) -> Array:
        return self.samples.read_image(*divmod(row, self.samples.recipe.views))
