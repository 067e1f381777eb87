"""The Triton head equals the numpy head: interpreted here, for its machine code needs a GPU."""

import subprocess
import sys

import numpy as np
import pytest

from model.engines.base import Region
from model.engines.folding import Convolution, FoldedNetwork
from model.engines.numpy_head import NumpyHead
from tests.conftest import REPOSITORY

triton = pytest.importorskip("triton", reason="Triton is not installed here")

from model.engines import triton_kernels  # noqa: E402
from model.engines.triton_head import BLOCK, PIXELS, TARGETS, TILES, WARPS, WINDOW  # noqa: E402


def draw(side, classes, kind, *, seed=0, images=1, canvas=(64, 96), draw_values=None):
    """A kernel, a bias and the coarse logits of some canvases."""
    rng = np.random.default_rng(seed)
    draw_values = draw_values or (lambda shape: rng.standard_normal(shape))
    kernel = draw_values((classes, classes, 2 * side, 2 * side))
    if kind == "bilinear":
        ramp = 1 - np.abs(np.arange(2 * side) - (side - 0.5)) / side
        kernel = np.eye(classes)[:, :, None, None] * np.outer(ramp, ramp)
    coarse = draw_values((images, classes, canvas[0] // side, canvas[1] // side))
    return {
        "kernel": kernel.astype(np.float32),
        "bias": draw_values(classes).astype(np.float32),
        "coarse": coarse.astype(np.float32),
        "dtype": "float32",
        "confidence": False,
        "real_sizes": False,
    }


def draw_ties():
    """Few values, all of them whole numbers: most pixels have several largest logits."""
    rng = np.random.default_rng(3)
    return draw(16, 5, "dense", draw_values=lambda shape: rng.integers(-1, 2, shape), images=2)


SCALED = {"content": (60, 90), "output": (91, 130)}

CASES = {
    "dense stride 32": draw(32, 21, "dense", canvas=(64, 64)),
    "dense stride 16": draw(16, 2, "dense", images=2),
    "dense stride 8": draw(8, 33, "dense", canvas=(32, 64)),
    "bilinear stride 32": draw(32, 21, "bilinear", images=3),
    "bilinear stride 8": draw(8, 2, "bilinear"),
    "dense, one cell": draw(32, 3, "dense", canvas=(32, 32)),
    "dense, real sizes": draw(8, 3, "dense", canvas=(32, 64), images=3) | {"real_sizes": True},
    "bilinear, real sizes": draw(8, 3, "bilinear", canvas=(32, 32)) | {"real_sizes": True},
    "dense confidence": draw(16, 21, "dense") | {"confidence": True},
    "bilinear confidence": draw(32, 21, "bilinear") | {"confidence": True},
    "ties": draw_ties(),
    "ties in half precision": draw_ties() | {"dtype": "float16"},
    "ties, scaled": draw_ties() | {"content": (32, 48), "output": (64, 96)},
    "scaled dense": draw(32, 5, "dense") | SCALED,
    "scaled dense stride 8": draw(8, 2, "dense", images=2, canvas=(64, 64))
    | {"content": (50, 64), "output": (77, 71)},
    "scaled bilinear": draw(32, 21, "bilinear") | SCALED,
    "scaled bilinear stride 16": draw(16, 4, "bilinear") | SCALED | {"confidence": True},
    "scaled, real sizes": draw(32, 3, "bilinear", canvas=(32, 32))
    | {"content": (30, 20), "output": (41, 33), "real_sizes": True},
    "scaled up much": draw(32, 3, "bilinear", canvas=(32, 32))
    | {"content": (3, 2), "output": (150, 170)},
    "scaled to one pixel": draw(32, 3, "bilinear") | {"content": (64, 96), "output": (1, 1)},
    "scaled from one pixel": draw(32, 3, "bilinear") | {"content": (1, 1), "output": (5, 3)},
    "scaled down and wide": draw(32, 3, "bilinear") | {"content": (64, 90), "output": (31, 200)},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    for name, case in CASES.items():
        np.savez(folder / f"{name}.npz", **case)
    program = [sys.executable, "-m", "tests.model.interpreted_head", str(folder)]
    ended = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return {name: np.load(folder / f"{name}.npy") for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_the_triton_head_equals_the_numpy_head(name, results):
    case = CASES[name]
    nothing = Convolution(np.zeros((1, 1, 1, 1)), np.zeros(1), 1)
    head = NumpyHead(FoldedNetwork(nothing, (), nothing, case["kernel"], case["bias"]))
    side = case["kernel"].shape[-1] // 2
    canvas = tuple(side * cells for cells in case["coarse"].shape[2:])
    region = Region(case.get("content", canvas), case.get("output", canvas))
    compute = head.measure_confidence if case["confidence"] else head
    expected = np.stack([compute(coarse, region) for coarse in case["coarse"]])
    found = results[name]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1 or not case["confidence"]
    if name.startswith("ties"):
        assert np.array_equal(found, expected)
    elif not case["confidence"]:
        assert np.mean(found == expected) >= 0.999


@pytest.mark.parametrize("kernel", ["segment_dense", "segment_bilinear", "segment_scaled"])
def test_the_kernels_compile_for_a_gpu(kernel, monkeypatch, tmp_path):
    """For compute capability 9.0, whether or not there is such a GPU here."""
    if not hasattr(triton.backends, "backends") or "nvidia" not in triton.backends.backends:
        pytest.skip("this Triton has no compiler for NVIDIA's GPUs")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(triton_kernels, kernel)
    constants = {
        "side": 32, "classes": 21, "padded": 32, "tiles": TILES, "pixels": TARGETS // 32,
        "window_height": WINDOW[0], "window_width": WINDOW[1], "block": BLOCK,
        "confidence": False, "is_bilinear": False,
    }  # fmt: skip
    if kernel == "segment_bilinear":
        constants["pixels"] = PIXELS
    pointers = {
        "coarse": "*fp32",
        "packed": "*fp16",
        "bias": "*fp32",
        "masks": "*u8",
        "mask": "*u8",
    }
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    signature = {
        name: "constexpr" if name in constants else pointers.get(name, "i32")
        for name in function.arg_names
    }
    source = triton.compiler.ASTSource(function, signature, constexprs=constants)
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": WARPS})
    assert compiled.asm["cubin"]
