"""A known answer for any weights: the mask of a small picture, computed with plain numpy.

An engine's mask of the picture must agree before the engine serves. Knows no engine.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from model.engines import folding
from model.engines.base import Array, Engine, Region
from model.engines.folding import Convolution, Floats, FoldedNetwork
from model.errors import EngineError
from model.weights import Weights

SIZE = (96, 128)

SEEDS = (2972, 2991, 645, 1238)
"""Of 6000 seeds, those whose pictures the shipped weights divide most evenly among the classes."""

MAX_SHARE = 0.9
"""The largest share of one class, because a mask of a single class would prove little."""

MIN_AGREEMENT = 0.99
"""The required share of equal pixels, among those that are no near-ties."""

NEAR_TIE = 0.02
"""At a near-tie the two highest logits differ by less than this share of the logits' range.

There, bfloat16 may choose the other class. Where it did on 34 pictures, with the shipped weights,
they differed by at most 0.0052 of the range.
"""


def require_golden_mask(engine: Engine, weights: Weights) -> None:
    """Raises EngineError if the engine's mask is not the network's, and WeightsError as `fold`."""
    image, logits = compute_golden_logits(weights)
    expected, clear = logits.argmax(0), find_clear_pixels(logits)
    (mask,) = engine.segment([image], [Region(SIZE, SIZE)])
    agreement = float((mask == expected)[clear].mean()) if mask.shape == SIZE else 0.0
    if agreement < MIN_AGREEMENT:
        raise EngineError(
            f"{engine.description} does not compute the network of {weights.source}: "
            f"{agreement:.1%} of a known mask are equal, {MIN_AGREEMENT:.0%} are required"
        )


def find_clear_pixels(logits: Floats) -> NDArray[np.bool_]:
    """Where the logits (C, H, W) are no near-tie; everywhere, if they are one in every pixel."""
    second, first = np.sort(logits, axis=0)[-2:]
    clear: NDArray[np.bool_] = first - second > NEAR_TIE * np.ptp(logits)
    return clear if clear.any() else ~clear


def compute_golden_logits(weights: Weights) -> tuple[Array, Floats]:
    """Return a picture and its logits (C, H, W), in which more than one class wins if possible.

    Raises WeightsError, and EngineError for logits that are no numbers.
    """
    network = folding.fold(weights)
    levels = folding.normalise_levels(weights.metadata)
    for seed in SEEDS:
        image = draw_picture(seed)
        coarse = compute_coarse_logits(
            network, np.stack([levels[c][image[..., c]] for c in range(3)])
        )
        if not np.isfinite(coarse).all():
            raise EngineError(f"{weights.source}: the network's logits are not finite")
        enlarged = _convolve_transposed(coarse, network.upsampling_kernel)
        logits: Floats = enlarged + network.upsampling_bias[:, None, None]
        if np.bincount(logits.argmax(0).ravel()).max() < MAX_SHARE * logits[0].size:
            break
    return image, logits


def draw_picture(seed: int) -> Array:
    """Return a smooth gradient of random colours, (96, 128, 3)."""
    colours = np.random.RandomState(seed).randint(0, 256, (5, 6, 3))  # the same in every numpy
    flowing = Image.fromarray(colours.astype(np.uint8)).resize(
        SIZE[::-1], Image.Resampling.BILINEAR
    )
    return np.asarray(flowing)


def compute_coarse_logits(network: FoldedNetwork, image: Floats) -> Floats:
    """Compute (C, H / stride, W / stride) of a normalised image by each layer's definition."""
    x = _pool(_relu(_convolve(image, network.stem)))
    outputs = []
    for block in network.blocks:
        identity = x if block.shortcut is None else _convolve(x, block.shortcut)
        x = _relu(_convolve(_relu(_convolve(x, block.first)), block.second) + identity)
        outputs.append(x)
    coarse = _convolve(x, network.classifier)
    for skip in network.skips:
        coarse = _convolve_transposed(coarse, skip.doubling) + _convolve(
            outputs[skip.block], skip.classifier
        )
    return coarse


def _convolve_transposed(x: Floats, kernel: Floats) -> Floats:
    """Convolve transposed with a kernel (in, out, 2 s, 2 s), stride s and padding s / 2."""
    stride = kernel.shape[-1] // 2
    _, height, width = x.shape
    parts = np.tensordot(kernel, x, (0, 0)).reshape(-1, 2, stride, 2, stride, height, width)
    framed = np.zeros((len(parts), height + 1, stride, width + 1, stride), np.float32)
    for down in range(2):
        for right in range(2):
            part = parts[:, down, :, right].transpose(0, 3, 1, 4, 2)
            framed[:, down : down + height, :, right : right + width] += part
    margin = stride // 2
    y: Floats = framed.reshape(len(parts), (height + 1) * stride, (width + 1) * stride)
    return y[:, margin:-margin, margin:-margin]


def _convolve(x: Floats, convolution: Convolution) -> Floats:
    side = convolution.kernel.shape[-1]
    windows = _view_windows(x, side, convolution.stride, fill=0)
    y: Floats = np.tensordot(convolution.kernel, windows, ((1, 2, 3), (0, 3, 4)))
    return y + convolution.bias[:, None, None]


def _pool(x: Floats) -> Floats:
    pooled: Floats = _view_windows(x, 3, 2, fill=-np.inf).max((3, 4))
    return pooled


def _view_windows(x: Floats, side: int, stride: int, *, fill: float) -> Floats:
    """Return every `stride`th window, centred, (C, H / stride, W / stride, side, side)."""
    margin = side // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)), constant_values=fill)
    return sliding_window_view(padded, (side, side), (1, 2))[:, ::stride, ::stride]


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0)
