"""An ingress replica without a cluster, in a process of its own: `lone_ingress WEIGHTS`.

Serve cancels a health check during the start; prints whether the next one waits for the start.
"""

import asyncio
import sys
import threading
from pathlib import Path

from app.ray.ingress import IngressReplica
from app.settings import Settings
from tests.app.ray.handles import ComputingHandle


class LateHandle(ComputingHandle):
    """Has no engine replica before `is_ready` is set."""

    def __init__(self, weights_file):
        super().__init__(weights_file)
        self.is_ready = threading.Event()

    def tell(self):
        self.is_ready.wait()
        return super().tell()


async def check(weights):
    engines = LateHandle(weights)
    replica = IngressReplica(Settings(weights=weights, device="cpu"), engines)
    app = replica.__serve_build_asgi_app__()
    async with app.router.lifespan_context(app):
        checking = asyncio.create_task(replica.check_health())
        await asyncio.wait([checking], timeout=0)
        checking.cancel()
        await asyncio.wait([checking])
        engines.is_ready.set()
        await replica.check_health()
        print(app.state.service.state)


if __name__ == "__main__":
    asyncio.run(check(Path(sys.argv[1])))
