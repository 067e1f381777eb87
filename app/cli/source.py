"""The photos of a bulk run: those in a folder, or those that a list names, one per line.

Knows where each photo is and how its results are named; knows nothing of how they are computed.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from app.cli.outputs import SUFFIXES
from app.cli.storage import Storage, StorageError, open_storage
from app.client import PhotoError


@dataclass(frozen=True, slots=True)
class Source:
    """A folder, whose photos are named by their paths, or a list, whose lines are the names."""

    storage: Storage
    """The folder, or the folder of the list."""
    list_name: str = ""

    @property
    def url(self) -> str:
        """The full address of the folder or the list."""
        return self.storage.url + (f"/{self.list_name}" if self.list_name else "")

    def list_photos(self, output: Storage) -> Iterator[str]:
        """Yield each photo's name, without files in the output. Raises StorageError."""
        if self.list_name:
            yield from self._read_list()
            return
        results = output.url.rstrip("/") + "/"
        root = self.storage.url.rstrip("/") + "/"
        for path in self.storage.list_files():
            if _is_photo(path) and not (root + path).startswith(results):
                yield path

    def _read_list(self) -> Iterator[str]:
        """Yield each line up to a tab; in a list of failures, the reason follows the tab."""
        name = self.storage.locate(self.list_name)
        with self.storage.filesystem.open(name, "rb") as file:
            try:
                for line in io.TextIOWrapper(file, encoding="utf-8", newline="\n"):
                    photo = line.rstrip("\r\n").partition("\t")[0]
                    if photo:
                        yield photo
            except UnicodeDecodeError as error:
                raise StorageError(
                    f"{self.list_name} is not a list: give a text file with one photo per line"
                ) from error

    def read(self, photo: str, *, max_bytes: int) -> bytes:
        """Return a photo's bytes.

        Raises PhotoError if this photo cannot be read, and StorageError if no photo can.
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

    The path depends only on this photo, and is different for every photo. It is the photo's path,
    with a first folder such as `s3:` for an address, or `file:` for an absolute path. Raises
    PhotoError for a name that would lead out of the output.
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
