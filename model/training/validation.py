"""Validation on whole images, with the service's predictor, or on random crops.

It never changes the network.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from model.confusion import ConfusionMatrix, Scores
from model.engines.base import Array
from model.predictor import Predictor, Segmenter, create_predictor
from model.scaling import SERVED
from model.state_dict import list_tensors
from model.training.dataset import SegmentationDataset
from model.training.history import Validation, count_worse
from model.training.loader import TrainingSamples, collate
from model.training.sampler import EpochSampler
from model.training.state import Training
from model.weights import Weights, widen

MAX_SHARE = 1 / 20
"""The largest share of the time for validations, unless the options choose their number."""

SECONDS_PER_TRAINED = 2 / 3
"""The time to validate an image, relative to that to train on one: 11.5 s for 200 images and 337 s
for 3785 on one core of an EPYC, with crops of 256 x 256 and two frozen layers. With larger crops or
fewer frozen layers, training takes longer, so the share is smaller."""


def evaluate(predictor: Segmenter, pairs: Iterable[tuple[Array, Array]]) -> Scores:
    """Score pairs of an image (H, W, 3) uint8 and a target (H, W) uint8, 255 where void."""
    matrix = ConfusionMatrix(predictor.metadata.classes)
    for image, target in pairs:
        matrix.update(target, predictor(image))
    return matrix.scores()


@dataclass(frozen=True, slots=True)
class Measured:
    """A validation's results, and the weights that were measured, as a file stores them."""

    validation: Validation
    weights: Weights
    predictor: Predictor
    scores: Scores | None = None


def should_validate(
    training: Training, images: SegmentationDataset | None, *, every: int | None
) -> bool:
    """Return whether to validate after the epoch that ends; after the last one, always.

    `every`: the number of epochs between validations, 0 for the last one only, None for as many as
    their share of the time demands. The notebook's recipe then validates after each epoch.
    """
    ended = training.epoch + 1
    if images is None:
        return False
    if ended == training.recipe.epochs:
        return True
    if every is None:
        trained = int(training.metadata.data["images"])
        every = 1 if training.recipe.validate_crops else choose_interval(trained, len(images))
    return every > 0 and ended % every == 0


def choose_interval(trained: int, validated: int) -> int:
    """Return the fewest epochs of `trained` images that justify a validation of `validated`."""
    return max(1, math.ceil(SECONDS_PER_TRAINED * validated / (MAX_SHARE * trained)))


def validate(
    training: Training, images: SegmentationDataset | None, *, half: bool
) -> Measured | None:
    """Validate as the recipe says; None without images, or outside the main process."""
    if images is None or not training.group.is_main:
        return None
    if not training.recipe.validate_crops:
        return measure(training, images, half=half)
    weights = export(training, half=half)
    accuracy = measure_crop_accuracy(training, images)
    return Measured(Validation(accuracy=accuracy), weights, start_predictor(training, weights))


def has_converged(training: Training) -> bool:
    """Return whether the recipe's patience is exhausted: so many validations without a better one.

    Only the main process validates, so it decides for all processes.
    """
    patience, group = training.recipe.patience, training.group
    waited = patience > 0 and count_worse(training.history) >= patience
    decision = torch.tensor(int(waited and group.is_main), device=group.device)
    return bool(group.sum(decision).item())


def measure(training: Training, images: SegmentationDataset, *, half: bool) -> Measured:
    """Measure the weights as they are stored, on whole images; the metadata has the scores."""
    weights = export(training, half=half)
    predictor = start_predictor(training, weights)
    scores = score(predictor, images)
    said = {"image_set": images.name, **SERVED._asdict()} | scores.as_dict()
    weights = replace(weights, metadata=replace(weights.metadata, scores=said))
    validation = Validation(accuracy=scores.pixel_accuracy, mean_iou=scores.mean_iou)
    return Measured(validation, weights, predictor, scores)


def export(training: Training, *, half: bool) -> Weights:
    """Export the training's current weights for a file; `half` rounds kernels to float16."""
    return Weights(list_tensors(training.measured_network, half=half), training.metadata)


def start_predictor(training: Training, stored: Weights) -> Predictor:
    weights = replace(stored, tensors=widen(stored.tensors))
    device = str(training.group.device)
    return create_predictor(weights, device=device, scaling=SERVED)


def score(predictor: Segmenter, images: SegmentationDataset) -> Scores:
    """Compute the scores on whole images at their own sizes."""
    pairs = map(images.read, range(len(images)))
    return evaluate(predictor, tqdm(pairs, total=len(images), desc="validate", leave=False))


def measure_crop_accuracy(training: Training, images: SegmentationDataset) -> float:
    """Measure the notebook's test accuracy: crops in whole batches, void as background."""
    recipe = replace(training.recipe, augment=False)
    samples = TrainingSamples(images, recipe, seed=training.seed, fill=(0, 0, 0))
    sampler = EpochSampler(images, batch_size=recipe.batch_size, seed=training.seed, shuffle=False)
    sampler.epoch = training.epoch
    hits = known = 0
    for batch in sampler:
        counts = training.count_hits(*collate([samples[draw] for draw in batch]))
        hits, known = hits + counts[0], known + counts[1]
    return hits / max(known, 1)
