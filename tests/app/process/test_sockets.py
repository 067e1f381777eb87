"""The last connections before the port is closed."""

import asyncio
import select
import socket
import sys
from contextlib import ExitStack

import pytest

from app.process.sockets import accept_waiting


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may queue more than they must")
def test_the_system_establishes_few_connections_that_nobody_will_accept():
    """Those that it establishes between the last `accept` and the closing of the port are reset."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener, ExitStack() as stack:
        asyncio.run(accept_waiting(listener))
        poll = select.poll()
        for _ in range(12):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
            poll.register(caller, select.POLLOUT)
        assert len(poll.poll(0)) <= 2
