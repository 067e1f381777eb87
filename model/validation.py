"""How good a network is: on whole images, through the predictor that serves, or on random crops.

Never changes the network.
"""

from dataclasses import replace

from tqdm import tqdm

from model.confusion import Scores
from model.dataset import EpochSampler, TrainingSamples, VOCImages, collate
from model.evaluate import evaluate
from model.history import Validation
from model.network import tensors_of
from model.predictor import Predictor, predictor_for
from model.training import Training
from model.weights import Weights


def validate(training: Training, images: VOCImages | None) -> Validation:
    """As the recipe says; nothing is measured without images, or outside the main process."""
    if images is None or not training.group.is_main:
        return Validation()
    if training.recipe.validate_crops:
        return Validation(accuracy=crop_accuracy(training, images))
    weights = Weights(tensors_of(training.network), training.metadata)
    scores = score(predictor_for(weights, device=str(training.group.device)), images)
    return Validation(accuracy=scores.pixel_accuracy, mean_iou=scores.mean_iou)


def score(predictor: Predictor, images: VOCImages) -> Scores:
    """Every image whole, at its own size."""
    pairs = map(images.read, range(len(images)))
    return evaluate(predictor, tqdm(pairs, total=len(images), desc="validate", leave=False))


def crop_accuracy(training: Training, images: VOCImages) -> float:
    """The notebook's test accuracy: random crops in whole batches, void counted as background."""
    recipe = replace(training.recipe, augment=False)
    samples = TrainingSamples(images, recipe, seed=training.seed, fill=(0, 0, 0))
    sampler = EpochSampler(images, batch_size=recipe.batch_size, seed=training.seed, shuffle=False)
    sampler.epoch = training.epoch
    hits = known = 0
    for batch in sampler:
        counts = training.count_hits(*collate([samples[draw] for draw in batch]))
        hits, known = hits + counts[0], known + counts[1]
    return hits / max(known, 1)
