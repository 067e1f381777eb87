"""The photos of a bulk run: those of a folder, or those that a list names, one a line.

Knows where each photo is and what its results are called, and nothing of how they are made.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from app.cli.outputs import SUFFIXES
from app.cli.storage import Storage, StorageError, open_storage
from app.client import PhotoError


@dataclass(frozen=True, slots=True)
class Source:
    """A folder, in which photos are named by their paths; or a list, by its lines."""

    storage: Storage
    """The folder, or that of the list."""
    list_name: str = ""

    @property
    def url(self) -> str:
        """The full address of the folder or the list."""
        return self.storage.url + (f"/{self.list_name}" if self.list_name else "")

    def list_photos(self, output: Storage) -> Iterator[str]:
        """Yield each photo's name, but none of the output's files. Raises StorageError."""
        if self.list_name:
            yield from self._read_list()
            return
        results = output.url.rstrip("/") + "/"
        root = self.storage.url.rstrip("/") + "/"
        for path in self.storage.list_files():
            if _is_photo(path) and not (root + path).startswith(results):
                yield path

    def _read_list(self) -> Iterator[str]:
        """Yield the lines without what follows a tab, which is a reason in a list of failures."""
        name = self.storage.locate(self.list_name)
        with self.storage.filesystem.open(name, "rb") as file:
            try:
                for line in io.TextIOWrapper(file, encoding="utf-8", newline="\n"):
                    photo = line.rstrip("\r\n").partition("\t")[0]
                    if photo:
                        yield photo
            except UnicodeDecodeError as error:
                raise StorageError(
                    f"{self.list_name} is no list: give a text file that names one photo a line"
                ) from error

    def read(self, photo: str, *, max_bytes: int) -> bytes:
        """Return a photo's bytes.

        Raises PhotoError if this one cannot be read, and StorageError if none can.
        """
        try:
            if self.list_name and ("://" in photo or photo.startswith("/")):
                return open_storage(photo).read("", max_bytes=max_bytes)
            return self.storage.read(photo, max_bytes=max_bytes)
        except (ConnectionError, TimeoutError) as error:
            raise StorageError(f"{photo}: {error or type(error).__name__}") from error
        except (OSError, StorageError, ValueError) as error:
            raise PhotoError(f"it cannot be read: {error or type(error).__name__}") from error
        except Exception as error:
            raise StorageError(f"{photo}: {type(error).__name__}: {error}") from error


def open_source(url: str) -> Source:
    """Open a folder or a list of photos. Raises StorageError."""
    storage = open_storage(url)
    try:
        if storage.filesystem.isfile(storage.root):
            folder, _, name = storage.root.rpartition("/")
            if _is_photo(name):
                raise StorageError(
                    f"{url} is one photo: give a folder or a list, or use fcn segment"
                )
            return Source(Storage(storage.filesystem, folder or "/"), name)
        if storage.filesystem.isdir(storage.root):
            return Source(storage)
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"{url}: {type(error).__name__}: {error}") from error
    raise StorageError(f"{url}: no such folder or list of photos")


def name_results(photo: str) -> str:
    """Return the path of a photo's results, without their ending.

    It depends on this photo alone, and no two photos have the same: the photo's path, after `s3:`
    or the like for an address and `file:` for a path from the root. Raises PhotoError for a name
    that would lead out of the output.
    """
    protocol, separator, rest = photo.partition("://")
    if separator:
        parts = [f"{protocol}:", *rest.lstrip("/").split("/")]
    elif photo.startswith("/"):
        parts = ["file:", *photo.lstrip("/").split("/")]
    else:
        parts = photo.split("/")
    is_taken = parts[0] == "_bulk" or (photo == "/".join(parts) and parts[0].endswith(":"))
    if is_taken or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise PhotoError("its name would lead out of the output, or to another photo's: rename it")
    return "/".join(parts)


def _is_photo(path: str) -> bool:
    dot = path.rfind(".")
    return dot >= 0 and path[dot:].lower() in SUFFIXES
