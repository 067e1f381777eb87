"""Train the network on images and their masks, and write its weights file.

Run as `python -m model.train --data DIR`, or on several GPUs with `torchrun --nproc-per-node N -m
model.train --data DIR`. It also writes a checkpoint, a history, curves and a figure.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision", "matplotlib", "tqdm")

import argparse
import gc
import sys
from collections.abc import Callable, Iterable
from io import TextIOWrapper

import torch
from torch import Tensor

from model.class_list import make_class_list
from model.engines.base import Array
from model.engines.torch_engine import use_exact_float32
from model.errors import DatasetError, ModelError
from model.extras import require_packages
from model.predictor import find_fill_colour
from model.training import figures
from model.training.batches import open_batches
from model.training.checkpoint import read_checkpoint
from model.training.data import open_training_images, require_images
from model.training.dataset import SegmentationDataset
from model.training.distributed import Group, join_group
from model.training.features import open_feature_cache
from model.training.history import Validation, find_best
from model.training.identity import identify_images
from model.training.loader import TrainingSamples, create_sampler, iterate_epoch
from model.training.memory import keep_freed_memory
from model.training.options import build_parser, choose_recipe
from model.training.precision import should_autocast
from model.training.recipe import Recipe
from model.training.recorder import Files, Recorder, open_files
from model.training.sampler import EpochSampler
from model.training.sbd import TRAIN_AUG, download_sbd
from model.training.signals import StopVote, collect_signals
from model.training.soft_labels import SoftLabels
from model.training.start import start_network
from model.training.state import Training
from model.training.validation import export, has_converged, measure, should_validate, validate
from model.training.voc import download_voc
from model.weights import Metadata, write_weights

EXIT_INTERRUPTED = 130
"""The exit status that a shell gives to a command that Ctrl-C ended."""


def main(arguments: list[str] | None = None) -> None:
    options = build_parser(__doc__).parse_args(arguments)
    if options.tensorboard:
        require_packages("tensorboard")
    if options.download and options.image_set == TRAIN_AUG:
        require_packages("scipy")  # reads SBD's masks
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that `tail -f` shows each epoch at once
    keep_freed_memory()
    use_exact_float32()
    try:
        with join_group(options.device) as group:
            status: int | str = run(options, choose_recipe(options), group)
    except ModelError as error:
        status = f"error: {error}"
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    gc.collect()  # ends loader processes: an error of theirs holds their loader in a cycle
    sys.exit(status)


def run(options: argparse.Namespace, recipe: Recipe, group: Group) -> int:
    """Run the whole training, from data to weights file. Returns the exit status."""
    say = print if group.is_main else _ignore
    files = open_files(
        options.output, is_main=group.is_main, is_new=not (options.resume or options.overwrite)
    )
    require_images(options)  # before a backbone is fetched
    torch.manual_seed(options.seed)
    network, pretrained, metadata = start_network(options, recipe, say)
    images, val_images = open_data(options, recipe, metadata, group, say)
    samples = open_samples(options, recipe, metadata, images)
    sampler = create_sampler(images, recipe, seed=options.seed, group=group)
    training = Training(
        network,
        recipe,
        metadata,
        pretrained=pretrained,
        steps_per_epoch=sampler.batches,
        seed=options.seed,
        image_set=images.name,
        images=len(images),
        group=group,
        images_digest=identify_images(images),
    )
    if options.resume:
        training.restore(read_checkpoint(files.checkpoint))
        say(f"resumed after step {training.step} of {training.total_steps}")
    elif group.is_main:
        files.remove()
    say(describe_run(training, images, val_images))
    if options.feature_cache:
        samples.features = open_feature_cache(
            options.feature_cache, training, samples, workers=options.workers
        )
    batches = open_batches(options, samples, sampler, group=group, say=say)
    status = train(options, training, batches, sampler, files=files, val_images=val_images)
    if status == 0 and group.is_main:
        finish(training, files, val_images, half=options.half)
    group.wait()
    return status


def train(
    options: argparse.Namespace,
    training: Training,
    batches: Iterable[tuple[Tensor, ...]],
    sampler: EpochSampler,
    *,
    files: Files,
    val_images: SegmentationDataset | None,
) -> int:
    """Train the remaining epochs. Returns EXIT_INTERRUPTED after a signal, else 0."""
    vote = StopVote(training.group)
    if options.compile:
        training.compile()
    with (
        collect_signals() as received,
        Recorder(training, files, tensorboard=options.tensorboard) as recorder,
    ):
        while training.epoch < training.recipe.epochs and not has_converged(training):
            for batch in iterate_epoch(training, sampler, batches):
                training.train_step(*batch)
                recorder.record_steps()
                if vote.should_stop(received):
                    recorder.save_interrupted()
                    return EXIT_INTERRUPTED
                if options.checkpoint_steps and training.step % options.checkpoint_steps == 0:
                    recorder.save_checkpoint()
            recorder.record_steps(wait=True)
            is_due = should_validate(training, val_images, every=options.val_every)
            measured = validate(training, val_images if is_due else None, half=options.half)
            recorder.record_epoch(
                training.end_epoch(measured.validation if measured else Validation())
            )
            if measured:
                recorder.record_validation(measured, read_first_pairs(val_images))
            recorder.save_checkpoint()
    return 0


def open_data(
    options: argparse.Namespace,
    recipe: Recipe,
    metadata: Metadata,
    group: Group,
    say: Callable[..., None],
) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    """Return the images to train on and those to validate on, checked. Raises DatasetError."""
    if options.download:
        if group.is_main:
            if options.data is None:
                raise DatasetError("--download fetches VOC2012 into --data DIR: name the folder")
            download_voc(options.data)
            if options.image_set == TRAIN_AUG:
                download_sbd(options.data)
        group.wait()
    min_size = recipe.crop if recipe.drop_small_images else None
    images, val_images = open_training_images(
        options, make_class_list(metadata), min_size=min_size, say=say
    )
    if not recipe.augment:
        images.require_crop(recipe.crop)
    if val_images is not None and recipe.validate_crops:
        val_images.require(recipe.batch_size)
        val_images.require_crop(recipe.crop)
    return images, val_images


def open_samples(
    options: argparse.Namespace, recipe: Recipe, metadata: Metadata, images: SegmentationDataset
) -> TrainingSamples:
    """Random views of the images, with a teacher's soft labels if given. Raises DatasetError."""
    soft_labels = None
    if options.soft_labels:
        classes = len(metadata.classes)
        soft_labels = SoftLabels(options.soft_labels, images.sizes, num_classes=classes)
    return TrainingSamples(
        images, recipe, seed=options.seed, fill=find_fill_colour(metadata), soft_labels=soft_labels
    )


