"""The images and the compose file, as far as they can be checked without a Docker engine."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.error

import httpx
import pytest
import yaml

from app.settings import PREFIX, Settings
from tests.app.conftest import serving
from tests.conftest import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
README = (REPOSITORY / "README.md").read_text()
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
STAGES = set(re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.M))
KNOWN = {PREFIX + name.upper() for name in Settings.model_fields}


def test_what_is_copied_exists_and_is_not_ignored():
    allowed = [
        line[1:]
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    sources = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.M)
    assert sources
    for source in sources:
        assert (REPOSITORY / source).exists()
        assert any(source == path or source.startswith(f"{path}/") for path in allowed)


def test_stages_that_are_copied_from_exist():
    assert set(re.findall(r"^COPY --from=(\S+) ", DOCKERFILE, re.M)) <= STAGES
    assert {"cpu", "cuda"} <= STAGES


def test_the_images_run_as_an_unprivileged_user():
    assert re.search(r"^USER (?!0|root)\S+$", DOCKERFILE, re.M)


SERVICES = ("segmentation-cpu", "segmentation-gpu")
FIXED = {"SEG_HOST", "SEG_PORT"}
"""Of the container: compose publishes its port 8000, as SEG_PUBLISH says."""


def test_triton_may_compile_and_load_its_kernels_in_the_gpus_container():
    stage = DOCKERFILE.split("FROM service AS cuda\n")[1].split("\nFROM ")[0]
    assert re.search(r"apt-get install .* gcc libc6-dev", stage)
    assert stage.index("USER 0") < stage.index("apt-get") < stage.index("USER 10001")
    assert "TRITON_CACHE_DIR=/tmp/" in stage
    # Without "exec", Docker's temporary file systems load no code.
    assert COMPOSE["services"]["segmentation-gpu"]["tmpfs"] == ["/tmp:exec"]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_compose_accepts_the_file(profile):
    config = ["docker-compose", "--profile", profile, "config"]
    shown = subprocess.run(config, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    services = yaml.safe_load(shown.stdout)["services"]
    assert {f"segmentation-{profile}", "prometheus", "grafana"} <= set(services)


def test_compose_builds_stages_that_exist_and_waits_for_the_drain():
    assert set(COMPOSE["services"]) == {*SERVICES, "prometheus", "grafana"}
    for name in SERVICES:
        service = COMPOSE["services"][name]
        assert service["build"]["target"] in STAGES
        (grace_s,) = re.fullmatch(r"\$\{\w+:-(\d+)s\}", service["stop_grace_period"]).groups()
        assert int(grace_s) > Settings().drain_timeout_s
    assert set(re.findall(r"\bSEG_\w+", DOCKERFILE)) <= KNOWN
    for name in ("prometheus", "grafana"):
        assert COMPOSE["services"][name]["profiles"] == ["cpu", "gpu"]


@pytest.mark.parametrize("name", SERVICES)
def test_compose_passes_every_setting_on(name):
    environment = COMPOSE["services"][name]["environment"]
    own = {variable for variable in environment if not variable.startswith("OTEL_")}
    assert own == KNOWN - FIXED
    for variable, value in environment.items():
        if value is not None:  # a name alone: as it is where compose runs, or not at all
            assert re.fullmatch(rf"\$\{{{variable}:-\w+\}}", value)


@pytest.mark.parametrize("name", SERVICES)
def test_compose_mounts_folders_for_weights_and_keys(name):
    documented = (REPOSITORY / "docs" / "operations.md").read_text()
    mounted = {}
    for volume in COMPOSE["services"][name]["volumes"]:
        variable, default, target = re.fullmatch(r"\$\{(\w+):-\./(.*)\}:(/\w+):ro", volume).groups()
        assert (REPOSITORY / default).is_dir()
        assert variable in documented
        mounted[target] = REPOSITORY / default
    assert mounted.keys() == {"/weights", "/keys"}
    for target in mounted:
        assert f"={target}/" in documented


def test_the_script_that_tries_the_image_builds_what_the_dockerfile_has():
    script = (REPOSITORY / "deploy" / "image" / "try_image.sh").read_text()
    (version,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.M)
    assert f"python:{version}-slim" in script
    assert set(re.findall(r"--target (\w+) ", script)) <= set(STAGES)
    assert os.access(REPOSITORY / "deploy" / "image" / "try_image.sh", os.X_OK)


def test_keys_and_weights_that_are_mounted_are_not_committed():
    for folder in ("deploy/keys", "deploy/weights"):
        (rule,) = (REPOSITORY / folder / ".gitignore").read_text().splitlines()[:1]
        assert rule == "*"


def test_prometheus_scrapes_the_service():
    path = REPOSITORY / "deploy" / "prometheus" / "prometheus.yml"
    (job,) = yaml.safe_load(path.read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["segmentation:8000"]}]
    for name in ("segmentation-cpu", "segmentation-gpu"):
        aliases = COMPOSE["services"][name]["networks"]["default"]["aliases"]
        assert aliases == ["segmentation"]


@pytest.mark.parametrize("operations_port", [None, 0])
def test_the_health_check_tells_a_ready_server_from_another(
    weights_file, monkeypatch, operations_port
):
    (code,) = re.findall(r'CMD \["python", "-c", "(.*)"\]$', DOCKERFILE, re.M)
    code = code.replace("timeout=2)", "timeout=300)")  # a busy machine is not what is tested
    settings = Settings(weights=weights_file, device="cpu", port=0, operations_port=operations_port)
    with serving(settings) as (_, server):
        monkeypatch.setenv("SEG_PORT", str(httpx.URL(server.address).port))
        if operations_port is not None:
            port = httpx.URL(server.operations_address).port
            monkeypatch.setenv("SEG_OPERATIONS_PORT", str(port))
        exec(code, {})
        server.service.drain()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            exec(code, {})


def test_requirements_are_pinned_with_hashes_and_without_addresses():
    for path in (REPOSITORY / "deploy" / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text
        for requirement in re.split(r"\n(?=\S)", text.strip()):
            assert re.match(r"[\w.-]+(\[\w+\])?==\S+", requirement), requirement
            assert "--hash=sha256:" in requirement


def requirements(name):
    """Name and version of each, without markers and hashes."""
    text = (REPOSITORY / "deploy" / "requirements" / f"{name}.txt").read_text().strip()
    return set(re.findall(r"^[\w.-]+==[\w.+-]+", text, re.M))


def test_the_tests_use_the_versions_of_the_service():
    base, serve, dev = map(requirements, ("base", "serve", "dev"))
    assert base <= serve
    assert base <= dev


def test_make_serve_installs_what_the_readme_imports_and_what_the_project_names():
    examples = "".join(re.findall(r"^```python\n(.*?)^```", README, re.M | re.S))
    modules = set(re.findall(r"^(?:import|from) (\w+)", examples, re.M)) - sys.stdlib_module_names
    modules.remove("app")  # the client is in this repository
    needed = {"PIL": "pillow"}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = {re.match(r"[\w-]+", entry)[0] for entry in project["dependencies"]}
    installed = {requirement.partition("==")[0] for requirement in requirements("base")}
    assert {needed.get(module, module) for module in modules} <= named <= installed
