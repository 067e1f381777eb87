"""Our training loop compared with the teaching notebook's: images per second at the same loss.

The loops take turns. Every network starts with random weights, and nothing is validated.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision")

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import torchvision

from benchmarks import report
from benchmarks.notebook import (
    NotebookImages,
    NotebookLoop,
    build_notebook_network,
    normalize_images,
)
from benchmarks.process import start_worker
from benchmarks.report import Quick, Row, publish, read_plan, run_in_turns
from benchmarks.voc import choose_samples, open_voc
from benchmarks.watch import MIB, ProcessTree
from model.classes import CLASSES
from model.engines.base import Size
from model.network import FCN
from model.predictor import find_fill_colour
from model.state_dict import convert_notebook_state, network_from_state
from model.training.dataset import SegmentationDataset
from model.training.distributed import Group
from model.training.history import Validation
from model.training.loader import (
    TrainingSamples,
    collate,
    create_loader,
    create_sampler,
    iterate_epoch,
)
from model.training.memory import keep_freed_memory
from model.training.precision import should_autocast
from model.training.recipe import PRESETS, Recipe
from model.training.samples import Sample
from model.training.state import Training
from model.weights import Metadata

BOOK = "the book's loop"
FLOAT32 = "default in float32"
"""The preset default without bfloat16: what the autocast gains on this processor."""

LOOPS = (BOOK, *PRESETS, FLOAT32)

TOLERANCE = 1e-4
"""The relative difference of the two losses: float32 sums of millions of pixels differ in order."""

CHECKED_STEPS, CHECKED_BATCH_SIZE = 2, 8


@dataclass(frozen=True)
class Plan(report.Plan):
    data: Annotated[Path | None, "folder with VOCdevkit/VOC2012, else made"] = None
    images: Annotated[int, "number of images of one epoch", Quick(8)] = 64
    rounds: Annotated[int, "number of epochs of each loop", Quick(1)] = 5
    batch_size: Annotated[int | None, "instead of each recipe's own", Quick(4)] = None
    workers: Annotated[int, "number of our loader's processes"] = 1
    crop: Size | None = None

    def choose_recipe(self, loop: str) -> Recipe:
        """Return the preset's recipe, with more epochs, so that no learning rate reaches 0."""
        preset = {BOOK: "d2l", FLOAT32: "default"}.get(loop, loop)
        recipe = replace(PRESETS[preset], epochs=1000)
        return replace(
            recipe,
            precision="float32" if loop == FLOAT32 else recipe.precision,
            batch_size=self.batch_size or recipe.batch_size,
            crop=self.crop or recipe.crop,
        )

    def count_images(self, loop: str) -> int:
        """Return the number of images in whole batches."""
        return self.images - self.images % self.choose_recipe(loop).batch_size


class OurLoop:
    """The loop of `python -m model.train`, without its files."""

    def __init__(self, network: FCN, samples: Sequence[Sample], recipe: Recipe, workers: int):
        metadata = Metadata(classes=CLASSES)
        images = SegmentationDataset(samples, name="train")
        self.samples = TrainingSamples(images, recipe, seed=0, fill=find_fill_colour(metadata))
        group = Group(torch.device("cpu"))
        self.sampler = create_sampler(images, recipe, seed=0, group=group)
        self.loader = create_loader(
            self.samples, self.sampler, workers=workers, device=group.device
        )
        self.training = Training(
            network,
            recipe,
            metadata,
            pretrained=frozenset(),
            steps_per_epoch=self.sampler.batches,
            seed=0,
            image_set="train",
            images=len(images),
            group=group,
        )

    def train_epoch(self) -> None:
        for images, target in iterate_epoch(self.training, self.sampler, self.loader):
            self.training.train_step(images, target)
        self.training.end_epoch(Validation())


@functools.cache
def open_loop(name: str, plan: Plan, samples: tuple[Sample, ...]) -> NotebookLoop | OurLoop:
    torch.manual_seed(0)
    recipe = plan.choose_recipe(name)
    if name == BOOK:
        return NotebookLoop(build_notebook_network(), NotebookImages(samples, recipe.crop), recipe)
    keep_freed_memory()
    return OurLoop(FCN(), samples, recipe, plan.workers)


def train_epoch(name: str, plan: Plan, samples: tuple[Sample, ...]) -> float:
    """Run one epoch, including the loader's start. Returns the peak memory in MiB."""
    # Spawned loader processes would import everything anew: seconds in every epoch.
    multiprocessing.set_start_method("fork", force=True)
    open_loop(name, plan, samples).train_epoch()
    return ProcessTree(os.getpid(), children=False).measure_peak_bytes() / MIB


def close_loops() -> None:
    """End the loaders' processes: they ignore the signal that ends this process."""
    open_loop.cache_clear()


def compare_losses(plan: Plan, samples: Sequence[Sample]) -> float:
    """Return the largest relative difference of the two losses, over steps from the same weights.

    Both loops get the same batches. The second step's loss shows that both learnt the same.
    """
    recipe = plan.choose_recipe(BOOK)
    recipe = replace(recipe, batch_size=min(recipe.batch_size, CHECKED_BATCH_SIZE))
    torch.manual_seed(0)
    network = build_notebook_network()
    book = NotebookLoop(network, NotebookImages(samples[:1], recipe.crop), recipe)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    start = network_from_state(convert_notebook_state(state), source=BOOK)
    ours = OurLoop(start, samples[: recipe.batch_size * CHECKED_STEPS], recipe, workers=0)
    differences = []
    for draws in ours.sampler:
        images, target = collate([ours.samples[draw] for draw in draws])
        expected, _ = book.train_step(normalize_images(images.permute(0, 3, 1, 2)), target.long())
        expected /= len(images)
        ours.training.train_step(images, target)
        loss = ours.training.collect_steps(wait=True)[-1].loss
        differences.append(abs(loss - expected) / expected)
    return max(differences)


def measure_epochs(
    plan: Plan, samples: tuple[Sample, ...], loops: Sequence[str] = LOOPS
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of each loop's epochs, and each loop's peak memory in MiB.

    Each loop has its own process, so our allocator's settings do not affect the notebook's loop.
    """
    peaks_mib: dict[str, float] = {}

    def run_epoch(name: str, call: Callable[..., float]) -> None:
        peaks_mib[name] = call(train_epoch, name, plan, samples)

    with ExitStack() as stack:
        candidates = {}
        for name in loops:
            call = stack.enter_context(start_worker())
            stack.callback(call, close_loops)
            candidates[name] = partial(run_epoch, name, call)
        return run_in_turns(candidates, rounds=plan.rounds, warm_up=1), peaks_mib


def list_rows(
    plan: Plan, seconds: Mapping[str, Sequence[float]], peaks_mib: Mapping[str, float]
) -> Iterator[Row]:
    speeds = {name: plan.count_images(name) / median(seconds[name]) for name in seconds}
    for name, images_per_s in speeds.items():
        recipe = plan.choose_recipe(name)
        is_bfloat16 = name != BOOK and should_autocast(recipe, torch.device("cpu"))
        yield {
            "loop": name if name == BOOK else f"our preset {name}",
            "precision": "bfloat16 autocast" if is_bfloat16 else "float32",
            "batch": recipe.batch_size,
            "crop": f"{recipe.crop[0]} x {recipe.crop[1]}",
            "images/s": images_per_s,
            "times the book's": images_per_s / speeds[BOOK],
            "peak memory (MiB)": round(peaks_mib[name]),
        }


def main() -> None:
    plan = read_plan(Plan, "train", __doc__)
    with open_voc(plan.data, plan.images) as data:
        samples = choose_samples(data, PRESETS["d2l"].crop, plan.images)
        difference = compare_losses(plan, samples)
        print(f"the d2l step's loss and the book's differ by {difference:.1e} (relative)")
        if difference > TOLERANCE:
            sys.exit(f"error: more than {TOLERANCE:.0e}: they do not train the same")
        seconds, peaks_mib = measure_epochs(plan, samples)
    publish(
        "train",
        "Training on the CPU: our loop beside the book's",
        list(list_rows(plan, seconds, peaks_mib)),
        plan=plan,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        seconds=seconds,
        loss_difference=difference,
        loss_tolerance=TOLERANCE,
    )


if __name__ == "__main__":
    main()
