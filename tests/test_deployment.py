"""What docker-compose.yml and deploy/k8s say of the service is true of it, and of their formats."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import redis
import yaml
from typer.testing import CliRunner

from service.api.operations import router
from service.cli import app as cli
from service.job_queue import JobQueue, QueueSettings
from service.jobs import EditRequest, Job, Priority
from service.settings import Settings
from tests.queue_jobs import IMAGE, PLAN, claim_one

ROOT = Path(__file__).parent.parent
K8S = ROOT / "deploy/k8s"
COMPOSE = ROOT / "docker-compose.yml"
CPU = ROOT / "docker-compose.cpu.yml"
OURS = {"api", "selector", "worker"}
KUBERNETES_VERSIONS = ("1.32", "1.37")
# Kinds that the operators of KEDA and Prometheus define, and the fields without which they refuse.
CUSTOM = {
    "TriggerAuthentication": ("keda.sh/v1alpha1", {"secretTargetRef"}),
    "ScaledObject": ("keda.sh/v1alpha1", {"scaleTargetRef", "triggers"}),
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector", "endpoints"}),
}

Manifest = dict[str, Any]


def services(*files: Path) -> dict[str, Manifest]:
    return {
        name: service
        for file in files
        for name, service in yaml.safe_load(file.read_text())["services"].items()
        if "profiles" not in service
    }


def manifests(kind: str | None = None) -> list[Manifest]:
    found = [
        manifest
        for file in sorted(K8S.glob("*.yaml"))
        if file.name != "kustomization.yaml"
        for manifest in yaml.safe_load_all(file.read_text())
    ]
    return [manifest for manifest in found if kind in (None, manifest["kind"])]


def named(kind: str, name: str) -> Manifest:
    return next(found for found in manifests(kind) if found["metadata"]["name"] == name)


def containers() -> dict[str, Manifest]:
    """The one container of each deployment."""
    pods = {d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in manifests("Deployment")}
    return {name: pod["containers"][0] for name, pod in pods.items()}


def variables() -> Iterator[tuple[str, str | None]]:
    """Of all containers; None for values that a Secret holds."""
    for service in services(COMPOSE, CPU).values():
        yield from service.get("environment", {}).items()
    yield from named("ConfigMap", "diffplugin-settings")["data"].items()
    for container in containers().values():
        yield from ((entry["name"], entry.get("value")) for entry in container["env"])


def probes(container: Mapping[str, Any]) -> Iterator[Manifest]:
    yield from (container[name] for name in container if name.endswith("Probe"))


def compose_config(*files: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose on PATH: apt-get install docker-compose")
    names = [part for file in files for part in ("-f", str(file))]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DIFFPLUGIN_")}
    return subprocess.run(
        ["docker-compose", *names, "config"],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("files", [(COMPOSE,), (COMPOSE, CPU)])
def test_docker_compose_takes_the_files(files: tuple[Path, ...]) -> None:
    found = compose_config(*files, DIFFPLUGIN_API_KEY="k" * 32)
    assert found.returncode == 0, found.stderr
    started = {
        name: service
        for name, service in yaml.safe_load(found.stdout)["services"].items()
        if "profiles" not in service
    }
    workers = {name for name in started if name.startswith("worker")}
    reserved = {name for name, service in started.items() if "deploy" in service}
    assert started["api"]["environment"]["DIFFPLUGIN_API_KEY"] == "k" * 32
    if CPU in files:
        assert (workers, reserved) == ({"worker-cpu"}, set())
    else:
        assert (workers, reserved) == ({"worker"}, {"worker", "dcgm-exporter"})


def test_docker_compose_asks_for_a_key() -> None:
    refused = compose_config(COMPOSE)
    assert refused.returncode != 0 and "the key that callers must send" in refused.stderr


def test_compose_serves_nobody_without_a_key() -> None:
    api = services(COMPOSE)["api"]
    assert "DIFFPLUGIN_ALLOW_ANONYMOUS" not in dict(variables())
    assert api["environment"]["DIFFPLUGIN_API_KEY"].startswith("${DIFFPLUGIN_API_KEY:?")
    file = api["environment"]["DIFFPLUGIN_API_KEYS_FILE"]
    assert Path(file).parent == Path(api["tmpfs"][0]), "the root is read-only"
    settings = containers()["api"]["env"]
    mounted = {mount["mountPath"] for mount in containers()["api"]["volumeMounts"]}
    keys = next(entry for entry in settings if entry["name"] == "DIFFPLUGIN_API_KEYS_FILE")
    assert str(Path(keys["value"]).parent) in mounted


def test_every_variable_is_a_setting_and_its_value_fits() -> None:
    seen = set()
    for name, value in variables():
        if name.startswith("GF_"):  # Grafana's own
            continue
        field = name.removeprefix("DIFFPLUGIN_").lower()
        assert name == f"DIFFPLUGIN_{field.upper()}" and field in Settings.model_fields, name
        if value is not None:
            Settings.model_validate({field: value})
        seen.add(field)
    assert {"redis_url", "api_keys_file", "device"} <= seen


def test_compose_publishes_on_the_loopback_only_what_the_service_listens_on() -> None:
    settings = Settings()
    ours = {settings.port, settings.grpc_port}
    ports = {
        name: [port.split(":") for port in service["ports"]]
        for name, service in services(COMPOSE, CPU).items()
        if "ports" in service
    }
    assert {place for found in ports.values() for place, _, _ in found} == {"127.0.0.1"}
    assert {int(inside) for _, _, inside in ports["api"]} == ours
    assert ports.keys() == {"api", "prometheus", "grafana"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    exposed = re.findall(r"^EXPOSE (.+)$", dockerfile, re.MULTILINE)
    assert {int(port) for line in exposed for port in line.split()} == ours


def test_compose_starts_in_the_order_of_health() -> None:
    found = services(COMPOSE, CPU)
    for service in found.values():
        for name, needed in service.get("depends_on", {}).items():
            assert needed == {"condition": "service_healthy"} and "healthcheck" in found[name]
    for name in OURS - {"worker"} | {"worker-cpu"}:
        assert "redis" in found[name]["depends_on"]


def test_compose_confines_every_role() -> None:
    for name, service in {**services(COMPOSE), **services(CPU)}.items():
        if name == "dcgm-exporter":  # reads the driver's counters as root
            continue
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert "tmpfs" in service or "volumes" in service, name
        assert "build" in service or not service["user"].startswith("0"), name


def test_health_checks_ask_what_the_service_has() -> None:
    routes = {route.path for route in router.routes}  # type: ignore[attr-defined]
    checks = [
        service["healthcheck"]["test"]
        for name, service in services(COMPOSE, CPU).items()
        if name in OURS | {"worker-cpu"}
    ]
    texts = [" ".join(check) for check in checks] + [(ROOT / "Dockerfile").read_text()]
    port = Settings().port
    paths = {path for text in texts for path in re.findall(rf"127\.0\.0\.1:{port}(/\w+)", text)}
    for container in containers().values():
        paths |= {probe["httpGet"]["path"] for probe in probes(container) if "httpGet" in probe}
    monitor = manifests("ServiceMonitor")[0]
    paths |= {endpoint["path"] for endpoint in monitor["spec"]["endpoints"]}
    assert paths == {"/livez", "/readyz", "/metrics"} and paths <= routes


def test_commands_are_those_of_the_command_line() -> None:
    commands = [
        shlex.split(found["command"])
        for found in services(COMPOSE, CPU).values()
        if "build" in found and isinstance(found.get("command"), str)
    ]
    for container in containers().values():
        commands += [container["args"]] if "args" in container else []
        commands += [probe["exec"]["command"] for probe in probes(container) if "exec" in probe]
    checks = [
        found["healthcheck"]["test"]
        for found in services(COMPOSE, CPU).values()
        if "build" in found
    ]
    commands += [check[1:] for check in checks if "diffplugin" in check]
    in_image = re.search(r'CMD (\["diffplugin", "workers".*\])', (ROOT / "Dockerfile").read_text())
    assert in_image is not None
    commands += [yaml.safe_load(in_image[1])]
    shell = services(COMPOSE)["api"]["command"][2]
    commands += [shlex.split(part.replace("exec ", "")) for part in shell.split("&&")]
    assert len(commands) > 8
    for name, *rest in commands:
        assert name == "diffplugin"
        assert CliRunner().invoke(cli, [*rest, "--help"]).exit_code == 0, rest


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_manifests_fit_the_schemas(version: str) -> None:
    for manifest in manifests():
        if manifest["kind"] in CUSTOM:
            api_version, fields = CUSTOM[manifest["kind"]]
            assert manifest["apiVersion"] == api_version and manifest["metadata"]["name"]
            assert fields <= manifest["spec"].keys()
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_wrong_manifest_does_not_fit() -> None:
    wrong = named("Deployment", "api")
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolice"):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSIONS[0], strict=True)


def test_the_kustomization_names_every_file_and_image() -> None:
    found = yaml.safe_load((K8S / "kustomization.yaml").read_text())
    files = {file.name for file in K8S.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(found["resources"]) == files
    images = {container["image"] for container in containers().values()}
    assert {image["name"] for image in found["images"]} == images
    stages = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {image["newTag"] for image in found["images"]} <= set(stages)


def test_manifests_point_at_each_other() -> None:
    assert containers().keys() == OURS
    for kind in ("PodDisruptionBudget", "Service", "NetworkPolicy"):
        for manifest in manifests(kind):
            spec = manifest["spec"]
            chosen = spec.get("podSelector", spec.get("selector"))
            labels = chosen.get("matchLabels", chosen)
            pods = [d["spec"]["template"]["metadata"]["labels"] for d in manifests("Deployment")]
            assert any(labels.items() <= pod.items() for pod in pods), manifest["metadata"]
    monitor = manifests("ServiceMonitor")[0]["spec"]
    service = named("Service", "api")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in containers()["api"]["ports"]}
    assert ports == {"http": Settings().port, "grpc": Settings().grpc_port}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports.keys()
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= ports.keys()
    allowed = named("NetworkPolicy", "api")["spec"]["ingress"][0]["ports"]
    assert {port["port"] for port in allowed} == set(ports.values())
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        assert manifests(kind)[0]["spec"]["scaleTargetRef"]["name"] in OURS
        name = manifests(kind)[0]["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in named("Deployment", name)["spec"], "the scaler would be overruled"


def test_pods_are_confined_and_workers_have_a_gpu() -> None:
    for deployment in manifests("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        inside = pod["containers"][0]["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] and inside["readOnlyRootFilesystem"]
        assert not pod["enableServiceLinks"], "the service's variables would look like settings"
        assert pod["terminationGracePeriodSeconds"] > Settings().shutdown_grace_s
        assert f"--uid {pod['securityContext']['runAsUser']}" in (ROOT / "Dockerfile").read_text()
    assert containers()["worker"]["resources"]["limits"]["nvidia.com/gpu"] == "1"


async def test_keda_reads_the_lag_of_the_streams_that_workers_read(redis_url: str) -> None:
    prefix = named("ConfigMap", "diffplugin-settings")["data"]["DIFFPLUGIN_KEY_PREFIX"]
    queue = JobQueue.connect(redis_url, QueueSettings(prefix=prefix))
    try:
        for priority in Priority:
            request = EditRequest(instruction="derain", priority=priority)
            for _ in range(2):
                await queue.submit(Job(request=request, plan=PLAN), IMAGE)
        for _ in Priority:
            await claim_one(queue)
    finally:
        await queue.close()
    triggers = [trigger["metadata"] for trigger in manifests("ScaledObject")[0]["spec"]["triggers"]]
    read = {"lagCount": 0, "pendingEntriesCount": 0}
    with redis.Redis.from_url(redis_url) as client:
        for trigger in triggers:
            groups: Any = client.xinfo_groups(trigger["stream"])
            group = next(g for g in groups if g["name"].decode() == trigger["consumerGroup"])
            kind = next(name for name in read if name in trigger)
            assert int(trigger[kind]) > 0
            waiting = client.xlen(trigger["stream"]) - group["pending"]
            assert group.get("lag", waiting) == waiting, "Redis below 7 tells no lag"
            read[kind] += waiting if kind == "lagCount" else group["pending"]
    assert read == {"lagCount": 3, "pendingEntriesCount": 3}
