"""The weights file: safetensors, with metadata that has everything needed to use it.

Reads and writes numpy arrays; knows nothing of torch, so a server without torch can read it.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from model.classes import PALETTE
from model.errors import WeightsError
from model.metadata import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    REMEDY,
    Metadata,
    parse_metadata,
    shorten,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "SHIPPED_WEIGHTS",
    "Metadata",
    "Weights",
    "get_colormap",
    "is_weights_file",
    "read_metadata",
    "read_weights",
    "widen",
    "write_atomically",
    "write_weights",
]

SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "fcn_resnet18_voc.safetensors"


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by their `FCN` names, floats as float32, and the file's metadata."""

    tensors: Mapping[str, NDArray[Any]]
    metadata: Metadata
    source: str = "weights in memory"
    """The file that they were read from, for messages."""


def read_metadata(path: Path) -> Metadata:
    """Read the metadata from the file's header; the tensors are neither read nor checked."""
    with _open(path) as file:
        return _parse_header(path, file.metadata())


def read_weights(path: Path) -> Weights:
    """Read the whole file and check its digest. Raises WeightsError."""
    with _open(path) as file:
        metadata = _parse_header(path, file.metadata())
        stored = {name: _read_tensor(path, file, name) for name in file.keys()}  # noqa: SIM118
    digest = _compute_digest(stored, metadata)
    if digest != metadata.digest:
        raise WeightsError(
            f"{path}: damaged or edited: its content has digest {digest}, its metadata says "
            f"{metadata.digest}. Copy the file again"
        )
    for name, array in stored.items():
        require_finite(path, name, array)
    return Weights(widen(stored), metadata, source=str(path))


def is_weights_file(path: Path) -> bool:
    """Return whether it is a weights file of some format version, which may be damaged."""
    try:
        with _open(path) as file:
            return "format_version" in (file.metadata() or {})
    except WeightsError:
        return False


def write_weights(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Metadata) -> Metadata:
    """Write the file atomically. Returns the written metadata, with the digest.

    Equal content gives equal bytes. If the process dies meanwhile, the old file stays, or none.
    Raises WeightsError for numbers that are not finite.
    """
    stored = {name: np.asarray(array, order="C") for name, array in sorted(tensors.items())}
    for name, array in stored.items():
        require_finite(path, name, array)
    values = _as_values(metadata)
    values["digest"] = _compute_digest(stored, metadata)
    header = {key: json.dumps(value) for key, value in values.items() if not isinstance(value, str)}
    header |= {key: value for key, value in values.items() if isinstance(value, str)}
    with write_atomically(path) as file:
        file.write(_sort_header(save(stored, metadata=header)))
    return read_metadata(path)


def _sort_header(content: bytes) -> bytes:
    """Sort the keys of a safetensors file's header, which the library writes in any order.

    Eight bytes of length, that many bytes of JSON, the tensors; the offsets of the tensors count
    from the end of the header, so they stay true.
    """
    length_bytes = 8
    end = length_bytes + int.from_bytes(content[:length_bytes], "little")
    header = json.loads(content[length_bytes:end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % length_bytes)  # tensors start aligned
    return len(text).to_bytes(length_bytes, "little") + text + content[end:]


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path` when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes it private; others may read the result
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise WeightsError(f"{path}: expected a weights file, found nothing there")
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WeightsError(
            f"{path}: expected a safetensors file, found something else or only a part of one "
            f"({error}). Copy it again, or convert a state dict that torch.save wrote: "
            "python -m model.convert FILE --output OUT"
        ) from error


def _parse_header(path: Path, header: Mapping[str, str] | None) -> Metadata:
    try:
        return parse_metadata(header or {})
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _read_tensor(path: Path, file: Any, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = file.get_tensor(name)
    except (TypeError, AttributeError) as error:  # a type that numpy does not have
        raise WeightsError(f"{path}: {shorten(name, str)}: {error}. Store it as float32") from error
    if array.dtype.kind == "V":  # a type that another package has taught numpy, such as bfloat16
        found = array.dtype
        raise WeightsError(
            f"{path}: {shorten(name, str)}: {found} is no type of numpy. Store it as float32"
        )
    return array


def require_finite(path: Path, name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind not in "fiu":
        raise WeightsError(
            f"{path}: {shorten(name, str)}: expected numbers, found {array.dtype.name}. {REMEDY}"
        )
    if not np.isfinite(array).all():
        raise WeightsError(
            f"{path}: {shorten(name, str)}: expected finite numbers, found an infinity or NaN. "
            "Train the weights again, with a lower learning rate if the loss was no number"
        )


def _as_values(metadata: Metadata) -> dict[str, Any]:
    return {entry.name: getattr(metadata, entry.name) for entry in fields(metadata)}


def _compute_digest(tensors: Mapping[str, NDArray[Any]], metadata: Metadata) -> str:
    """SHA-256, hexadecimal, over the metadata without its digest and every tensor by name."""
    described = _as_values(metadata)
    del described["digest"]
    sha256 = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, array in sorted(tensors.items()):
        sha256.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def get_colormap(metadata: Metadata) -> NDArray[np.uint8]:
    """Return each pixel value's colour, (256, 3): the classes' own, VOC's for the rest."""
    colours = PALETTE.copy()
    colours[: len(metadata.palette)] = np.array(metadata.palette, np.uint8)
    return colours


def widen(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the same tensors, float16 ones as float32: exact."""
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in tensors.items()
    }
