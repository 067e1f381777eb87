"""The choice of the engine: the fastest that is installed and whose device is present.

This is the only module that knows all engines. It imports an engine only when it is chosen.
"""

import ctypes
import logging
from importlib.util import find_spec
from typing import get_args

from model.engines.base import Engine, EngineName, Precision
from model.engines.native import library
from model.errors import EngineError
from model.weights import Weights

log = logging.getLogger(__name__)


def start_engine(
    weights: Weights,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    threads: int = 0,
    precision: Precision = "float32",
    number: int = 0,
) -> Engine:
    """Start an engine for the weights.

    "auto" chooses PyTorch if there is a GPU. On the CPU it chooses the native engine if that is
    built or can be built, or else ncnn, or else PyTorch. `threads` are those of one forward pass on
    the CPU; 0 takes one per core. `precision`: on the CPU, only the native engine has bfloat16, on
    processors with AMX. `number` is the engine's among several: they share the GPUs evenly, unless
    `device` names one. Raises EngineError.
    """
    name = choose(engine, device)
    if name == "torch":
        return _start_torch(
            weights, device=device, threads=threads, precision=precision, number=number
        )
    if precision == "auto":
        precision = "float32"
    if name == "native":
        return _start_native(weights, threads=threads, precision=precision)
    _require_installed(name)
    _require_float32(name, precision)
    from model.engines.ncnn_engine import NcnnEngine

    return NcnnEngine(weights, threads=threads)


def _start_torch(
    weights: Weights, *, device: str, threads: int, precision: Precision, number: int
) -> Engine:
    _require_installed("torch")
    from model.engines.torch_engine import TorchEngine, choose_device, count_gpus

    device = spread(device, number, count_gpus())
    if choose_device(device).type == "cuda":
        from model.engines.cuda_engine import CudaEngine

        chosen = "float16" if precision == "auto" else precision
        return CudaEngine(weights, device=device, precision=chosen)
    _require_float32("torch", precision)
    return TorchEngine(weights, threads=threads)


def _start_native(weights: Weights, *, threads: int, precision: Precision) -> Engine:
    if precision == "float16":
        _require_float32("native", precision)
    try:
        path = library.prepare()
    except EngineError as error:
        raise EngineError(
            "engine 'native' is not available here. It needs Linux, a C compiler, and a "
            f"processor with AVX2 or NEON; choose ncnn: {error}"
        ) from error
    from model.engines.native_engine import NativeEngine

    return NativeEngine(weights, path, threads=threads, precision=precision)


def _require_float32(name: str, precision: Precision) -> None:
    if precision not in ("auto", "float32"):
        raise EngineError(f"engine {name!r} cannot compute in {precision!r}: choose float32")


def _require_installed(name: str) -> None:
    if find_spec(name) is None:
        raise EngineError(f"engine {name!r} is not installed here: pip install {name}")


def choose(engine: EngineName, device: str) -> EngineName:
    """Choose the engine, never "auto". Raises EngineError if it does not run on the device."""
    if engine not in get_args(EngineName):
        known = ", ".join(get_args(EngineName))
        raise EngineError(f"there is no engine {engine!r}: choose one of {known}")
    if engine in ("native", "ncnn") and device not in ("auto", "cpu"):
        raise EngineError(f"engine {engine!r} runs on the CPU only, not on device {device!r}")
    if engine != "auto":
        return engine
    if device not in ("auto", "cpu") or (
        device == "auto" and find_spec("torch") and has_cuda_gpu() and torch_finds_gpu()
    ):
        return "torch"
    if library.find_library_or_warn() is not None:
        return "native"
    return "ncnn" if find_spec("ncnn") else "torch"


def spread(device: str, number: int, gpus: int) -> str:
    """Return the device of one of several engines: each has the next of the GPUs that are visible.

    After the last follows the first. A device that is named, and the CPU, are those of all.
    """
    return f"cuda:{number % gpus}" if gpus and device in ("auto", "cuda") else device


def torch_finds_gpu() -> bool:
    """Ask PyTorch for a GPU; log why not, since the driver has one. Imports torch."""
    try:
        import torch

        if torch.cuda.is_available():
            return True
        reason = f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}, finds none"
    except (ImportError, OSError) as error:
        reason = f"PyTorch cannot be imported: {error}"
    log.warning("there is an NVIDIA GPU, but the CPU is used, because %s", reason)
    return False


def has_cuda_gpu() -> bool:
    """Ask NVIDIA's driver, which is much faster than importing torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )
