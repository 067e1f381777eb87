"""A device says the figures of a step while it computes the next one, and nothing else."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.errors import RecipeError
from model.network import FCN
from model.training.dataset import open_images
from model.training.device_images import DeviceImages
from model.training.distributed import Group
from model.training.drawn_views import DrawnViews
from model.training.history import StepRow, Validation
from model.training.loader import TrainingSamples
from model.training.recipe import PRESETS
from model.training.sampler import EpochSampler
from model.training.signals import StopVote
from model.training.state import Training
from model.training.step_figures import StepFigures
from model.training.voc import list_samples
from model.weights import Metadata

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
CPU = torch.device("cpu")
RECIPE = replace(PRESETS["default"], batch_size=2, crop=(32, 32), epochs=1, ema_decay=0.9)


def start(device=CPU, **options):
    torch.manual_seed(0)
    return Training(
        FCN(),
        replace(RECIPE, precision="float32", loss_stride=4, **options),
        Metadata(classes=tuple(f"class {index}" for index in range(21))),
        pretrained=frozenset(),
        steps_per_epoch=4,
        seed=0,
        image_set="train",
        images=8,
        group=Group(device),
    )


def make_batch(number):
    generator = torch.Generator().manual_seed(number)
    return (
        torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, 21, (2, 32, 32), dtype=torch.uint8, generator=generator),
        torch.rand(2, 4, 4, 21, generator=generator),
    )


def test_the_figures_of_a_step_are_known_after_the_next_one():
    training, seen = start(), []
    for number in range(3):
        training.train_step(*make_batch(number))
        seen.append([row.step for row in training.collect_steps()])
    assert seen == [[], [1], [2]]
    (last,) = training.collect_steps(wait=True)
    assert (last.step, last.epoch, last.lr) == (3, 1, training.lr)
    assert 0 < last.loss < 10
    row = training.end_epoch(Validation())
    assert row.images_per_s > 0
    assert training.collect_steps(wait=True) == []


def test_the_end_of_an_epoch_and_a_checkpoint_have_every_step():
    ended, saved = start(), start()
    for number in range(2):
        ended.train_step(*make_batch(number))
        saved.train_step(*make_batch(number))
    state = saved.state()
    assert state["sums"][1] == 4, "images"
    losses = [row.loss for row in ended.collect_steps(wait=True)]
    assert ended.end_epoch(Validation()).loss == pytest.approx(sum(losses) / 2)


def test_a_loss_that_is_not_finite_ends_the_run_one_step_later():
    figures = StepFigures()
    row = StepRow(step=7, epoch=1, loss=0.0, lr=0.1)
    figures.add(row, 2, torch.tensor([torch.inf, 0, 1]))
    with pytest.raises(RecipeError, match="the loss is inf at step 7"):
        figures.add(replace(row, step=8), 2, torch.ones(3))


class NothingRead(TorchDispatchMode):
    """Fails where a GPU would have to finish all its work to say a value or a size."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "unique"}, name
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_asks_the_device_for_nothing(preset):
    names = ("loss_reduction", "train_transpose_conv", "soft_weight", "momentum", "nesterov")
    training = start(**{name: getattr(PRESETS[preset], name) for name in names})
    with NothingRead():
        training.train_step(*make_batch(0))
    with NothingRead(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(()).item()


class Pair(Group):
    """This process, and one that is asked to stop at the same time."""

    def sum(self, values):
        return 2 * values


def test_several_processes_stop_one_step_after_the_signal():
    alone = StopVote(Group(CPU))
    assert not alone.should_stop([])
    assert alone.should_stop([2])
    together = StopVote(Pair(CPU, world_size=2))
    assert [together.should_stop(signals) for signals in ([], [2], [2])] == [False, False, True]


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_views_are_the_same_and_no_step_waits(voc_folder):
    """The first steps may wait: libraries start, and memory is reserved."""
    images = open_images(list_samples(voc_folder, "train"), name="train")
    samples = TrainingSamples(images, RECIPE, seed=0, fill=(124, 116, 104))
    device = torch.device("cuda:0")
    here, there = DeviceImages(samples, CPU), DeviceImages(samples, device)
    drawn = DrawnViews(samples, here.layout)
    sampler = EpochSampler(images, batch_size=2, seed=0)
    batches = [torch.stack([torch.from_numpy(drawn[draw]) for draw in draws]) for draws in sampler]
    for rows in batches:
        expected, found = here.make_batch(rows), there.make_batch(rows)
        assert (expected[0].int() - found[0].cpu().int()).abs().float().mean() < 0.1
        assert (expected[1] == found[1].cpu()).float().mean() > 0.999
    training = start(device)
    for rows in batches[:2]:
        training.train_step(*there.make_batch(rows))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for rows in batches[2:]:
            training.train_step(*there.make_batch(rows))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(training.collect_steps(wait=True)) == len(batches)
