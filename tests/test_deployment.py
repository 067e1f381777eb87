"""The images and the compose file, as far as they can be checked without a Docker engine."""

import re
import urllib.error

import httpx
import pytest
import yaml

from app.settings import PREFIX, Settings
from tests.app.conftest import serving
from tests.conftest import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
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


def test_the_images_run_as_nobody_in_particular():
    assert re.search(r"^USER (?!0|root)\S+$", DOCKERFILE, re.M)


def test_compose_builds_stages_that_exist_and_sets_settings_that_exist():
    assert set(COMPOSE["services"]) == {
        "segmentation-cpu", "segmentation-gpu", "prometheus", "grafana",
    }  # fmt: skip
    for name in ("segmentation-cpu", "segmentation-gpu"):
        service = COMPOSE["services"][name]
        assert service["build"]["target"] in STAGES
        for variable, value in service["environment"].items():
            assert variable in KNOWN
            if (default := re.fullmatch(r"\$\{\w+:-(.*)\}", value)) and variable != "SEG_LOG_LEVEL":
                field = Settings.model_fields[variable.removeprefix(PREFIX).lower()]
                assert int(default[1]) == field.default
        grace_s = int(service["stop_grace_period"].removesuffix("s"))
        assert grace_s > Settings().drain_timeout_s
    assert set(re.findall(r"\bSEG_\w+", DOCKERFILE)) <= KNOWN
    for name in ("prometheus", "grafana"):
        assert COMPOSE["services"][name]["profiles"] == ["cpu", "gpu"]


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
