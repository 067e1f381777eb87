"""Messages and shared memory: what is sent arrives, and anything else is refused."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sharing.memory import SMALL_BYTES, Frame, SharedMemory, count_frame_bytes, map_memory
from app.sharing.messages import (
    MAX_BYTES,
    MAX_TEXT_BYTES,
    Done,
    Hello,
    Load,
    Loaded,
    MalformedMessage,
    Refused,
    Segment,
    pack,
    unpack,
)
from tests.app.sharing.scripted import make_canvas

EXAMPLES = (
    Hello(1),
    Load(2**32 - 1, 32 * b"\xff"),
    Loaded(3, 64, "cuda:1", "torch 2 on cuda:1, ünïcode"),
    Refused(4, ""),
    Segment(5, 2**40, 32 * b"a", True, 32, 64, 31, 63, 1000, 2000, "my-request"),
    Done(6, 7),
)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message):
    assert unpack(pack(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_no_part_of_a_message_is_a_message(message):
    data = pack(message)
    for end in range(len(data)):
        with pytest.raises(MalformedMessage):
            unpack(data[:end])
    with pytest.raises(MalformedMessage):
        unpack(data + b"\0")


@given(st.binary(max_size=200))
def test_bytes_are_a_message_or_refused(data):
    try:
        message = unpack(data)
    except MalformedMessage:
        return
    assert isinstance(message.number, int)


def test_a_long_text_is_cut():
    message = unpack(pack(Refused(1, 10_000 * "ä")))
    assert len(message.text) == MAX_TEXT_BYTES // 2
    assert len(pack(Loaded(1, 1, 10_000 * "a", 10_000 * "b"))) <= MAX_BYTES


def test_shared_memory_keeps_its_size():
    memory = SharedMemory(SMALL_BYTES)
    copy = memory.open_again()
    with pytest.raises(PermissionError):
        os.truncate(copy, 0)
    os.close(copy)
    memory.close()


@pytest.mark.parametrize("kind", ["none", "file", "empty", "socket"])
def test_anything_but_sealed_memory_is_refused(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(b"" if kind == "empty" else bytes(100))
    with path.open("r+b") as file, socket.socket() as other:
        descriptor = {"none": None, "socket": other.fileno()}.get(kind, file.fileno())
        with pytest.raises(MalformedMessage):
            map_memory(descriptor)


@pytest.mark.parametrize(
    ("offset", "canvas", "output"),
    [(0, (32, 32), (32, 1000)), (64, (32, 32), (32, 32)), (1, (32, 32), (1, 1)),
     (0, (0, 32), (1, 1)), (0, (32, 32), (0, 1)), (2**40, (32, 32), (1, 1)),
     (0, (2**32 - 32, 2**32 - 32), (1, 1))],
)  # fmt: skip
def test_no_frame_exceeds_its_memory(offset, canvas, output):
    memory = SharedMemory(count_frame_bytes((32, 32), (32, 32)))
    Frame(memory.map, 0, (32, 32), (32, 32)).fill(make_canvas())
    with pytest.raises(MalformedMessage):
        Frame(memory.map, offset, canvas, output)
    memory.close()
