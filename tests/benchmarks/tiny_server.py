"""A server with scripted answers."""

import asyncio
from contextlib import asynccontextmanager

from benchmarks.connection import Address


class TinyServer:
    """Gives `answers` in turn. For None it closes the connection instead."""

    def __init__(self, answers):
        self.answers = answers
        self.connections = 0
        self.requests = []

    @asynccontextmanager
    async def serving(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield Address(*server.sockets[0].getsockname())

    def run(self, ask):
        """Run the server during `await ask(address)`. Returns what that returns."""

        async def run():
            async with self.serving() as address:
                return await ask(address)

        return asyncio.run(run())

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0] or 0)
        self.requests.append(await reader.readexactly(length))
        answer = self.answers[(len(self.requests) - 1) % len(self.answers)]
        if answer is None:
            return False
        status, body = answer
        writer.write(
            f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n"
            "Server-Timing: decode;dur=1.50, inference;dur=20.00\r\n\r\n".encode()
            + body
        )
        return True
