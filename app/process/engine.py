"""An engine process: `python -m app.process.engine FOLDER NUMBER ENGINE FD`.

The supervisor starts it with the folder that all processes share, its slot, its number among the
engine processes, and the descriptor of the socket on which it listens. It ends after the workers,
even if it gets SIGTERM earlier.
"""

import asyncio
import signal
import sys
from pathlib import Path
from socket import socket

from app.observability import allocator
from app.observability.metrics import Metrics
from app.observability.peers import Peers
from app.process.ending import end_failed, end_process
from app.process.file_limit import raise_file_limit
from app.process.startup import load_settings
from app.settings import Settings
from app.sharing.batching import BatchingEngine
from app.sharing.host import Host


async def host(listener: socket, peers: Peers, settings: Settings, *, number: int) -> None:
    """Compute for the workers until SIGTERM."""
    engine = BatchingEngine(settings, metrics=Metrics(peers), give_up=end_failed)
    engines = Host(listener, engine, number=number)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engines.stop)
    await engines.run()


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = load_settings()
    folder, number, engine, descriptor = sys.argv[1:]
    raise_file_limit(settings.workers * settings.max_queue)  # a large image has a file
    allocator.limit_kept_memory()
    listener = socket(fileno=int(descriptor))
    peers = Peers(Path(folder), int(number))
    asyncio.run(host(listener, peers, settings, number=int(engine)))
    end_process(0)


if __name__ == "__main__":
    main()
