"""Train the network on a VOC folder and write its weights file.

Run as `python -m model.train --data DIR`, or on several GPUs with `torchrun --nproc-per-node N -m
model.train --data DIR`. Beside the weights it leaves a checkpoint, a history, curves and a figure.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision", "matplotlib", "tqdm")

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from model import figures
from model.checkpoint import read_checkpoint
from model.classes import CLASSES
from model.dataset import (
    EpochSampler,
    TrainingSamples,
    VOCImages,
    collate,
    download_voc,
    open_voc,
    read_class_names,
)
from model.distributed import Group, joined
from model.engines.torch_engine import use_exact_float32
from model.errors import ModelError
from model.extras import require_packages
from model.network import (
    BACKBONE_CHILDREN,
    FCN,
    load_backbone,
    load_imagenet_backbone,
    network_from_arrays,
    read_state_dict,
    tensors_of,
    zero_new_residuals,
)
from model.predictor import fill_colour, predictor_for
from model.recipe import PRESETS, Recipe
from model.recorder import Files, Recorder
from model.soft_labels import SoftLabels
from model.training import Training, uses_bfloat16
from model.validation import score, validate
from model.weights import (
    Metadata,
    Weights,
    read_weights,
    widened,
    write_weights,
)

EXIT_INTERRUPTED = 130
"""What a shell gives a command that Ctrl-C ended."""


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.tensorboard:
        require_packages("tensorboard")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # who follows a log sees each epoch at once
    keep_freed_memory()
    use_exact_float32()
    try:
        with joined(options.device) as group:
            status = run(options, chosen_recipe(options), group)
    except ModelError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status)


def run(options: argparse.Namespace, recipe: Recipe, group: Group) -> int:
    """A whole run, from data to weights file; returns the exit status."""
    say = print if group.is_main else _silent
    files = Files(options.output)
    torch.manual_seed(options.seed)

    network, pretrained, metadata = start_network(options, say)
    if recipe.zero_init_residual and not options.init:
        zero_new_residuals(network, (name.removeprefix("backbone.") for name in pretrained))
    images, val_images = open_data(options, recipe, metadata, group, say)
    soft_labels = None
    if options.soft_labels:
        soft_labels = SoftLabels(
            options.soft_labels, images.sizes, num_classes=len(metadata.classes)
        )
    sampler = EpochSampler(
        images,
        batch_size=recipe.batch_size,
        seed=options.seed,
        rarity=recipe.rarity,
        rank=group.rank,
        world_size=group.world_size,
    )
    samples = TrainingSamples(
        images, recipe, seed=options.seed, fill=fill_colour(metadata), soft_labels=soft_labels
    )
    loader = sample_loader(samples, sampler, workers=options.workers, device=group.device)
    training = Training(
        network,
        recipe,
        metadata,
        pretrained=pretrained,
        steps_per_epoch=sampler.batches,
        seed=options.seed,
        image_set=options.image_set,
        group=group,
    )
    if options.resume:
        training.restore(read_checkpoint(files.checkpoint))
        say(f"resumed after step {training.step} of {training.total_steps}")
    precision = "bfloat16 autocast" if uses_bfloat16(recipe, group.device) else "float32"
    say(
        f"{len(images)} images to train on, {len(val_images or [])} to validate on; "
        f"{training.total_steps} steps of {recipe.batch_size} on {group.world_size} x "
        f"{group.device}, {precision}"
    )
    with (
        interruption() as received,
        Recorder(training, files, tensorboard=options.tensorboard) as recorder,
    ):
        while training.epoch < recipe.epochs:
            for batch in epoch_batches(training, sampler, loader):
                recorder.step(training.train_step(*batch))
                if should_stop(received, group):
                    recorder.checkpoint()
                    say(
                        f"interrupted after step {training.step}, saved {files.checkpoint}: "
                        "the same command with --resume continues"
                    )
                    return EXIT_INTERRUPTED
                if options.checkpoint_steps and training.step % options.checkpoint_steps == 0:
                    recorder.checkpoint()
            measured = val_images if is_due(training, options.val_every) else None
            recorder.epoch(training.end_epoch(validate(training, measured)))
            recorder.checkpoint()
    if group.is_main:
        finish(training, files, val_images, images=len(images), half=options.half)
    group.wait()
    return 0


def chosen_recipe(options: argparse.Namespace) -> Recipe:
    """The preset, with what the command line says instead."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    overrides = {entry.name: given[entry.name] for entry in fields(Recipe) if entry.name in given}
    for name in ("crop", "scale", "frozen"):
        if name in overrides:
            overrides[name] = tuple(overrides[name])
    return replace(PRESETS[options.preset], **overrides)


