"""Check what this machine and this installation offer the network, and what is wrong with it.

`python -m model.installation` prints one finding per line, as JSON. `fcn check` runs it in a
process of its own, because a broken library may end the process. Imports torch last.
"""

import argparse
import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from model.engines.base import EngineName, Precision
from model.engines.choice import choose
from model.engines.native import library
from model.engines.native.processor import NoKind
from model.errors import EngineError, ModelError
from model.predictor import open_predictor
from model.weights import SHIPPED_WEIGHTS

INSTALL_TORCH = "install it: pip install 'fcn-segmentation-service[torch]'"
DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Finding:
    """`status`: "ok"; "note", which affects only the speed; or "wrong", with a remedy."""

    status: str
    what: str
    finding: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver: its newest CUDA version, as (13, 0), and its GPUs."""

    cuda: tuple[int, int]
    gpus: int


def inspect(
    weights: Path,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    precision: Precision = "float32",
) -> Iterator[Finding]:
    """Run all checks, the quick ones first."""
    driver = find_driver()
    yield check_native_engine()
    yield check_gpu(driver)
    yield from check_torch(driver)
    yield check_predictor(weights, engine=engine, device=device, precision=precision)


def find_driver() -> Driver | str:
    """Return NVIDIA's driver, or why it cannot be used; an empty text if there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "its library libcuda.so.1 is not here" if DRIVER_FILE.exists() else ""
    status = cuda.cuInit(0)
    if status != 0:
        return f"it does not start (cuInit: {status})"
    number, count = ctypes.c_int(0), ctypes.c_int(0)
    if cuda.cuDriverGetVersion(ctypes.byref(number)) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return "it does not tell what it has"
    return Driver((number.value // 1000, number.value % 1000 // 10), count.value)


def check_gpu(driver: Driver | str) -> Finding:
    if driver == "":
        return Finding("ok", "GPU", "no NVIDIA driver here: the CPU computes")
    if isinstance(driver, str):
        return Finding(
            "note",
            "GPU",
            f"there is an NVIDIA driver, and {driver}: the CPU computes",
            "see whether nvidia-smi works; in a container, start it with --gpus all",
        )
    if not driver.gpus:
        return Finding("note", "GPU", "NVIDIA's driver sees no GPU", "is CUDA_VISIBLE_DEVICES set?")
    name = f"{driver.gpus} GPU{'s' * (driver.gpus > 1)}, driver for CUDA {_format(driver.cuda)}"
    return Finding("ok", "GPU", name)


def check_native_engine() -> Finding:
    try:
        path = library.prepare()
        library.load(path)
    except EngineError as error:
        is_there = find_spec("ncnn") is not None
        without = "install a C compiler (apt install gcc libc6-dev)"
        return Finding(
            "note" if is_there else "wrong",
            "native engine",
            f"not available: {error}",
            (error.remedy if isinstance(error, NoKind) else without)
            + ("; until then ncnn computes, more slowly" if is_there else ""),
        )
    return Finding("ok", "native engine", path.name)


def check_torch(driver: Driver | str) -> Iterator[Finding]:
    """Check that torch and torchvision can be imported, match each other, and suit the driver."""
    has_gpu = isinstance(driver, Driver) and driver.gpus > 0
    if find_spec("torch") is None:
        if has_gpu:
            yield Finding("note", "torch", "not installed: the GPU cannot be used", INSTALL_TORCH)
        else:
            yield Finding("ok", "torch", "not installed; serving on the CPU does not need it")
        return
    try:
        torch = import_module("torch")
    except (ImportError, OSError) as error:
        yield Finding("wrong", "torch", f"does not import: {_explain(error)}", "install it again")
        return
    if isinstance(driver, Driver) and driver.gpus:
        yield check_cuda(torch, driver)
    else:
        yield Finding("ok", "torch", torch.__version__)
    yield check_torchvision(torch.__version__)


def check_cuda(torch: object, driver: Driver) -> Finding:
    """Check whether this torch can use the driver's GPUs."""
    built = getattr(getattr(torch, "version", None), "cuda", None)
    release = getattr(torch, "__version__", "")
    if built is None:
        return Finding(
            "note", "torch", f"{release} is built for CPUs only", "install a build for CUDA"
        )
    if torch.cuda.is_available():  # type: ignore[attr-defined]
        name = torch.cuda.get_device_name(0)  # type: ignore[attr-defined]
        return Finding("ok", "torch", f"{release} uses CUDA {built} on {name}")
    return Finding(
        "wrong",
        "torch",
        f"{release} cannot use the GPU: it is built for CUDA {built}, the driver is for "
        f"{_format(driver.cuda)}",
        "update NVIDIA's driver, or install a torch that is built for the driver's CUDA",
    )


def check_torchvision(torch_release: str) -> Finding:
    """Check whether torchvision matches the installed torch, which only its import shows."""
    if find_spec("torchvision") is None:
        return Finding("ok", "torchvision", "not installed; only training and evaluation need it")
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        return Finding(
            "wrong",
            "torchvision",
            f"{_read_release('torchvision')} does not fit torch {torch_release}: {_explain(error)}",
            "install the pair together: pip install --force-reinstall torch torchvision",
        )
    return Finding("ok", "torchvision", _read_release("torchvision"))


def check_predictor(
    weights: Path, *, engine: EngineName, device: str, precision: Precision
) -> Finding:
    """Check whether the engine that the service would use computes these weights' network."""
    try:
        chosen = choose(engine, device)
        predictor = open_predictor(weights, engine=chosen, device=device, precision=precision)
    except ModelError as error:
        remedy = "name a weights file with SEG_WEIGHTS, or the engine with SEG_ENGINE"
        return Finding("wrong", "weights and engine", str(error), remedy)
    digest = predictor.metadata.digest[:12]
    found = f"{weights.name}, {digest}, computed by {predictor.engine.description}"
    return Finding("ok", "weights and engine", found)


def _read_release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _explain(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _format(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def main(print_line: Callable[[str], None] = print) -> None:
    """Print each finding as soon as it is known, since the next check may end this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED_WEIGHTS)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    for finding in inspect(
        options.weights,
        engine=options.engine,
        device=options.device,
        precision=options.precision,
    ):
        print_line(json.dumps(asdict(finding)))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
