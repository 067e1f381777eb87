"""Files of any filesystem that fsspec knows: folders of this machine, S3 and others.

Reads files up to a limit, lists them without holding the list in memory, and writes each completely
or not at all. Knows nothing of photos.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from app.client import ClientError

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory"})
"""The protocols whose objects appear only when they are complete."""

UNFINISHED = "_bulk/unfinished"
"""The folder for files that are being written, on filesystems that show incomplete files."""


class StorageError(ClientError):
    """A filesystem fails, or lacks something that is needed; the text says what."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder of a filesystem; paths are relative to it. The parts of a path are joined by /."""

    filesystem: Any
    root: str

    @property
    def url(self) -> str:
        """The folder's full address, protocol included."""
        return str(self.filesystem.unstrip_protocol(self.root))

    def locate(self, path: str) -> str:
        """Return the filesystem's own name for a path."""
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def exists(self, path: str) -> bool:
        """Return whether there is a file at this path."""
        return bool(self.filesystem.isfile(self.locate(path)))

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """Return a file's bytes. Raises StorageError if it is too large, and OSError."""
        name = self.locate(path)
        if max_bytes is None:
            return bytes(self.filesystem.cat_file(name))
        content = bytes(self.filesystem.cat_file(name, start=0, end=max_bytes + 1))
        if len(content) > max_bytes:
            raise StorageError(f"it has more than {max_bytes} bytes")
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write a file, completely or not at all. Raises OSError, or what the filesystem raises."""
        with self._writing(path) as name:
            self.filesystem.pipe_file(name, content)

    def write_file(self, path: str, local: Path) -> None:
        """Write a copy of a local file, completely or not at all."""
        with self._writing(path) as name:
            self.filesystem.put_file(str(local), name)

    def remove_unfinished(self) -> None:
        """Remove the incomplete files of runs that were killed."""
        folder = self.locate(UNFINISHED)
        if not self._is_object_store and self.filesystem.isdir(folder):
            self.filesystem.rm(folder, recursive=True)

    def list_files(self) -> Iterator[str]:
        """Yield the path of each file in the folder and in its subfolders."""
        if self._is_s3:
            return self._list_s3("")
        return self._list_local("") if self._is_local else self._walk()

    def list_folder(self, folder: str) -> Iterator[str]:
        """Yield the paths of the files in a folder, which need not exist, without its subfolders.

        The subfolders themselves may be among them.
        """
        if self._is_s3:
            yield from self._list_s3(folder, Delimiter="/")
            return
        with suppress(FileNotFoundError):
            for name in self.filesystem.ls(self.locate(folder), detail=False):
                base = name.rstrip("/").rpartition("/")[2]
                yield f"{folder}/{base}" if folder else base

    @property
    def _protocols(self) -> set[str]:
        protocol = self.filesystem.protocol
        return {protocol} if isinstance(protocol, str) else set(protocol)

    @property
    def _is_s3(self) -> bool:
        return bool(self._protocols & {"s3", "s3a"})

    @property
    def _is_object_store(self) -> bool:
        return bool(self._protocols & OBJECT_STORES)

    @property
    def _is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    @contextmanager
    def _writing(self, path: str) -> Iterator[str]:
        """Yield the name to write to; the file gets its path when the block has succeeded."""
        if self._is_object_store:
            yield self.locate(path)
            return
        unfinished = self.locate(f"{UNFINISHED}/{uuid.uuid4().hex}")
        self._make_folder(unfinished)
        yield unfinished
        self._finish(unfinished, path)

    def _make_folder(self, name: str) -> None:
        self.filesystem.makedirs(name.rpartition("/")[0], exist_ok=True)

    def _finish(self, unfinished: str, path: str) -> None:
        """Move a file to its path. A local file's bytes are on the disk before its name is."""
        name = self.locate(path)
        self._make_folder(name)
        if not self._is_local:
            self.filesystem.mv(unfinished, name)
            return
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, name)

    def _list_local(self, folder: str) -> Iterator[str]:
        """Yield local files. This holds one entry of each folder on the way; fsspec holds all."""
        with os.scandir(self.locate(folder)) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from self._list_local(path)
                elif entry.is_file():
                    yield path

    def _list_s3(self, folder: str, **options: str) -> Iterator[str]:
        """Yield the objects of a folder. This holds one page of the list; fsspec holds all.

        `options` are S3's own.
        """
        bucket, _, prefix = self.root.strip("/").partition("/")
        prefix = f"{prefix}/" if prefix else ""
        options["Prefix"] = f"{prefix}{folder}/" if folder else prefix
        page: dict[str, Any] = {"IsTruncated": True}
        position: dict[str, str] = {}
        while page["IsTruncated"]:
            page = self.filesystem.call_s3("list_objects_v2", Bucket=bucket, **options, **position)
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):
                    yield entry["Key"].removeprefix(prefix)
            position = {"ContinuationToken": page.get("NextContinuationToken", "")}

    def _walk(self) -> Iterator[str]:
        """Yield the files of any filesystem. This holds the names of one folder at a time."""
        for folder, _, names in self.filesystem.walk(self.root):
            below = folder[len(self.root.rstrip("/")) :].strip("/")
            for name in names:
                yield f"{below}/{name}" if below else name


def open_storage(url: str) -> Storage:
    """Open a path or an address such as s3://bucket/folder. Raises StorageError."""
    try:
        filesystem, root = url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError, OSError) as error:
        raise StorageError(f"{url}: {error}") from error
    return Storage(filesystem, root)