def start_network(
    options: argparse.Namespace, say: Callable[..., None]
) -> tuple[FCN, frozenset[str], Metadata]:
    """The network before its first step, the names of its pretrained tensors, its metadata."""
    if options.init:
        return initial_network(options, say)
    classes = read_class_names(options.class_names) if options.class_names else CLASSES
    metadata = Metadata(classes=classes)
    network = FCN(num_classes=len(classes))
    if options.backbone == "none":
        start = "backbone from a random start: nothing loaded"
        say(start)
        return network, frozenset(), replace(metadata, data={"start": start})
    if options.backbone == "imagenet":
        report = load_imagenet_backbone(network)
    else:
        path = Path(options.backbone)
        report = load_backbone(network, read_state_dict(path), source=path.name)
    say(report)
    metadata = replace(metadata, data={"start": report.summary})
    return network, frozenset(f"backbone.{name}" for name in report.loaded), metadata


def initial_network(
    options: argparse.Namespace, say: Callable[..., None]
) -> tuple[FCN, frozenset[str], Metadata]:
    """The network of --init; for other classes than its own, its backbone under a new head."""
    weights = read_weights(options.init)
    start = f"weights with digest {weights.metadata.digest}"
    network = network_from_arrays(weights.tensors, source=str(options.init))
    metadata = replace(weights.metadata, data={"start": start}, scores={}, digest="")
    backbone = frozenset(name for name in weights.tensors if name.startswith("backbone."))
    if options.class_names:
        classes = read_class_names(options.class_names)
        if classes != metadata.classes:
            fresh = FCN(num_classes=len(classes))
            fresh.backbone.load_state_dict(network.backbone.state_dict())
            say(f"backbone from {options.init}; a new head for {len(classes)} classes")
            start = f"backbone of {start}"
            metadata = replace(metadata, classes=classes, palette=(), data={"start": start})
            return fresh, backbone, metadata
    say(f"network from {options.init}, {start}: all tensors loaded")
    return network, backbone, metadata


def open_data(
    options: argparse.Namespace,
    recipe: Recipe,
    metadata: Metadata,
    group: Group,
    say: Callable[..., None],
) -> tuple[VOCImages, VOCImages | None]:
    """The images to train on and those to validate on, checked. Raises DatasetError."""
    if options.download:
        if group.is_main:
            download_voc(options.data)
        group.wait()

    def opened(image_set: str) -> VOCImages:
        min_size = recipe.crop if recipe.drop_small_images else None
        images = open_voc(
            options.data, image_set, num_classes=len(metadata.classes), min_size=min_size
        )
        listed = len(images) + images.dropped
        dropped = f"; {images.dropped} smaller than the crop are dropped" if min_size else ""
        say(f"image set {image_set}: {len(images)} of {listed} images{dropped}")
        return images

    images = opened(options.image_set)
    if options.val_image_set == "none":
        return images, None
    val_images = opened(options.val_image_set)
    if recipe.validate_crops:
        val_images.require(recipe.batch_size)
    return images, val_images


