"""API keys: a file of names and digests, read again when it changes.

`python -m app.keys NAME` makes a key. Knows nothing of HTTP. The file has one key per line, and `#`
begins a comment:

    NAME  SHA-256-OF-THE-KEY-IN-HEX  [admin]

The digest is a plain SHA-256 on purpose. Slow, salted hashes (bcrypt, Argon2) protect passwords,
because people choose guessable ones. A key has 256 random bits and cannot be guessed, however fast
the hash is; a slow hash would only cost milliseconds for every request.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

KEY_BYTES = 32
KEY_PREFIX = "seg_"
"""The prefix lets people and secret scanners recognise a key; a key never starts with a dash."""

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9A-Fa-f]{64}")
ADMIN = "admin"
MAX_FILE_BYTES = 2**20

CLOCK_TICK_NS = 50_000_000
"""File systems have coarse clocks: two changes within one tick may have the same time."""

log = structlog.get_logger("segmentation")


class KeysError(Exception):
    """The keys file is invalid; the message says where and why, without quoting the file."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the file. A name may have several, such as an old and a new one."""

    name: str
    digest: bytes
    is_admin: bool = False


class Keyring:
    """The current keys of a file. Raises KeysError if it cannot be read at the start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = _read_state(path)
        self.text = _read(path)
        self.keys = parse_keys(self.text, path)

    def find(self, presented: bytes) -> Key | None:
        """Return the key that was sent, or None if it is unknown.

        All digests are compared, each in constant time, so that the duration reveals nothing of
        the keys.
        """
        self._refresh()
        digest = hashlib.sha256(presented).digest()
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _refresh(self) -> None:
        """Read the file if it has changed; log an invalid one once, and keep the old keys."""
        state = _read_state(self.path)
        if state == self._state:
            return
        self._state = state
        try:
            text = _read(self.path)
            if text == self.text:
                return
            self.text = text
            self.keys = parse_keys(text, self.path)
            log.info("keys read", keys=len(self.keys))
        except KeysError as error:
            log.error("keys not read, the old ones stay", error=str(error))


def parse_keys(text: str, path: Path) -> tuple[Key, ...]:
    """Return the keys in a file's text. Raises KeysError for the first invalid line."""
    keys: dict[bytes, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if not (NAME.fullmatch(words[0]) and len(words) > 1 and DIGEST.fullmatch(words[1])):
            raise KeysError(
                f"{path}, line {number}: expected NAME SHA-256-IN-HEX [{ADMIN}]. Make a line with: "
                "python -m app.keys NAME"
            )
        if words[2:] not in ([], [ADMIN]):
            raise KeysError(f"{path}, line {number}: the only role is {ADMIN!r}")
        digest = bytes.fromhex(words[1])
        if digest in keys:
            raise KeysError(f"{path}, line {number}: the same key as that of {keys[digest].name}")
        keys[digest] = Key(words[0], digest, is_admin=len(words) > 2)
    return tuple(keys.values())


def _read_state(path: Path) -> tuple[int, int, int, bool] | None:
    """Return a value that changes with the file, and once more a clock tick later."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    settled = not 0 <= time.time_ns() - status.st_ctime_ns < CLOCK_TICK_NS
    return status.st_ino, status.st_size, status.st_ctime_ns, settled


def _read(path: Path) -> str:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for its writer
            raise KeysError(f"{path}: expected a file of keys, found something else")
        if status.st_size > MAX_FILE_BYTES:
            raise KeysError(f"{path}: has {status.st_size} bytes, the limit is {MAX_FILE_BYTES}")
        return path.read_text("utf-8")
    except OSError as error:
        raise KeysError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeysError(
            f"{path}: expected a file of keys, found something that is not text"
        ) from error


def make_key() -> str:
    """Return a new random key."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def format_line(name: str, key: str, *, admin: bool = False) -> str:
    """Return the line of the keys file for a key."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{name} {digest}{f' {ADMIN}' if admin else ''}"
