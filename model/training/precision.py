"""The precision of training, float32 or bfloat16. Knows nothing of networks."""

import torch

from model.training.recipe import Recipe


def should_autocast(recipe: Recipe, device: torch.device) -> bool:
    """Return whether to autocast; "auto" does where the device multiplies bfloat16 in hardware."""
    if recipe.precision != "auto":
        return recipe.precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_amx = torch.cpu._is_amx_tile_supported()  # noqa: SLF001, it has no public name
    has_avx512 = torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001
    return bool(has_amx or has_avx512)
