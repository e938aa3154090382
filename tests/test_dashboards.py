"""Dashboards and rules name only what is exported, and Prometheus' own tool accepts the rules."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.jobs import JobStatus, Priority, Timings, WorkerInfo
from service.metrics import ApiMetrics
from service.metrics_worker import EngineMetrics
from service.queue_records import Stage, StageDepth
from tests.test_metrics import Engine, published_by

DEPLOY = Path(__file__).parent.parent / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus/rules.yml"
# What others export: Prometheus itself, and NVIDIA's dcgm-exporter.
FOREIGN = {
    "up": {"job", "instance"},
    "DCGM_FI_DEV_GPU_UTIL": {"gpu", "Hostname"},
    "DCGM_FI_DEV_POWER_USAGE": {"gpu", "Hostname"},
    "DCGM_FI_DEV_XID_ERRORS": {"gpu", "Hostname"},
}
SCRAPED = {"job", "instance"}  # the labels that a scrape adds
# A metric is a name that stands where PromQL has neither a function, a keyword nor a label.
NAME = re.compile(r"(?<![\w:$\"])(?:diffplugin[\w:]*|process_\w+|DCGM_\w+|up)(?![\w:])")
MATCHERS = re.compile(r"([\w:]+)\{([^}]*)\}")


def exported() -> dict[str, set[str]]:
    """Labels of every sample of /metrics, of an api that sees a worker with something of all."""
    engine, api = EngineMetrics(Engine()), ApiMetrics()
    engine.observe_batch(("derain", "desnow"), 0.1, max_edits=8)
    engine.observe_job(JobStatus.SUCCEEDED, Timings(queue_s=1, denoise_s=1), ("derain",))
    engine.retries.labels("run").inc()
    api.requests.labels("/v1/edit", "200").inc()
    api.duration_seconds.labels("/v1/edit").observe(1)
    api.grpc_calls.labels("Edit", "OK").inc()
    depth = StageDepth(1, 1, {Priority.LOW: 1}, {Priority.LOW: 1.0})
    workers = [WorkerInfo(name="w", role="worker")]
    api.see_queue({Stage.RUN: depth}, 0, workers, {"w": published_by(engine)})
    return {
        sample.name: set(sample.labels) | SCRAPED
        for family in text_string_to_metric_families(api.render().decode())
        for sample in family.samples
    }


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            yield f"{path.stem}: {panel['title']}", panel


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for title, panel in panels():
        for target in panel["targets"]:
            yield title, target["expr"]
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]


def faults_of(expression: str, known: dict[str, set[str]]) -> list[str]:
    """Metrics, and labels of their matchers, that nobody exports."""
    bare = re.sub(r"\"[^\"]*\"", '""', expression)
    faults = [f"no metric {name}" for name in NAME.findall(bare) if name not in known]
    for name, matchers in MATCHERS.findall(bare):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        faults += [f"{name} has no label {x}" for x in labels - known.get(name, labels) - {"le"}]
    for clause in re.findall(r"\bby \(([^)]*)\)", bare):
        grouped = {label.strip() for label in clause.split(",")}
        everywhere = set().union(*(known.get(name, set()) for name in NAME.findall(bare)))
        faults += [f"nothing has the label {label}" for label in grouped - everywhere - {"le"}]
    return faults


def test_every_panel_and_rule_names_what_is_exported() -> None:
    recorded = {rule["record"]: SCRAPED for rule in rules() if "record" in rule}
    known = exported() | FOREIGN | recorded
    found = {title: faults_of(text, known) for title, text in expressions()}
    assert not {title: faults for title, faults in found.items() if faults}
    assert len(found) > 40


@pytest.mark.parametrize(
    "wrong",
    [
        "rate(diffplugin_request_total[5m])",
        'sum(diffplugin_queue_depth{prio="low"})',
        "sum by (colour) (diffplugin_workers)",
        "diffplugin:nothing:ratio",
    ],
)
def test_a_wrong_name_would_be_found(wrong: str) -> None:
    assert faults_of(wrong, exported())


def test_what_is_exported_is_shown_or_has_a_reason_not_to_be() -> None:
    shown = {name for _, text in expressions() for name in NAME.findall(text)}
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}
    ours = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in exported()}
    # The process collectors export more than is worth a panel.
    ours = {name for name in ours if not re.match(r"(diffplugin_)?process_", name)}
    assert not ours - families, "give these a panel"


def test_dashboards_are_laid_out_and_use_the_provisioned_source() -> None:
    folder = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids))
        cells: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            assert panel["datasource"]["uid"] == source["uid"]
            at = panel["gridPos"]
            taken = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not taken & cells, f"{panel['title']} overlaps"
            assert at["x"] + at["w"] <= 24
            cells |= taken
    assert len({json.loads(path.read_text())["uid"] for path in DASHBOARDS}) == len(DASHBOARDS) == 2


def test_every_alert_says_how_urgent_it_is_and_is_explained() -> None:
    text = (DEPLOY.parent / "docs/operations.md").read_text()
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["annotations"]["summary"]
            assert f"`{rule['alert']}`" in text


@pytest.mark.parametrize(
    "command",
    ["check config prometheus.yml", "check rules rules.yml", "test rules rules_test.yml"],
)
def test_promtool_accepts(command: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on PATH: apt-get install prometheus")
    done = subprocess.run(
        ["promtool", *command.split()],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
