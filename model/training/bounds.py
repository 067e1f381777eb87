"""The bounds of a recipe's numbers, and of numbers that depend on each other.

Knows nothing of what they do in training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Bound:
    """The numbers from `least` to `most`; each is left out where the interval is open."""

    least: float = 0
    most: float = math.inf
    without_least: bool = False
    without_most: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.least if self.without_least else value >= self.least
        below = value < self.most if self.without_most else value <= self.most
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        least = f"more than {self.least:g}" if self.without_least else f"{self.least:g}"
        if math.isinf(self.most):
            return least if self.without_least else f"{least} or more"
        return f"{least} to {'less than ' if self.without_most else ''}{self.most:g}"


NOT_NEGATIVE = Bound()
POSITIVE = Bound(without_least=True)
SHARE = Bound(most=1)
DECAY = Bound(most=1, without_most=True)

BOUNDS: Mapping[str, Bound] = {
    "epochs": NOT_NEGATIVE,
    "batch_size": Bound(1),
    "lr": NOT_NEGATIVE,
    "lr_pretrained": NOT_NEGATIVE,
    "momentum": DECAY,
    "weight_decay": NOT_NEGATIVE,
    "poly_power": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "scale": POSITIVE,
    "views": NOT_NEGATIVE,
    "cutmix": SHARE,
    "copy_paste": SHARE,
    "rarity": NOT_NEGATIVE,
    "class_weights": NOT_NEGATIVE,
    "boundary_weight": NOT_NEGATIVE,
    "hard_share": Bound(most=1, without_least=True),
    "region_weight": NOT_NEGATIVE,
    "ema_decay": DECAY,
    "soft_weight": SHARE,
    "temperature": POSITIVE,
    "patience": NOT_NEGATIVE,
}
"""The bound of each number, or of each number of a tuple."""


def require_bounds(recipe: Mapping[str, Any]) -> None:
    """Raises RecipeError that names the value, its bounds and the option."""
    for name, bound in BOUNDS.items():
        value = recipe[name]
        for number in value if isinstance(value, tuple) else (value,):
            if not bound.holds(number):
                raise RecipeError(
                    f"{name} is {number:g}: {bound} expected; set it with --{_as_option(name)}"
                )
    least, most = recipe["scale"]
    if least > most:
        raise RecipeError(f"scale is {least:g} to {most:g}: the smaller bound comes first")
    if recipe["nesterov"] and not recipe["momentum"]:
        raise RecipeError("nesterov needs momentum: set --momentum above 0, or --no-nesterov")
    if any(side < 32 or side % 32 for side in recipe["crop"]):
        height, width = recipe["crop"]
        raise RecipeError(
            f"a crop of {height} x {width}: each side must be a multiple of 32, the network's "
            "stride"
        )


def _as_option(name: str) -> str:
    return name.replace("_", "-")
