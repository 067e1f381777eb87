"""The Helm chart: rendered by Helm, valid for Kubernetes, and true to the service's code.

Needs no cluster.
"""

import json
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import httpx
import jsonschema_rs
import promql_parser
import pytest
import yaml

from app import __version__
from app.http.drain import GRACE_S
from app.process.supervisor import LONGER_THAN_DRAIN_S
from app.settings import PREFIX, Settings
from tests.app.conftest import serving
from tests.conftest import REPOSITORY
from tests.test_monitoring import ALERTS, DASHBOARD, METRICS

CHART = REPOSITORY / "deploy" / "kubernetes"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
METADATA = yaml.safe_load((CHART / "Chart.yaml").read_text())
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
PAGE = (REPOSITORY / "docs" / "kubernetes.md").read_text()

NAMESPACE = "vision"

COLLECTOR = {"ports": [{"port": 4318}], "to": [{"podSelector": {}}]}

CHOICES = {
    "default": {},
    "cpu": {
        "replicas": 1,
        "drainTimeoutS": 300,
        "preStopS": 0,
        "startupTimeoutS": 7,
        "settings": {"SEG_RATE_LIMIT": "600/minute", "SEG_MAX_PIXELS": "25000000"},
        "autoscaling": {"kind": "hpa"},
        "networkPolicy": {"clients": [{"podSelector": {}}], "monitoring": [], "storage": []},
        "imagePullSecrets": [{"name": "registry"}],
        "service": {"annotations": {"a": "b"}},
        "podAnnotations": {"a": "b"},
    },
    "cuda": {
        "device": "cuda",
        "weights": {
            "volume": {"persistentVolumeClaim": {"claimName": "weights", "readOnly": True}},
            "file": "own.safetensors",
        },
        "keys": {"secret": "keys"},
        "rateStorage": {"secret": "rates"},
        "networkPolicy": {"egress": [COLLECTOR]},
        "autoscaling": {"kind": "keda"},
        "monitoring": {"serviceMonitor": True, "prometheusRule": True, "dashboard": True},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "nodeSelector": {"gpu": "yes"},
        "affinity": {"nodeAffinity": {}},
        "runtimeClassName": "nvidia",
        "priorityClassName": "high",
    },
}
"""Values that together cover every branch of the templates."""

HELM = """
import helm_python, json, sys
chart, namespace, choices = json.load(sys.stdin)
with helm_python.Chart.load(chart) as loaded:
    def render(values):
        try:
            return loaded.render(values, name="prod", namespace=namespace)
        except helm_python.HelmError as error:
            return str(error)
    answer = {name: render(values) for name, values in choices.items()}
print(json.dumps([helm_python.lint(chart), answer]))
"""


def ask_helm(choices):
    """The findings of `helm lint`, and each choice's files or the error that it gets."""
    if find_spec("helm_python") is None:
        pytest.skip("needs Helm (the package helm-python-sdk)")
    question = json.dumps([str(CHART), NAMESPACE, choices])
    done = subprocess.run(  # Go's runtime and its signal handlers stay out of the tests' process
        [sys.executable, "-c", HELM], input=question, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@cache
def render_all():
    lint, rendered = ask_helm(CHOICES)
    objects = {}
    for choice, files in rendered.items():
        assert isinstance(files, dict), files
        texts = [text for path, text in files.items() if path.endswith(".yaml")]
        documents = [each for text in texts for each in yaml.safe_load_all(text) if each]
        objects[choice] = {(each["kind"], each["metadata"]["name"]): each for each in documents}
        assert len(objects[choice]) == len(documents), "two objects of one name"
    return lint, objects


@pytest.fixture(params=CHOICES)
def objects(request):
    """The objects of one choice of values, by kind and name."""
    return render_all()[1][request.param]


def find_object(objects, kind, name="prod-segmentation"):
    return objects[kind, name]


def pod_of(objects):
    return find_object(objects, "Deployment")["spec"]["template"]


def container_of(objects):
    (container,) = pod_of(objects)["spec"]["containers"]
    return container


def variables_of(objects):
    """Name and value, or the Secret's key where it comes from."""
    return {
        entry["name"]: entry.get("value", entry.get("valueFrom"))
        for entry in container_of(objects)["env"]
    }


def ports_of(objects):
    return {port["name"]: port["containerPort"] for port in container_of(objects)["ports"]}


def test_helm_finds_nothing_to_complain_about():
    lint, _ = render_all()
    assert lint["errors"] == []
    assert [found for found in lint["messages"] if found["severity"] > 1] == []


SCHEMAS = ("1.30", "1.37")
"""The oldest Kubernetes that the chart takes, and a new one."""


@cache
def read_definitions(version):
    spec = find_spec("kubernetes_validate")
    if spec is None:
        pytest.skip("needs Kubernetes' schemas (the package kubernetes-validate)")
    folder = Path(spec.submodule_search_locations[0]) / "kubernetes-json-schema"
    path = folder / f"v{version}.0-local-strict" / "_definitions.json"
    text = path.read_text().replace("/api/_definitions.json#", "#")
    return path.parent, json.loads(text)["$defs"]


@cache
def make_validator(version, kind, api_version):
    folder, definitions = read_definitions(version)
    group, _, number = api_version.rpartition("/")
    parts = [kind.lower(), *([group.partition(".")[0]] if group else []), number]
    text = (folder / f"{'-'.join(parts)}.json").read_text()
    schema = json.loads(text.replace("/api/_definitions.json#", "#"))
    return jsonschema_rs.validator_for(schema | {"$defs": definitions})


OTHERS = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}
"""Kinds that KEDA and the Prometheus operator add."""


