"""The InferenceService for KServe: its pod is valid, and its ports, probes and settings are ours.

Needs no cluster.
"""

import base64

import pytest
import yaml

from app.http.drain import GRACE_S
from app.http.paths import MODEL_PATH
from app.process.supervisor import LONGER_THAN_DRAIN_S
from app.settings import PREFIX, Settings
from tests.app.conftest import serving
from tests.conftest import PHOTO, REPOSITORY
from tests.test_kubernetes import SCHEMAS, make_validator

MANIFEST = yaml.safe_load((REPOSITORY / "deploy" / "kserve.yaml").read_text())
PREDICTOR = MANIFEST["spec"]["predictor"]
(CONTAINER,) = PREDICTOR["containers"]
VARIABLES = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
PROBES = ("readinessProbe", "livenessProbe")
PAGE = (REPOSITORY / "docs" / "kubernetes.md").read_text()

KUBERNETES_GRACE_S = 30
"""The time from SIGTERM to SIGKILL, unless a pod sets another."""

ONLY_OF_KSERVE = {"minReplicas", "maxReplicas", "timeout"}
"""The fields of a predictor that a pod does not have."""


@pytest.mark.parametrize("version", SCHEMAS)
def test_the_predictor_is_a_valid_pod(version):
    spec = {name: value for name, value in PREDICTOR.items() if name not in ONLY_OF_KSERVE}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": MANIFEST["metadata"], "spec": spec}
    errors = make_validator(version, "Pod", "v1").iter_errors(pod)
    assert [(error.instance_path, error.message) for error in errors] == []


def test_kserve_finds_the_container_and_its_port():
    assert CONTAINER["name"] == "kserve-container"
    (port,) = CONTAINER["ports"]
    assert str(port["containerPort"]) == VARIABLES["SEG_PORT"]
    for name in PROBES:
        assert CONTAINER[name]["httpGet"]["port"] == port["containerPort"]


def test_knative_takes_every_field():
    """It refuses other fields of a pod, and by default a security context of the pod."""
    assert PREDICTOR.keys() - ONLY_OF_KSERVE == {"containers", "volumes"}
    assert not CONTAINER.keys() & {"lifecycle", "startupProbe"}
    context = CONTAINER["securityContext"]
    assert context["runAsUser"] == 10001
    assert context["runAsNonRoot"] is context["readOnlyRootFilesystem"] is True


def test_a_pod_has_drained_before_it_is_killed():
    drain_s = float(VARIABLES["SEG_DRAIN_TIMEOUT_S"])
    assert drain_s + max(GRACE_S, LONGER_THAN_DRAIN_S) < KUBERNETES_GRACE_S


def test_every_variable_is_a_setting():
    assert {name.removeprefix(PREFIX).lower() for name in VARIABLES} <= Settings.model_fields.keys()
    assert PREDICTOR["timeout"] > Settings.model_fields["deadline_s"].default


def test_a_server_with_its_settings_answers_probes_and_the_request_of_the_page(weights_file):
    settings = {name.removeprefix(PREFIX).lower(): value for name, value in VARIABLES.items()}
    settings |= {"port": 0, "weights": weights_file}
    with serving(Settings(**settings)) as (client, server):
        probes = [
            CONTAINER[name]["httpGet"]["path"] for name in ("readinessProbe", "livenessProbe")
        ]
        assert [client.get(path).status_code for path in probes] == [200, 200]
        assert f"{MODEL_PATH}/infer" in PAGE
        file = {"name": "file", "datatype": "BYTES", "shape": [1]}
        data = [base64.b64encode(PHOTO.read_bytes()).decode()]
        answer = client.post(f"{MODEL_PATH}/infer", json={"inputs": [file | {"data": data}]})
        assert answer.json()["outputs"][0]["shape"] == [300, 451]
        server.service.drain()
        assert [client.get(path).status_code for path in probes] == [503, 200]
