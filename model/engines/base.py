"""The contract that every engine keeps. Knows nothing of files, of scaling or of HTTP."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""The file of a container's limit: processor time per period, in microseconds (cgroup v2)."""

Array = NDArray[np.uint8]
Size = tuple[int, int]
"""(height, width)"""

Precision = Literal["auto", "float32", "float16", "bfloat16"]
"""The precision of convolutions. float32 masks are exact up to near-ties, others are not.

"auto" is float32 on the CPU and float16 on a GPU.
"""

EngineName = Literal["auto", "native", "ncnn", "torch"]


@dataclass(frozen=True, slots=True)
class Region:
    """The part of a canvas, at the top left, that holds the picture, and the size of its mask.

    If `content` differs from `output`, the picture was scaled down and the mask has its original
    size.
    """

    content: Size
    output: Size


class Engine(Protocol):
    """Runs the network, for the batcher or a loop over a data set."""

    description: str
    """The engine and device, for logs and `/v1/model`, e.g. "torch 2.15.0 on cpu, 2 threads"."""

    device: str
    """"cpu" or "cuda:0"."""

    callers_at_once: int
    """The number of threads that may call `segment` at the same time, and that keep the engine
    busy.
    """

    images_per_call: int
    """The size of the largest useful batch: larger ones are not faster."""

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """Turn canvases (H, W, 3) of one size, multiples of 32, into masks of `output`'s size.

        An image's mask does not depend on the others: on the CPU bit for bit, on a GPU up to
        near-ties. Each pixel is the index of the largest logit of the transposed convolution; where
        the mask is larger than the content, of the logits interpolated bilinearly (half-pixel
        centres, edge values repeated).
        """
        ...

    def measure_confidence(
        self, canvases: Sequence[Array], regions: Sequence[Region]
    ) -> list[Array]:
        """As `segment`, but each pixel is the softmax of its largest logit, times 255 and rounded.

        This is the network's confidence in the class that the mask has.
        """
        ...


def describe_threads(threads: int) -> str:
    """Return the number of threads in words, for a description."""
    return f"{threads} thread" if threads == 1 else f"{threads} threads"


def count_usable_cores() -> int:
    """Count the cores that this process may use. A container's share is rounded down."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = CPU_LIMIT.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return cores
