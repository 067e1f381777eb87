"""A Ray cluster of two nodes on this machine, with the service on it."""

from contextlib import ExitStack

import httpx
import pytest

from app.access.keys import format_line, make_key
from app.settings import Settings
from benchmarks.ray_cluster import PATIENCE_S, RayNotStarted, start_ray_cluster


@pytest.fixture(scope="package")
def cluster():
    pytest.importorskip("ray", reason="needs the extra ray")
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(start_ray_cluster(1, 1))
        except RayNotStarted as error:
            pytest.skip(f"the machine is too busy: {error}")
        yield cluster


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="package")
def admin(folder):
    """The headers of an administrator, whose key is in the keys file."""
    key = make_key()
    (folder / "keys").write_text(format_line("operator", key, admin=True) + "\n")
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="package")
def ray_settings(folder, admin, weights_file) -> Settings:
    (folder / "weights").write_bytes(weights_file.read_bytes())
    return Settings(
        weights=folder / "weights",
        device="cpu",
        keys_file=folder / "keys",
        max_side=1024,
        deadline_s=PATIENCE_S,
        stuck_after_s=PATIENCE_S,
        max_queue=8,
        log_level="warning",
    )


@pytest.fixture(scope="package")
def options():
    from app.ray.application import Options

    return Options(
        min_ingresses=1, max_ingresses=1, ingress_cpus=0.5,
        min_engines=1, max_engines=2, engine_cpus=0.5, engine_load=1,
        upscale_delay_s=1, downscale_delay_s=2,
    )  # fmt: skip


@pytest.fixture(scope="package")
def ray_client(cluster, ray_settings, options, admin):
    """A client of the service on the cluster."""
    from ray import serve

    from app.ray.application import compose

    serve.run(compose(ray_settings, options))
    with httpx.Client(base_url=cluster.url, headers=admin, timeout=PATIENCE_S) as client:
        yield client
