"""Dashboard and alerts ask for what the service exposes, for all of it, and for nothing else."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from app.http.problems import PROBLEMS
from app.observability.metrics import Metrics
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
PROVISIONING = DEPLOY / "grafana" / "provisioning"
DASHBOARD = json.loads((DASHBOARDS / "segmentation.json").read_text())
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
(GROUP,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
ALERTS = GROUP["rules"]
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()

METRICS = {
    "seg_requests_total": ("counter", {"route", "status"}),
    "seg_files_total": ("counter", {"status"}),
    "seg_request_seconds": ("histogram", {"route"}),
    "seg_stage_seconds": ("histogram", {"stage"}),
    "seg_batch_size": ("histogram", set()),
    "seg_batch_fill_ratio": ("histogram", set()),
    "seg_queue_depth": ("gauge", set()),
    "seg_queue_oldest_age_seconds": ("gauge", set()),
    "seg_in_flight": ("gauge", set()),
    "seg_upload_bytes": ("gauge", set()),
    "seg_pixels": ("gauge", set()),
    "seg_answer_bytes": ("gauge", set()),
    "seg_codec_tasks": ("gauge", set()),
    "seg_connections": ("gauge", set()),
    "seg_rejections_total": ("counter", {"reason"}),
    "seg_connections_refused_total": ("counter", set()),
    "seg_rate_fallbacks_total": ("counter", set()),
    "seg_dropped_total": ("counter", {"stage"}),
    "seg_engine_failures_total": ("counter", set()),
    "seg_engine_restarts_total": ("counter", set()),
    "seg_decoders_ended_total": ("counter", {"reason"}),
    "seg_reloads_total": ("counter", {"outcome"}),
    "seg_ready": ("gauge", set()),
    "seg_model_info": ("gauge", {"digest", "engine"}),
}
"""What the service exposes: type and labels."""

OF_GPUS = {
    "seg_gpu_memory_bytes": ("gauge", {"gpu"}),
    "seg_gpu_memory_used_bytes": ("gauge", {"gpu"}),
    "seg_gpu_utilization_ratio": ("gauge", {"gpu"}),
}
"""And what it exposes on a machine with GPUs."""

OVERLOADED = {"queue-full", "deadline", "expired", "upload-bytes", "pixels", "answer-bytes"}

VALUES = {
    "stage": {"accept", "read", "decode", "queue", "inference", "encode", "send"},
    "outcome": {"swapped", "kept"},
    "reason": OVERLOADED | {problem.name for problem in PROBLEMS.values()},
    "route": {"/v1/segment", "/v1/model"},
    "status": {"200", "422", "500", "503"},
    "job": {"segmentation"},
    "process": {"", "supervisor", "worker-1"},
    "alertname": {rule["alert"] for rule in ALERTS},
    "alertstate": {"firing"},
}

OWN = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
"""What Prometheus adds, with the labels of every target."""

TARGET = {"instance", "job"}

GRAFANAS_OWN = {"__rate_interval": "5m"}


def exposed() -> dict[str, set[str]]:
    """The names that can be asked for, with their labels."""
    names = {}
    for name, (kind, labels) in (METRICS | OF_GPUS).items():
        if kind == "histogram":
            names |= {f"{name}_sum": labels, f"{name}_count": labels}
            names[f"{name}_bucket"] = labels | {"le"}
        else:
            names[name] = labels
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    samples = (sample for family in registry.collect() for sample in family.samples)
    names |= {sample.name: {"process"} for sample in samples}
    return names | OWN


class Asked:
    """What an expression asks for: each selector's metric and matchers, labels grouped by."""

    def __init__(self, expression: str) -> None:
        self.selectors: list[tuple[str, list[promql_parser.Matcher]]] = []
        self.grouped: set[str] = set()
        promql_parser.walk(promql_parser.parse(expression), self._visit)

    def _visit(self, node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector):
            self.selectors.append((node.name, node.matchers.matchers))
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            self.grouped |= set(node.modifier.labels)

    @property
    def metrics(self) -> set[str]:
        return {name for name, _ in self.selectors}


def filled_in(expression: str) -> str:
    for name, value in GRAFANAS_OWN.items():
        expression = expression.replace(f"${name}", value)
    return expression


def targets() -> Iterator[dict]:
    for panel in DASHBOARD["panels"]:
        yield from panel.get("targets", [])


def expressions() -> list[str]:
    shown = [target["expr"] for target in targets()]
    noted = [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    alerted = [rule["expr"] for rule in ALERTS]
    return [filled_in(expression) for expression in (*shown, *noted, *alerted)]


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_asks_for_what_is_exposed(expression):
    asked, names = Asked(expression), exposed()
    assert asked.metrics <= set(names)
    assert asked.grouped <= TARGET.union(*(names[name] for name in asked.metrics))
    for name, matchers in asked.selectors:
        for matcher in matchers:
            assert matcher.name in names[name] | TARGET
            if matcher.name in VALUES:
                assert any(matches(matcher, value) for value in VALUES[matcher.name])


def matches(matcher: promql_parser.Matcher, value: str) -> bool:
    """Whether the value is one that the matcher names, to be taken or to be left out."""
    if matcher.op in (promql_parser.MatchOp.Re, promql_parser.MatchOp.NotRe):
        return bool(re.fullmatch(matcher.value, value))
    return matcher.value == value


def test_reasons_are_named_in_full():
    """A regular expression matches if any of its alternatives does."""
    for expression in expressions():
        for _, matchers in Asked(expression).selectors:
            for matcher in matchers:
                if matcher.name == "reason":
                    assert set(matcher.value.split("|")) == OVERLOADED


def test_everything_of_the_service_is_on_the_dashboard():
    shown = set().union(*(Asked(filled_in(target["expr"])).metrics for target in targets()))
    for name, (kind, _) in (METRICS | OF_GPUS).items():
        assert {name, f"{name}_sum", f"{name}_bucket"} & shown, f"{name}, a {kind}, is not shown"


def own_metrics() -> dict[str, tuple[str, set[str]]]:
    metrics = Metrics()
    labels = {
        metric._name: set(metric._labelnames)  # noqa: SLF001, the client has no public names
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
    }
    families = text_string_to_metric_families(metrics.export().decode())
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            labels.get(family.name, set()),
        )
        for family in families
        if family.name.startswith("seg_") and not family.name.endswith("_created")
    }


