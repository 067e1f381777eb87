"""The precision of training, float32 or bfloat16. Knows nothing of networks."""

import torch

from model.training.recipe import Recipe


def should_autocast(recipe: Recipe, device: torch.device) -> bool:
    """Whether to autocast; "auto" does where the device multiplies bfloat16 in hardware."""
    if recipe.precision != "auto":
        return recipe.precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # No public names for them yet.
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
