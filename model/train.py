"""Train the network on images and their masks, and write its weights file.

Run as `python -m model.train --data DIR`, or on several GPUs with `torchrun --nproc-per-node N -m
model.train --data DIR`. Beside the weights it leaves a checkpoint, a history, curves and a figure.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision", "matplotlib", "tqdm")

import argparse
import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from io import TextIOWrapper

import torch

from model.class_list import classes_of
from model.engines.torch_engine import use_exact_float32
from model.errors import DatasetError, ModelError
from model.extras import require_packages
from model.predictor import fill_colour, predictor_for
from model.state_dict import tensors_of
from model.training import figures
from model.training.checkpoint import read_checkpoint
from model.training.data import open_training_images
from model.training.dataset import SegmentationDataset
from model.training.distributed import Group, join_group
from model.training.download import download_voc
from model.training.loader import TrainingSamples, create_loader, iterate_epoch
from model.training.options import build_parser, choose_recipe
from model.training.recipe import Recipe
from model.training.recorder import Files, Recorder
from model.training.sampler import EpochSampler
from model.training.signals import collect_signals, should_stop
from model.training.soft_labels import SoftLabels
from model.training.start import start_network
from model.training.state import Training, should_autocast
from model.training.validation import score, validate
from model.weights import Metadata, Weights, widened, write_weights

EXIT_INTERRUPTED = 130
"""The exit status that a shell gives to a command that Ctrl-C ended."""


def main(arguments: list[str] | None = None) -> None:
    options = build_parser(__doc__).parse_args(arguments)
    if options.tensorboard:
        require_packages("tensorboard")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # `tail -f` of a log shows each epoch at once
    keep_freed_memory()
    use_exact_float32()
    try:
        with join_group(options.device) as group:
            status = run(options, choose_recipe(options), group)
    except ModelError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status)


def run(options: argparse.Namespace, recipe: Recipe, group: Group) -> int:
    """A whole run, from data to weights file; returns the exit status."""
    say = print if group.is_main else _ignore
    files = Files(options.output)
    torch.manual_seed(options.seed)

    network, pretrained, metadata = start_network(options, recipe, say)
    images, val_images = open_data(options, recipe, metadata, group, say)
    samples = open_samples(options, recipe, metadata, images)
    sampler = EpochSampler(
        images,
        batch_size=recipe.batch_size,
        seed=options.seed,
        rarity=recipe.rarity,
        rank=group.rank,
        world_size=group.world_size,
    )
    training = Training(
        network,
        recipe,
        metadata,
        pretrained=pretrained,
        steps_per_epoch=sampler.batches,
        seed=options.seed,
        image_set=images.name,
        group=group,
    )
    if options.resume:
        training.restore(read_checkpoint(files.checkpoint))
        say(f"resumed after step {training.step} of {training.total_steps}")
    say(describe_run(training, images, val_images))
    status = train(options, training, samples, sampler, files=files, val_images=val_images)
    if status == 0 and group.is_main:
        finish(training, files, val_images, images=len(images), half=options.half)
    group.wait()
    return status


def train(
    options: argparse.Namespace,
    training: Training,
    samples: TrainingSamples,
    sampler: EpochSampler,
    *,
    files: Files,
    val_images: SegmentationDataset | None,
) -> int:
    """The epochs that are left; returns EXIT_INTERRUPTED after a signal, else 0."""
    group = training.group
    loader = create_loader(samples, sampler, workers=options.workers, device=group.device)
    with (
        collect_signals() as received,
        Recorder(training, files, tensorboard=options.tensorboard) as recorder,
    ):
        while training.epoch < training.recipe.epochs:
            for batch in iterate_epoch(training, sampler, loader):
                recorder.step(training.train_step(*batch))
                if should_stop(received, group):
                    recorder.checkpoint()
                    if group.is_main:
                        print(
                            f"interrupted after step {training.step}, saved {files.checkpoint}: "
                            "the same command with --resume continues"
                        )
                    return EXIT_INTERRUPTED
                if options.checkpoint_steps and training.step % options.checkpoint_steps == 0:
                    recorder.checkpoint()
            measured = val_images if should_validate(training, options.val_every) else None
            recorder.epoch(training.end_epoch(validate(training, measured)))
            recorder.checkpoint()
    return 0


def open_data(
    options: argparse.Namespace,
    recipe: Recipe,
    metadata: Metadata,
    group: Group,
    say: Callable[..., None],
) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    """The images to train on and those to validate on, checked. Raises DatasetError."""
    if options.download:
        if group.is_main:
            if options.data is None:
                raise DatasetError("--download fetches VOC2012 into --data DIR: name the folder")
            download_voc(options.data)
        group.wait()
    min_size = recipe.crop if recipe.drop_small_images else None
    images, val_images = open_training_images(
        options, classes_of(metadata), min_size=min_size, say=say
    )
    if val_images is not None and recipe.validate_crops:
        val_images.require(recipe.batch_size)
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
        images, recipe, seed=options.seed, fill=fill_colour(metadata), soft_labels=soft_labels
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


def should_validate(training: Training, val_every: int) -> bool:
    """Whether to validate after the epoch that ends; after the last one, always."""
    ended = training.epoch + 1
    return ended == training.recipe.epochs or (val_every > 0 and ended % val_every == 0)


def finish(
    training: Training,
    files: Files,
    val_images: SegmentationDataset | None,
    *,
    images: int,
    half: bool,
) -> None:
    """Measure the weights as they will be stored, write them with their scores, draw samples."""
    tensors = tensors_of(training.network, half=half)
    metadata = replace(
        training.metadata,
        recipe=training.recipe.as_dict()
        | {"seed": training.seed, "world_size": training.group.world_size},
        data={**training.metadata.data, "image_set": training.image_set, "images": images},
    )
    if val_images is not None:
        weights = Weights(widened(tensors), metadata)
        predictor = predictor_for(weights, device=str(training.group.device))
        scores = score(predictor, val_images)
        print(scores)
        metadata = replace(metadata, scores={"image_set": val_images.name} | scores.as_dict())
        first = [val_images.read(index) for index in range(min(4, len(val_images)))]
        figures.draw_samples(files.samples, predictor, first)
    written = write_weights(files.weights, tensors, metadata)
    print(f"wrote {files.weights}, digest {written.digest}")


def keep_freed_memory() -> None:
    """Tell glibc to keep the pages of freed activations instead of faulting them in again.

    Every large tensor is otherwise mapped and unmapped: 15 to 25 % of a step on the CPU.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):  # another C library: nothing to tune
        pass


def _ignore(*_: object) -> None:
    pass


if __name__ == "__main__":
    main()
