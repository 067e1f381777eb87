"""A Ray cluster on this machine, with Serve's proxy and as many nodes as are asked for.

Knows nothing of what runs on it.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from benchmarks.process import HOST, REPOSITORY

PATIENCE_S = 900
"""The seconds that a busy machine may take to start a part of Ray."""

START_S = 120
"""The seconds that Ray waits for a node's process. More is useless: the process ends if its agents
do not start within 15 s, and Ray does not notice that.
"""

ENVIRONMENT = {
    "PYTHONPATH": str(REPOSITORY),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_raylet_start_wait_time_s": str(START_S),
    "RAY_worker_register_timeout_seconds": str(PATIENCE_S),
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(PATIENCE_S),
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": str(PATIENCE_S),
}
"""Ray reads these variables when it is imported; its processes inherit them."""

STORE_BYTES = 100 * 2**20

AGENTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)
"""Ray would choose these ports for each node by itself; nodes on one machine may collide."""

QUIET = {"enable_worker_prestart": False, "prestart_worker_first_driver": False}
"""Workers are started when they are needed, not one per core with each node."""


ONLY_WHAT_IS_NEEDED = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
"""Neither a dashboard nor the scaling of machines; a node has 30 s to start, all of it together."""


ATTEMPTS = 3
"""Ray gives the agents of a node 15 s to start. On a busy machine they need more the first time."""


class RayNotStarted(Exception):
    """The machine is too busy for Ray."""


@dataclass(frozen=True, slots=True)
class RayCluster:
    address: str
    """Of the cluster itself, as RAY_ADDRESS has it."""
    port: int
    """Of Serve's proxy."""
    metrics: list[str]
    """The URL of each node's metrics."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


@contextmanager
def start_ray_cluster(*cpus: int, serves: bool = True) -> Iterator[RayCluster]:
    """Start a cluster with a node for each number of CPUs; with `serves`, this is its driver.

    Raises RayNotStarted.
    """
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        with _start(cpus, serves=serves) as cluster:
            yield cluster
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _start(cpus: tuple[int, ...], *, serves: bool) -> Iterator[RayCluster]:
    (port,) = find_free_ports(1)
    cluster, nodes = _start_nodes(cpus)
    urls = [f"http://{HOST}:{node['metrics_export_port']}/metrics" for node in nodes]
    found = RayCluster(cluster.address, port, urls)
    try:
        with _serve(found) if serves else nullcontext():
            yield found
    finally:
        cluster.shutdown()


@contextmanager
def _serve(cluster: RayCluster) -> Iterator[None]:
    """Run Serve's proxy and controller for the block."""
    import ray
    from ray import serve

    try:
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        serve.start(proxy_location="HeadOnly", http_options={"host": HOST, "port": cluster.port})
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def _start_nodes(cpus: tuple[int, ...]) -> tuple[Any, list[dict[str, Any]]]:
    """Return the nodes of Ray's `Cluster`, and the arguments of each."""
    from ray.cluster_utils import Cluster

    for _ in range(ATTEMPTS):
        nodes = [make_node(count) for count in cpus]
        nodes[0] |= ONLY_WHAT_IS_NEEDED | {"_system_config": QUIET}
        cluster = Cluster()
        try:
            for node in nodes:
                cluster.add_node(**node)
        except Exception as error:  # Ray has no type of its own for it
            cluster.shutdown()
            if "timed out during startup" not in str(error):
                raise
        else:
            return cluster, nodes
    raise RayNotStarted(f"Ray's nodes have not started in {ATTEMPTS} attempts")


def make_node(cpus: int) -> dict[str, Any]:
    """Return the arguments of a node with ports that are free."""
    ports: Mapping[str, int] = dict(zip(AGENTS, find_free_ports(len(AGENTS)), strict=True))
    return {"num_cpus": cpus, "object_store_memory": STORE_BYTES, **ports}


def find_free_ports(count: int) -> list[int]:
    """Return ports that differ, because all are open at once."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]
