"""One of several processes that serve: `python -m app.worker FD...`, started by the supervisor.

The sockets that it serves on are open already, under the numbers that it is given.
"""

import os
import signal
import sys
from functools import partial
from socket import socket

from app.__main__ import configured
from app.keys import KeysError
from app.server import Server, serve


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = configured()
    try:
        server = Server(settings, [socket(fileno=int(number)) for number in sys.argv[1:]])
    except KeysError as error:
        sys.exit(f"error: cannot start: {error}")
    server.service.tell_others = partial(os.kill, os.getppid(), signal.SIGHUP)
    sys.exit(serve(server))


if __name__ == "__main__":
    main()
