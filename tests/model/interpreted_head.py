"""Run the Triton head on the CPU: `python -m tests.model.interpreted_head FOLDER`.

A process of its own, for Triton decides when a kernel is defined whether it is interpreted. Each
FOLDER/*.npz is a case; its result is written beside it, as *.npy.
"""

import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from model.engines import triton_head
from model.engines.base import Region
from model.engines.folding import Convolution, FoldedNetwork


def use_large_programs():
    """Interpreting takes as long for a small program as for a large one."""
    triton_head.TARGETS, triton_head.PIXELS = 1024, 2048
    triton_head.WINDOW, triton_head.BLOCK = (32, 32), 32


def run(case):
    if not case["real_sizes"]:
        use_large_programs()
    dtype = getattr(torch, str(case["dtype"]))
    nothing = Convolution(np.zeros((1, 1, 1, 1)), np.zeros(1), 1)
    network = FoldedNetwork(nothing, (), nothing, case["kernel"], case["bias"])
    head = triton_head.TritonHead(network, torch.device("cpu"), dtype)
    coarse, confidence = torch.from_numpy(case["coarse"]), bool(case["confidence"])
    images, _, rows, columns = coarse.shape
    if "output" not in case:
        masks = torch.full((images, rows * network.stride, columns * network.stride), 99).byte()
        head.segment_canvases(coarse, masks, confidence=confidence)
        return masks.numpy()
    region = Region(tuple(map(int, case["content"])), tuple(map(int, case["output"])))
    masks = torch.full((images, *region.output), 99).byte()
    for logits, mask in zip(coarse, masks, strict=True):
        head.segment_scaled(logits, region, mask, confidence=confidence)
    return masks.numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in sorted(Path(sys.argv[1]).glob("*.npz")):
        with np.load(path) as case:
            np.save(path.with_suffix(".npy"), run(case))
