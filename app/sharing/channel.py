"""One connection between a worker and an engine process: sends messages, and files with them.

Knows nothing of what they mean.
"""

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from app.sharing.messages import MAX_BYTES, MalformedMessage, Message, pack, unpack

BACKLOG = 512
"""The number of connections that may wait to be accepted: more than there are workers, so that none
is refused while an engine is replaced.
"""

READ_AT_ONCE = 64
"""The number of messages that are read before the event loop does other work."""

OnMessage = Callable[[Message, int | None], None]
"""A function of a message and the descriptor of its file, which is closed when the call returns."""

log = structlog.get_logger("segmentation")


def listen(path: Path) -> socket.socket:
    """Return a socket that engines accept connections on. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(path: Path) -> socket.socket:
    """Return a connection, which the engine may accept later. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.setblocking(False)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


class Channel:
    """Sends and receives in the event loop. `on_end` is called once, when the other end closes."""

    def __init__(
        self, connection: socket.socket, *, on_message: OnMessage, on_end: Callable[[], None]
    ) -> None:
        self._socket = connection
        self._on_message = on_message
        self._on_end = on_end
        self._unsent: deque[tuple[bytes, int | None]] = deque()
        self._loop = asyncio.get_running_loop()
        self.is_open = True
        connection.setblocking(False)
        self._loop.add_reader(connection, self._read)

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Send a message, now or when the socket has room. The descriptor is closed afterwards."""
        self._unsent.append((pack(message), descriptor))
        if len(self._unsent) == 1:
            self._write()

    def close(self) -> None:
        """Close the connection, without a call of `on_end`."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        while self._unsent:
            self._drop_first()

    def _end(self) -> None:
        if self.is_open:
            self.close()
            self._on_end()

    def _write(self) -> None:
        while self._unsent and self.is_open:
            data, descriptor = self._unsent[0]
            try:
                socket.send_fds(self._socket, [data], [] if descriptor is None else [descriptor])
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._write)
                return
            except OSError:  # the reader learns of the end, after the messages that are still there
                break
            self._drop_first()
        while self._unsent:
            self._drop_first()
        if self.is_open:
            self._loop.remove_writer(self._socket)

    def _drop_first(self) -> None:
        _, descriptor = self._unsent.popleft()
        if descriptor is not None:
            os.close(descriptor)

    def _read(self) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                data, files, flags = self._receive()
            except BlockingIOError:
                return
            except OSError:
                data, files, flags = b"", [], 0
            try:
                if data:
                    self._pass_on(data, files, flags)
                else:
                    self._end()
            finally:
                for descriptor in files:
                    os.close(descriptor)
            if not self.is_open:
                return

    def _receive(self) -> tuple[bytes, list[int], int]:
        files = array.array("i")
        room = socket.CMSG_SPACE(4 * files.itemsize)
        data, ancillary, flags, _ = self._socket.recvmsg(MAX_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files.frombytes(content[: len(content) - len(content) % files.itemsize])
        return data, list(files), flags

    def _pass_on(self, data: bytes, files: list[int], flags: int) -> None:
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(files) > 1:
                raise MalformedMessage("a message is too long, or has more than one file")
            self._on_message(unpack(data), files[0] if files else None)
        except MalformedMessage as error:
            log.warning("malformed message", reason=str(error))
            self._end()
