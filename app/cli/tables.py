"""The results of a bulk run's part as one Parquet file of run lengths, which is also its record.

Knows nothing of where photos come from.
"""

import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from app.cli.storage import Storage
from app.client.segmentation import Segmentation
from app.codecs.runs import encode_runs

HELD_BYTES = 8 * 2**20
"""The size of the encoded runs in memory at which they are written as a row group."""

CLASS = pa.struct(
    {
        "index": pa.uint8(),
        "name": pa.string(),
        "pixels": pa.int64(),
        "box": pa.list_(pa.int32()),
        "counts": pa.string(),
    }
)
SCHEMA = pa.schema(
    {
        "photo": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "classes": pa.list_(CLASS),
        "error": pa.string(),
    }
)
"""A row for each photo. `error` is null, or says why there is no result; `counts` are COCO's."""


class RunTable:
    """A part that is one Parquet file, with its rows in the order in which the photos ended."""

    def __init__(self, output: Storage, number: int, *, metadata: Mapping[str, str]) -> None:
        """`metadata` is kept in the file beside the schema."""
        self._output = output
        self.path = f"part-{number:06}.parquet"
        self._schema = SCHEMA.with_metadata(dict(metadata))
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []
        self._held_bytes = 0
        self._resources = ExitStack()
        self._file: Path | None = None
        self._writer: Any = None

    def __enter__(self) -> Self:
        file = self._resources.enter_context(tempfile.NamedTemporaryFile(suffix=".parquet"))
        self._file = Path(file.name)
        self._writer = pq.ParquetWriter(file.name, self._schema, compression="zstd")
        self._resources.callback(self._writer.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def holds(self, photo: str) -> bool:  # noqa: ARG002
        return False

    def add(self, photo: str, result: Segmentation) -> None:
        runs = encode_runs(result.mask)
        classes = [
            {
                "index": one.index,
                "name": result.names[one.index],
                "pixels": one.pixels,
                "box": one.box,
                "counts": one.counts,
            }
            for one in runs
        ]
        height, width = result.size
        row = {"photo": _escape(photo), "height": height, "width": width, "classes": classes}
        with self._lock:
            self._rows.append(row)
            self._held_bytes += len(photo) + sum(len(one.counts) for one in runs)
            if self._held_bytes >= HELD_BYTES:
                self._flush()

    def record(self, failures: Mapping[str, str]) -> None:
        with self._lock:
            for photo, reason in failures.items():
                self._rows.append({"photo": _escape(photo), "error": reason})
            self._flush()
        self._writer.close()
        assert self._file is not None
        self._output.write_file(self.path, self._file)

    def list_failures(self) -> list[tuple[str, str]]:
        found = []
        with self._output.filesystem.open(self._output.locate(self.path), "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=["photo", "error"]):
                found += [
                    (row["photo"], row["error"])
                    for row in batch.filter(batch["error"].is_valid()).to_pylist()
                ]
        return found

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._held_bytes = [], 0


def _escape(photo: str) -> str:
    """Return a name that is valid Unicode, which file names need not be."""
    return photo.encode(errors="backslashreplace").decode()
