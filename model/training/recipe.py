"""Recipes: every number of a training run in one frozen value, and the presets we offer.

Knows nothing of torch.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from model.architectures import ArchitectureName
from model.errors import RecipeError
from model.training.bounds import require_bounds

RegionLoss = Literal["none", "dice", "lovasz"]


TrainingPrecision = Literal["auto", "float32", "bfloat16"]


BackboneChild = Literal["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained. Sizes are (height, width); learning rates are for one mean loss."""

    name: str

    epochs: int
    batch_size: int
    crop: tuple[int, int]

    # Optimiser: SGD. `lr_pretrained` is for the tensors that a pretrained backbone gave.
    lr: float
    lr_pretrained: float
    momentum: float
    nesterov: bool
    weight_decay: float
    poly_power: float
    """Learning rate at step s of S: lr * (1 - s / S) ** poly_power; 0 keeps it constant."""
    warmup_steps: int

    # Data.
    void_is_background: bool
    drop_small_images: bool
    """Leave out images that do not hold a whole crop, as the notebook does, instead of padding."""
    augment: bool
    """Random scale, flip and colours; without it, only a random crop."""
    scale: tuple[float, float]
    """Bounds of the scaled longer side, as multiples of the crop's; drawn log-uniformly."""
    views: int
    """The number of random views of each image, which are reused; 0 draws a new one each time."""
    cutmix: float
    """The share of samples that get a window of another image (Yun et al., "CutMix", 2019)."""
    copy_paste: float
    """The share of samples that get the objects of another image (Ghiasi et al., "Simple
    Copy-Paste", 2021)."""
    rarity: float
    """0 takes every image once per epoch. Above 0, images are drawn at random. An image's weight is
    the mean, over its classes, of (1 / images with that class) ** rarity."""

    # Loss and network.
    architecture: ArchitectureName
    """fcn16s also classifies the features of layer3, fcn8s those of layer2, too (Long et al.,
    2015)."""
    loss_reduction: Literal["image_sum", "pixel_mean"]
    """"image_sum": mean over an image's pixels, summed over the batch. "pixel_mean": mean over all
    pixels of the batch, that of all processes together, that are not void."""
    loss_stride: Literal[1, 2, 4, 8]
    """Above 1, the cross entropy is that of one pixel in each square of this side. Interpolated
    logits are computed for the middle of each square alone."""
    class_weights: tuple[float, ...]
    """The weight of each class in the cross entropy and its mean; empty: all are equal."""
    boundary_weight: float
    """The weight of the pixels with another class at most 8 pixels away; others have 1."""
    hard_share: float
    """The share of each image's pixels that counts: those with the highest loss. 1 counts all."""
    region_loss: RegionLoss
    """A loss that is added to the cross entropy, times `region_weight`: Dice or Lovasz-Softmax of
    every eighth pixel."""
    region_weight: float
    train_transpose_conv: bool
    frozen: tuple[BackboneChild, ...]
    """Children of the backbone, such as conv1, that keep the weights and the statistics they start
    with."""
    zero_init_residual: bool
    """Start residual blocks that the pretrained file lacks as the identity (Goyal et al.,
    "Accurate, Large Minibatch SGD", 2017, section 5.1), instead of at random."""
    freeze_statistics: bool
    """Batch norms keep the statistics that they start with."""
    sync_batch_norm: bool
    """Statistics of the whole batch where several GPUs share it, not of each GPU's images."""
    ema_decay: float
    """Above 0, an exponential moving average of the weights is validated and saved."""
    soft_weight: float
    """The weight of the loss against soft labels, if there are any. Masks have the remainder."""
    temperature: float
    """Softens both distributions (Hinton et al., "Distilling the Knowledge", 2015, section 2)."""
    precision: TrainingPrecision

    patience: int
    """Stop after so many validations without a better one; 0 never stops early."""

    # Validation: random crops in batches, as the notebook does, or whole images at their own size.
    validate_crops: bool

    def __post_init__(self) -> None:
        """Raises RecipeError."""
        require_bounds(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def require_fit(self, *, num_classes: int, world_size: int) -> None:
        """Raises RecipeError unless the recipe fits the network's classes and the processes."""
        if self.class_weights and len(self.class_weights) != num_classes:
            raise RecipeError(
                f"{len(self.class_weights)} class weights for {num_classes} classes: "
                "give one for each, background first"
            )
        if self.batch_size % world_size:
            raise RecipeError(
                f"a batch of {self.batch_size} cannot be shared evenly by {world_size} "
                "processes: choose a multiple with --batch-size"
            )


D2L = Recipe(
    name="d2l",
    epochs=5,
    batch_size=32,
    crop=(320, 480),
    lr=1e-3,
    lr_pretrained=1e-3,
    momentum=0.0,
    nesterov=False,
    weight_decay=1e-3,
    poly_power=0.0,
    warmup_steps=0,
    void_is_background=True,
    drop_small_images=True,
    augment=False,
    scale=(1.0, 1.0),
    views=0,
    cutmix=0.0,
    copy_paste=0.0,
    rarity=0.0,
    architecture="fcn32s",
    loss_reduction="image_sum",
    loss_stride=1,
    class_weights=(),
    boundary_weight=1.0,
    hard_share=1.0,
    region_loss="none",
    region_weight=1.0,
    train_transpose_conv=True,
    frozen=(),
    zero_init_residual=False,
    freeze_statistics=False,
    sync_batch_norm=False,
    ema_decay=0.0,
    soft_weight=0.0,
    temperature=1.0,
    precision="float32",
    patience=0,
    validate_crops=True,
)
"""The notebook's recipe to the letter: the chapter "Fully Convolutional Networks" of d2l."""

DEFAULT = replace(
    D2L,
    name="default",
    epochs=30,
    batch_size=16,
    crop=(320, 320),
    lr=0.02,
    lr_pretrained=0.004,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    poly_power=0.9,
    warmup_steps=200,
    void_is_background=False,
    drop_small_images=False,
    augment=True,
    scale=(0.8, 2.2),
    rarity=0.7,
    loss_reduction="pixel_mean",
    train_transpose_conv=False,
    zero_init_residual=True,
    soft_weight=0.5,
    precision="auto",
    validate_crops=False,
)

PRESETS = {recipe.name: recipe for recipe in (D2L, DEFAULT)}