def test_the_service_exposes_exactly_these_metrics():
    assert own_metrics() == METRICS


def test_the_documentation_names_exactly_these_metrics():
    documented = dict(re.findall(r"^\| `(seg_\w+)(?:\{([\w,]+)\})?` \|", OPERATIONS, re.M))
    assert {name: set(filter(None, labels.split(","))) for name, labels in documented.items()} == {
        name: labels for name, (_, labels) in (METRICS | OF_GPUS).items()
    }


def test_a_counter_that_is_alerted_on_is_there_before_it_counts():
    """Prometheus sees no increase in a series whose first value is 1."""
    registry = Metrics().registry
    for name in ("seg_engine_failures_total", "seg_engine_restarts_total"):
        assert registry.get_sample_value(name) == 0
    for outcome in VALUES["outcome"]:
        assert registry.get_sample_value("seg_reloads_total", {"outcome": outcome}) == 0


def test_legends_name_labels_that_are_there():
    names = exposed()
    for target in targets():
        asked = Asked(filled_in(target["expr"]))
        there = asked.grouped or TARGET.union(*(names[name] for name in asked.metrics))
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= there


def test_panels_do_not_overlap_and_fit():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert 0 <= at["x"] <= at["x"] + at["w"] <= 24
        cells = set(product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_has_a_title_an_id_and_says_what_it_shows():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith(".")
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(references)) == len(references)


def test_the_dashboard_can_be_provisioned():
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD, "the database gives it"
    assert "__inputs" not in DASHBOARD, "of an export, which only a person can import"


def test_the_dashboard_uses_variables_that_it_has():
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?([a-z_]\w*)", json.dumps(DASHBOARD)))
    assert used - set(GRAFANAS_OWN) - {"__all"} == set(variables)
    for part in (*targets(), *DASHBOARD["annotations"]["list"]):
        assert part["datasource"]["uid"] == "${datasource}"


def test_alerts_that_are_named_on_the_dashboard_exist():
    named = set(re.findall(r"Segmentation[A-Z]\w+", json.dumps(DASHBOARD)))
    assert named
    assert named <= VALUES["alertname"]


def test_every_alert_says_what_is_wrong_and_what_to_do():
    assert len(VALUES["alertname"]) == len(ALERTS)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert set(rule["annotations"]) == {"summary", "description"}
        for used in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            asked = Asked(rule["expr"])
            assert used in (asked.grouped or TARGET)


def test_every_alert_has_its_section_in_the_documentation():
    section = OPERATIONS.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", section, re.M) == [rule["alert"] for rule in ALERTS]


def test_every_alert_is_tried():
    tried = yaml.safe_load((DEPLOY / "prometheus" / "alerts.test.yml").read_text())["tests"]
    fired = {test["name"].partition(":")[0] for test in tried if _samples(test)}
    assert fired == VALUES["alertname"]


def _samples(test: dict) -> list:
    (query,) = test["promql_expr_test"]
    assert query["eval_time"]
    return query["exp_samples"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "--lint-fatal", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_rules_and_sees_them_fire(arguments):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (Debian's package prometheus)")
    done = subprocess.run(
        [promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_loads_the_alerts():
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]
    assert {job["job_name"] for job in PROMETHEUS["scrape_configs"]} == VALUES["job"]
    assert mounts("prometheus")["/etc/prometheus"] == DEPLOY / "prometheus"


def mounts(service: str) -> dict:
    """Folders of the repository by where the container sees them; all of them exist."""
    found = {}
    for volume in COMPOSE["services"][service]["volumes"]:
        source, target, *options = volume.split(":")
        if source.startswith("."):
            assert options == ["ro"]
            found[target] = REPOSITORY / source
            assert found[target].exists()
        else:
            assert source in COMPOSE["volumes"]
    return found


def test_grafana_finds_prometheus_and_the_dashboard():
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in COMPOSE["services"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "segmentation.yml").read_text())[
        "providers"
    ]
    seen = mounts("grafana")
    assert seen["/etc/grafana/provisioning"] == PROVISIONING
    assert seen[provider["options"]["path"]] == DASHBOARDS
    environment = COMPOSE["services"]["grafana"]["environment"]
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/segmentation.json"


def test_grafana_shows_this_machine_only_and_nobody_can_change_it():
    service = COMPOSE["services"]["grafana"]
    assert re.fullmatch(r"grafana/grafana:\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    environment = service["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
