"""A known answer for any weights: the mask of a small picture, computed with plain numpy.

An engine's mask of the picture must agree before the engine serves. Knows no engine.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from model.engines import folding
from model.engines.base import Array, Engine, Region
from model.engines.folding import Convolution, Floats, FoldedNetwork
from model.engines.numpy_head import NumpyHead
from model.errors import EngineError
from model.weights import Weights

SIZE = (96, 128)

SEEDS = (1607, 5958, 5606, 1025)
"""Of 6000 seeds, those whose pictures the shipped weights divide most evenly among the classes."""

MAX_SHARE = 0.9
"""The largest share of one class, because a mask of a single class would prove little."""

MIN_AGREEMENT = 0.98
"""The required share of equal pixels. float32 engines reach 1; bfloat16 differs at borders."""


def require_golden_mask(engine: Engine, weights: Weights) -> None:
    """Raises EngineError if the engine's mask is not the network's, and WeightsError as `fold`."""
    image, expected = compute_golden_pair(weights)
    (mask,) = engine.segment([image], [Region(SIZE, SIZE)])
    agreement = float((mask == expected).mean()) if mask.shape == expected.shape else 0.0
    if agreement < MIN_AGREEMENT:
        raise EngineError(
            f"{engine.description} does not compute the network of {weights.source}: "
            f"{agreement:.1%} of a known mask are equal, {MIN_AGREEMENT:.0%} are required"
        )


def compute_golden_pair(weights: Weights) -> tuple[Array, Array]:
    """Return a picture and its mask, with more than one class if any of the pictures has.

    Raises WeightsError, and EngineError for logits that are no numbers.
    """
    network = folding.fold(weights)
    levels = folding.normalise_levels(weights.metadata)
    head = NumpyHead(network)
    for seed in SEEDS:
        image = draw_picture(seed)
        coarse = compute_coarse_logits(
            network, np.stack([levels[c][image[..., c]] for c in range(3)])
        )
        if not np.isfinite(coarse).all():
            raise EngineError(f"{weights.source}: the network's logits are not finite")
        mask = head(coarse, Region(SIZE, SIZE))
        if np.bincount(mask.ravel()).max() < MAX_SHARE * mask.size:
            break
    return image, mask


def draw_picture(seed: int) -> Array:
    """A smooth gradient of random colours, (96, 128, 3)."""
    colours = np.random.RandomState(seed).randint(0, 256, (5, 6, 3))  # the same in every numpy
    flowing = Image.fromarray(colours.astype(np.uint8)).resize(
        SIZE[::-1], Image.Resampling.BILINEAR
    )
    return np.asarray(flowing)


def compute_coarse_logits(network: FoldedNetwork, image: Floats) -> Floats:
    """A normalised image (3, H, W) to (C, H / stride, W / stride), by each layer's definition."""
    x = _pool(_relu(_convolve(image, network.stem)))
    outputs = []
    for block in network.blocks:
        identity = x if block.shortcut is None else _convolve(x, block.shortcut)
        x = _relu(_convolve(_relu(_convolve(x, block.first)), block.second) + identity)
        outputs.append(x)
    coarse = _convolve(x, network.classifier)
    for skip in network.skips:
        coarse = _double(coarse, skip.doubling) + _convolve(outputs[skip.block], skip.classifier)
    return coarse


def _double(x: Floats, kernel: Floats) -> Floats:
    """The transposed convolution with stride 2, padding 1 and kernel (in, out, 4, 4)."""
    _, height, width = x.shape
    framed = np.zeros((kernel.shape[1], 2 * height + 2, 2 * width + 2), np.float32)
    for dy in range(4):
        for dx in range(4):
            part = framed[:, dy : dy + 2 * height : 2, dx : dx + 2 * width : 2]
            part += np.tensordot(kernel[:, :, dy, dx], x, (0, 0))
    return framed[:, 1:-1, 1:-1]


def _convolve(x: Floats, convolution: Convolution) -> Floats:
    side = convolution.kernel.shape[-1]
    windows = _view_windows(x, side, convolution.stride, fill=0)
    y: Floats = np.tensordot(convolution.kernel, windows, ((1, 2, 3), (0, 3, 4)))
    return y + convolution.bias[:, None, None]


def _pool(x: Floats) -> Floats:
    pooled: Floats = _view_windows(x, 3, 2, fill=-np.inf).max((3, 4))
    return pooled


def _view_windows(x: Floats, side: int, stride: int, *, fill: float) -> Floats:
    """Every `stride`th window, centred, (C, H / stride, W / stride, side, side)."""
    margin = side // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)), constant_values=fill)
    return sliding_window_view(padded, (side, side), (1, 2))[:, ::stride, ::stride]


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0)
