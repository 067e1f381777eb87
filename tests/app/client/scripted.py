"""A server with scripted answers, for situations that our server rarely makes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLOSE = None
"""The server closes the connection instead of answering."""


class ScriptedServer(ThreadingHTTPServer):
    """Gives `answers` (status, headers, body) in turn, and 500 after the last."""

    daemon_threads = True

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.requests = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        self.server.requests.append(
            (self.command, self.path, self.headers, self.rfile.read(length))
        )
        answer = self.server.answers.pop(0) if self.server.answers else (500, {}, b"")
        if answer is CLOSE:
            self.close_connection = True
            return
        status, headers, body = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *_):
        pass


@contextmanager
def scripted(*answers) -> Iterator[ScriptedServer]:
    with ScriptedServer(answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(60)
