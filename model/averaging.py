"""Class probabilities and masks by PyTorch, averaged over scales and mirror images.

Each view takes a forward pass, so this is for evaluation, not for serving. Knows nothing of
engines.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from model.engines.base import Array, Size
from model.engines.torch_engine import choose_device, normalise
from model.predictor import find_canvas_size, find_fill_colour
from model.scaling import UNSCALED, Scaling, find_content_size, scale_down
from model.state_dict import network_from_weights
from model.weights import Weights


class AveragingPredictor:
    """Averages over the scales and, with `flip`, over mirror images."""

    def __init__(
        self,
        weights: Weights,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        device: str = "auto",
        scaling: Scaling = UNSCALED,
    ) -> None:
        self.metadata = weights.metadata
        self.scales = tuple(scales)
        self.flip = flip
        self.scaling = scaling
        self._device = choose_device(device)
        network = network_from_weights(weights)
        self._network = network.to(self._device).to(memory_format=torch.channels_last)
        mirrored = ", mirrored" if flip else ""
        scale_list = ", ".join(f"{scale:g}" for scale in self.scales)
        self.description = (
            f"torch {torch.__version__} on {self._device}, scales {scale_list}{mirrored}"
        )

    def __call__(self, image: Array) -> Array:
        """One RGB image (H, W, 3) uint8 to its mask (H, W) uint8."""
        mask: Array = (
            self.compute_probabilities(image).max(dim=0).indices.to(torch.uint8).cpu().numpy()
        )
        return mask

    @torch.inference_mode()
    def compute_probabilities(self, image: Array) -> Tensor:
        """Return each class' probability, (C, H, W) float32: the mean of the views' softmax."""
        output = image.shape[0], image.shape[1]
        base = find_content_size(output, self.scaling)
        views = [
            self._predict_view(image, self._scale(base, scale), output, mirrored=mirrored)
            for scale in self.scales
            for mirrored in ((False, True) if self.flip else (False,))
        ]
        return torch.stack(views).mean(dim=0)

    @staticmethod
    def _scale(size: Size, scale: float) -> Size:
        height, width = (max(1, round(scale * side)) for side in size)
        return height, width

    def _predict_view(self, image: Array, content: Size, output: Size, *, mirrored: bool) -> Tensor:
        if content != output:
            image = np.asarray(scale_down(Image.fromarray(image), content))
        pixels = np.empty((*find_canvas_size(content), 3), np.uint8)
        pixels[:] = find_fill_colour(self.metadata)
        pixels[: content[0], : content[1]] = image[:, ::-1] if mirrored else image
        batch = torch.from_numpy(pixels)[None].to(self._device)
        logits = self._network(normalise(batch, self.metadata.mean, self.metadata.std))
        logits = logits[:, :, : content[0], : content[1]]
        if mirrored:
            logits = logits.flip(3)
        if content != output:
            logits = F.interpolate(logits, output, mode="bilinear", align_corners=False)
        softmax: Tensor = logits.softmax(dim=1)[0]
        return softmax