@pytest.mark.parametrize("version", SCHEMAS)
def test_every_object_is_valid(objects, version):
    checked = 0
    for (kind, _), manifest in objects.items():
        if kind not in OTHERS:
            errors = make_validator(version, kind, manifest["apiVersion"]).iter_errors(manifest)
            assert [(error.instance_path, error.message) for error in errors] == []
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize("version", SCHEMAS)
def test_an_invalid_object_is_noticed(version):
    _, all_objects = render_all()
    manifest = json.loads(json.dumps(find_object(all_objects["default"], "Deployment")))
    manifest["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    assert not make_validator(version, "Deployment", "apps/v1").is_valid(manifest)


def test_the_oldest_kubernetes_is_one_that_is_checked():
    assert METADATA["kubeVersion"] == f">={SCHEMAS[0]}.0-0"


def test_everything_is_in_the_namespace_and_selects_the_pods(objects):
    labels = pod_of(objects)["metadata"]["labels"]
    deployment = find_object(objects, "Deployment")["spec"]
    selectors = [
        deployment["selector"]["matchLabels"],
        find_object(objects, "Service")["spec"]["selector"],
        find_object(objects, "Service", "prod-segmentation-operations")["spec"]["selector"],
        find_object(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find_object(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            constraint["labelSelector"]["matchLabels"]
            for constraint in pod_of(objects)["spec"]["topologySpreadConstraints"]
        ),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    assert {each["metadata"]["namespace"] for each in objects.values()} == {NAMESPACE}


def test_ports_are_those_of_the_service(objects):
    variables, ports = variables_of(objects), ports_of(objects)
    assert ports == {
        "http": int(variables["SEG_PORT"]),
        "operations": int(variables["SEG_OPERATIONS_PORT"]),
    }
    assert f"EXPOSE {ports['http']}" in DOCKERFILE
    assert "SEG_HOST=0.0.0.0" in DOCKERFILE
    for (kind, name), manifest in objects.items():
        if kind == "Service":
            (port,) = manifest["spec"]["ports"]
            expected = "operations" if name.endswith("-operations") else "http"
            assert port["targetPort"] == expected
        if kind == "NetworkPolicy":
            named = [entry["ports"][0]["port"] for entry in manifest["spec"]["ingress"]]
            assert set(named) <= set(ports)
            assert "http" in named


def test_metrics_are_not_reachable_where_the_service_is(objects):
    operations = find_object(objects, "Service", "prod-segmentation-operations")["spec"]
    assert operations["clusterIP"] == "None"
    assert operations.get("type", "ClusterIP") == "ClusterIP"
    assert operations["publishNotReadyAddresses"], "SegmentationNotReady needs those, too"


PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.mark.parametrize("choice", ["default", "cpu"])
def test_a_server_with_the_settings_of_the_pod_answers_its_probes(weights_file, choice):
    _, all_objects = render_all()
    objects = all_objects[choice]
    settings = {
        name.removeprefix(PREFIX).lower(): value for name, value in variables_of(objects).items()
    }
    settings |= {"port": 0, "operations_port": 0, "weights": weights_file}
    paths = {}
    for name in PROBES:
        probe = container_of(objects)[name]
        assert probe["httpGet"]["port"] == "operations"
        paths[name] = probe["httpGet"]["path"]
    with (
        serving(Settings(**settings)) as (client, server),
        httpx.Client(base_url=server.operations_address, timeout=300) as operations,
    ):
        for path in (*paths.values(), "/metrics"):
            assert operations.get(path).status_code == 200
            assert client.get(path).status_code == 404, "only on the operations port"
        server.service.drain()
        assert operations.get(paths["readinessProbe"]).status_code == 503
        assert operations.get(paths["livenessProbe"]).status_code == 200


def test_the_start_has_the_time_that_was_chosen():
    _, all_objects = render_all()
    for choice, seconds in (("default", 120), ("cpu", 7)):
        probe = container_of(all_objects[choice])["startupProbe"]
        assert seconds <= probe["periodSeconds"] * probe["failureThreshold"] <= seconds + 2


def test_the_grace_period_is_longer_than_all_that_happens_in_it(objects):
    pod = pod_of(objects)["spec"]
    drain_s = int(variables_of(objects)["SEG_DRAIN_TIMEOUT_S"])
    stop = container_of(objects).get("lifecycle", {}).get("preStop")
    pause_s = stop["sleep"]["seconds"] if stop else 0
    needed_s = pause_s + drain_s + max(GRACE_S, LONGER_THAN_DRAIN_S)
    assert needed_s < pod["terminationGracePeriodSeconds"] <= needed_s + 10


def test_a_pod_leaves_the_service_before_it_stops():
    """Its socket is closed at SIGTERM, while nodes may still send connections to it."""
    assert VALUES["preStopS"] >= 5
    assert VALUES["strategy"]["maxUnavailable"] == 0


def test_every_variable_is_a_setting(objects):
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    variables = variables_of(objects)
    assert set(variables) <= known
    assert len(variables) == len(container_of(objects)["env"]), "one is set twice"
    plain = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in variables.items()
        if isinstance(value, str)
    }
    Settings(**plain)


def test_every_setting_can_be_chosen():
    variables = SCHEMA["properties"]["settings"]["propertyNames"]["enum"]
    free = {name for name in variables if not name.startswith("OTEL_")}
    _, all_objects = render_all()
    own = set().union(*(variables_of(objects) for objects in all_objects.values()))
    own -= {name for values in CHOICES.values() for name in values.get("settings", {})}
    own.add("SEG_HOST")  # of the image
    assert not own & free
    assert own | free == {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_pod_has_no_rights():
    for objects in render_all()[1].values():
        pod = pod_of(objects)["spec"]
        (uid,) = set(re.findall(r"^USER (\d+)$", DOCKERFILE, re.M)) - {"0"}
        context = pod["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == int(uid)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container_of(objects)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        mounts = container_of(objects)["volumeMounts"]
        assert [each["mountPath"] for each in mounts if not each.get("readOnly")] == ["/tmp"]
        assert {each["name"] for each in mounts} == {each["name"] for each in pod["volumes"]}


def test_requests_and_limits_bound_every_pod(objects):
    resources = container_of(objects)["resources"]
    for name in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(resources[name])


def test_a_gpu_is_asked_for_where_the_device_is_one():
    _, all_objects = render_all()
    stages = set(re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.M))
    for choice, device, gpus in (("default", "cpu", None), ("cuda", "cuda", 1)):
        container = container_of(all_objects[choice])
        assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert variables_of(all_objects[choice])["SEG_DEVICE"] == device
        assert container["image"] == f"segmentation:{device}"
        assert device in stages


def test_keys_weights_and_the_storage_come_from_where_they_are_kept():
    objects = render_all()[1]["cuda"]
    variables = variables_of(objects)
    volumes = {each["name"]: each for each in pod_of(objects)["spec"]["volumes"]}
    mounts = {each["name"]: each for each in container_of(objects)["volumeMounts"]}
    for name, variable in (("weights", "SEG_WEIGHTS"), ("keys", "SEG_KEYS_FILE")):
        assert variables[variable].startswith(f"{mounts[name]['mountPath']}/")
        assert "subPath" not in mounts[name], "it would never change"
    assert volumes["keys"]["secret"]["secretName"] == "keys"
    assert volumes["weights"]["persistentVolumeClaim"]["claimName"] == "weights"
    assert variables["SEG_RATE_STORAGE"] == {"secretKeyRef": {"name": "rates", "key": "url"}}


def test_no_secret_is_in_the_chart(objects):
    assert "Secret" not in {kind for kind, _ in objects}


def test_pods_are_spread_over_zones_and_nodes(objects):
    constraints = pod_of(objects)["spec"]["topologySpreadConstraints"]
    keys = [constraint["topologyKey"] for constraint in constraints]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    for constraint in constraints:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert constraint["matchLabelKeys"] == ["pod-template-hash"]


def test_a_pod_may_reach_its_rate_storage_the_named_peers_and_nothing_else():
    _, all_objects = render_all()
    assert find_object(all_objects["default"], "NetworkPolicy")["spec"]["egress"] == []
    names, storage, collector = find_object(all_objects["cuda"], "NetworkPolicy")["spec"]["egress"]
    assert {entry["port"] for entry in names["ports"]} == {53}
    assert [entry["port"] for entry in storage["ports"]] == [6379]
    assert storage["to"]
    assert collector == COLLECTOR


def test_replicas_are_left_to_the_autoscaler():
    _, all_objects = render_all()
    assert find_object(all_objects["default"], "Deployment")["spec"]["replicas"] == 2
    for choice in ("cpu", "cuda"):
        assert "replicas" not in find_object(all_objects[choice], "Deployment")["spec"]


def test_autoscalers_ask_for_a_metric_that_the_service_has():
    _, all_objects = render_all()
    scaler = find_object(all_objects["cpu"], "HorizontalPodAutoscaler")["spec"]
    (asked,) = scaler["metrics"]
    assert METRICS[asked["pods"]["metric"]["name"]] == ("gauge", set())
    assert scaler["scaleTargetRef"]["name"] == "prod-segmentation"
    scaled = find_object(all_objects["cuda"], "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "prod-segmentation"
    (trigger,) = scaled["triggers"]
    selectors = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            selectors.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            selectors.append(node.vector_selector)

    promql_parser.walk(promql_parser.parse(trigger["metadata"]["query"]), visit)
    for selector in selectors:
        assert METRICS[selector.name] == ("gauge", set())
        matched = {each.name: each.value for each in selector.matchers.matchers}
        assert matched == {"namespace": NAMESPACE, "service": "prod-segmentation-operations"}
    assert selectors


def test_prometheus_scrapes_the_operations_port_as_the_job_of_the_alerts():
    objects = render_all()[1]["cuda"]
    monitor = find_object(objects, "ServiceMonitor")["spec"]
    service = find_object(objects, "Service", "prod-segmentation-operations")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    main = find_object(objects, "Service")["metadata"]["labels"]
    assert not monitor["selector"]["matchLabels"].items() <= main.items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert endpoint["path"] == "/metrics"
    jobs = set(re.findall(r'job="(\w+)"', json.dumps(ALERTS).replace('\\"', '"')))
    assert jobs == {service["metadata"]["labels"][monitor["jobLabel"]]}


def test_alerts_and_dashboard_are_those_of_the_repository():
    objects = render_all()[1]["cuda"]
    (group,) = find_object(objects, "PrometheusRule")["spec"]["groups"]
    assert group["rules"] == ALERTS
    shown = find_object(objects, "ConfigMap", "prod-segmentation-dashboard")
    assert json.loads(shown["data"]["segmentation.json"]) == DASHBOARD


WRONG = {
    "a misspelt value": {"replica": 3},
    "a misspelt setting": {"settings": {"SEG_MAX_PIXEL": "1"}},
    "a setting that the chart sets": {"settings": {"SEG_PORT": "80"}},
    "a number, which Helm would write as 2.5e+07": {"settings": {"SEG_MAX_PIXELS": 25000000}},
    "weights without their volume": {"weights": {"file": "own.safetensors"}},
    "a volume without its file": {"weights": {"volume": {"emptyDir": {}}}},
    "an unknown device": {"device": "tpu"},
    "an unknown autoscaler": {"autoscaling": {"kind": "magic"}},
}


def test_wrong_values_are_refused():
    _, answers = ask_helm(WRONG)
    for name, answer in answers.items():
        assert isinstance(answer, str), name
        assert "don't meet the specifications of the schema" in answer


def test_the_version_is_that_of_the_service():
    assert METADATA["appVersion"] == __version__


def test_the_values_that_the_documentation_names_exist():
    named = re.findall(r"--set(?:-string)? '?([\w.]+?)=", PAGE)
    named += re.findall(r"^\| `([\w.]+)` \|", PAGE, re.M)
    assert len(named) > 10
    for path in named:
        found = VALUES
        for part in path.split("."):
            if found == {}:  # free text below, such as a setting or a volume
                break
            assert part in found, path
            found = found[part]