def describe_run(
    training: Training, images: SegmentationDataset, val_images: SegmentationDataset | None
) -> str:
    recipe, group = training.recipe, training.group
    precision = "bfloat16 autocast" if should_autocast(recipe, group.device) else "float32"
    return (
        f"{len(images)} images to train on, {len(val_images or [])} to validate on; "
        f"{training.total_steps} steps of {recipe.batch_size} on {group.world_size} x "
        f"{group.device}, {precision}"
    )


def read_first_pairs(images: SegmentationDataset | None) -> list[tuple[Array, Array]]:
    """Read the pairs that figures show."""
    return [images.read(index) for index in range(min(4, len(images)))] if images else []


def finish(
    training: Training,
    files: Files,
    val_images: SegmentationDataset | None,
    *,
    half: bool,
) -> None:
    """Measure the weights as they will be stored, write them with their scores, draw samples."""
    weights = export(training, half=half)
    if val_images is not None:
        measured = measure(training, val_images, half=half)
        weights = measured.weights
        figures.draw_samples(files.samples, measured.predictor, read_first_pairs(val_images))
        print(f"measured on the image set {val_images.name}:\n{measured.scores}")
    written = write_weights(files.weights, weights.tensors, weights.metadata)
    print(f"wrote {files.weights}, digest {written.digest}")
    best = find_best(training.history)
    if best and best.epoch < training.epoch:
        print(f"the best of the validations was after epoch {best.epoch}: {files.best}")


def _ignore(*_: object) -> None:
    pass


if __name__ == "__main__":
    main()
