"""Data-parallel processes as `torchrun` starts them. A single process is a group of one.

Knows nothing of what the processes compute.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from model.engines.torch_engine import choose_device

LONGEST_WAIT = timedelta(hours=12)
"""How long processes wait for the main one, which may download or fill a feature cache. PyTorch's
own limit is ten minutes on GPUs. torchrun ends them earlier if one of them dies."""


@dataclass(frozen=True, slots=True)
class Group:
    """This process, its peers and its device."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """The one process that prints and writes files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the elementwise sum over all processes; every process must call it."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.world_size > 1:
            distributed.barrier()


@contextmanager
def join_group(device: str) -> Iterator[Group]:
    """Join the group that the environment describes (RANK, WORLD_SIZE, LOCAL_RANK)."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device)
    if world_size == 1:
        yield Group(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    try:
        yield Group(chosen, distributed.get_rank(), world_size)
    finally:
        distributed.destroy_process_group()