def sample_loader(
    samples: TrainingSamples, sampler: EpochSampler, *, workers: int, device: torch.device
) -> DataLoader[Any]:
    """What reads the batches of every epoch, as the sampler stands: to be made once in a run.

    Its processes start with the first epoch and stay. Started again, they would share all that
    training has grown to, and every page of it would be copied when it is next written to.
    """
    return DataLoader(
        samples,  # type: ignore[arg-type]  # its keys are draws, not integers
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_main_process,
    )


def epoch_batches(
    training: Training, sampler: EpochSampler, loader: DataLoader[Any]
) -> Iterator[tuple[Tensor, ...]]:
    """The rest of the epoch that the training stands in: images, targets, perhaps soft labels."""
    sampler.epoch = training.epoch
    sampler.first_batch = training.step - training.epoch * training.steps_per_epoch
    yield from loader


def is_due(training: Training, val_every: int) -> bool:
    """Whether the epoch that ends is one to validate after; the last one always is."""
    ended = training.epoch + 1
    return ended == training.recipe.epochs or (val_every > 0 and ended % val_every == 0)


def finish(
    training: Training, files: Files, val_images: VOCImages | None, *, images: int, half: bool
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


def should_stop(received: list[int], group: Group) -> bool:
    """Whether any process was asked to stop, so that all stop after the same step."""
    if group.world_size == 1:
        return bool(received)
    return bool(group.sum(torch.tensor(len(received), device=group.device)).item())


@contextmanager
def interruption() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them in the middle of a step."""
    received: list[int] = []

    def collect(number: int, _: object) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt  # asked twice: do not wait for the step
        received.append(number)

    previous = {n: signal.signal(n, collect) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_signals_to_the_main_process(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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


def _silent(*_: object) -> None:
    pass


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that holds VOCdevkit/VOC2012")
    add("--download", action="store_true", help="fetch VOC2012 into it first, if it is not there")
    add("--image-set", default="train", help="list to train on (default: train)")
    add("--val-image-set", default="val", help='list to validate on, or "none" (default: val)')
    add("--val-every", type=int, default=1, help="epochs between validations; 0: only at the end")
    add("--soft-labels", type=Path, help="folder of a teacher's soft labels to learn from, too")
    add("--class-names", type=Path, help="your own classes, one a line, background first")
    add("--preset", choices=PRESETS, default="default", help="recipe (default: default)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--init", type=Path, help="weights file to start from")
    start.add_argument(
        "--backbone", default="imagenet", help="imagenet, none, or a ResNet-18 state dict's file"
    )
    add(
        "--output",
        type=Path,
        default=Path("runs/fcn_resnet18.safetensors"),
        help="weights file to write; everything else lies beside it (default: %(default)s)",
    )
    add("--resume", action="store_true", help="continue from the checkpoint beside --output")
    add("--seed", type=int, default=0, help="same seed, same run (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    workers = max(1, min(8, (os.cpu_count() or 1) // 2))
    add("--workers", type=int, default=workers, help="loader processes (here: %(default)s)")
    add("--checkpoint-steps", type=int, default=0, help="save every N steps, too")
    add("--tensorboard", action="store_true", help="write TensorBoard events, too")
    add("--half", action="store_true", help="store kernels as float16: about half the file")
    overrides = parser.add_argument_group("instead of the preset's own")
    overrides.add_argument("--epochs", type=int)
    overrides.add_argument("--batch-size", type=int)
    overrides.add_argument("--crop", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    overrides.add_argument("--scale", type=float, nargs=2, metavar=("LEAST", "MOST"))
    overrides.add_argument("--rarity", type=float)
    overrides.add_argument("--frozen", nargs="*", choices=BACKBONE_CHILDREN)
    overrides.add_argument("--soft-weight", type=float)
    overrides.add_argument("--temperature", type=float)
    overrides.add_argument("--zero-init-residual", action=argparse.BooleanOptionalAction)
    overrides.add_argument("--lr", type=float)
    overrides.add_argument("--lr-pretrained", type=float)
    overrides.add_argument("--precision", choices=["auto", "float32", "bfloat16"])
    return parser


if __name__ == "__main__":
    main()
