"""What lies in deploy/ is sound: it parses, names only metrics that exist, and a real Prometheus takes it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import impasto
from impasto_server.observability.metrics import Machine, Metrics
from tests.conftest import ROOT, ServerProcess

DEPLOY = ROOT / "deploy"
PROMTOOL = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not here (Debian: prometheus)")
PROMETHEUS = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not here")
GPU = {"utilization_ratio", "memory_used_bytes", "memory_total_bytes", "power_watts", "temperature_celsius", "sm_clock_hertz"}


def known() -> set[str]:
    """Return every name that can be asked for."""
    metrics = Metrics()
    metrics.registry.register(Machine(list))
    names = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    names |= {family.name for family in metrics.registry.collect()}
    families = {family.name: family.type for family in metrics.registry.collect()}
    for name, kind in families.items():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(kind, ())
        names |= {name + suffix for suffix in suffixes}
    return names | {f"impasto_gpu_{name}" for name in (*GPU, "throttled", "ecc_errors")} | {"up"}


def asked(expression: str) -> set[str]:
    """Return the metrics that a query asks for."""
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]|\b(by|on)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"\b((?:impasto|grpc|process)_\w+|up)\b", bare))


def flattened(panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all panels, those of collapsed rows too."""
    return [inner for panel in panels for inner in (panel, *panel.get("panels", ()))]


def test_rules_and_dashboard_ask_for_metrics_that_exist() -> None:
    """A name that was changed in the code and not here would be an alert that never fires."""
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    board = json.loads((DEPLOY / "grafana/impasto.json").read_text())
    expressions += [target["expr"] for panel in flattened(board["panels"]) for target in panel.get("targets", ())]
    names = set().union(*(asked(expression) for expression in expressions))
    assert len(names) > 30
    assert names - known() == set()


def test_each_alert_is_shown_to_fire() -> None:
    """In the rule test that promtool runs."""
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    cases = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())["tests"]
    fired = {item["alertname"] for case in cases for item in case["alert_rule_test"] if item.get("exp_alerts")}
    assert alerts == fired


def test_the_dashboard_is_what_its_script_writes() -> None:
    """Panels do not overlap, and every id is there once."""
    source = importlib.util.spec_from_file_location("dashboard", ROOT / "scripts/dashboard.py")
    assert source
    assert source.loader
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    board = json.loads((DEPLOY / "grafana/impasto.json").read_text())
    assert board == module.dashboard(), "run make generate"
    taken: set[tuple[int, int, int]] = set()
    for panel in flattened(board["panels"]):
        place = panel["gridPos"]
        # Unfolding a row moves those below it.
        inside = next((row["id"] for row in board["panels"] if panel in row.get("panels", [])), 0)
        cells = {(inside, place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in flattened(board["panels"])}) == len(flattened(board["panels"]))


def documents(path: str) -> list[dict[str, Any]]:
    """Return the documents of a file in deploy/."""
    return [document for document in yaml.safe_load_all((DEPLOY / path).read_text()) if document]


def test_compose_fits_the_image_and_prometheus() -> None:
    """The port that is scraped and probed is the one that is served; files and folders that are mounted are there."""
    (compose,) = documents("compose.yml")
    server = compose["services"]["impasto"]
    (scrape,) = documents("prometheus/prometheus.yml")
    port = server["environment"]["IMPASTO_METRICS"].rpartition(":")[2]
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == [f"impasto:{port}"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    folder = re.search(r"IMPASTO_DATA_DIR=(\S+)", dockerfile)
    assert folder
    assert f"install --directory --owner=10001 --group=10001 --mode=0770 {folder[1]}" in dockerfile
    assert server["volumes"] == [f"jobs:{folder[1]}"]
    assert server["healthcheck"]["test"][-1] == f"127.0.0.1:{port}"
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (DEPLOY / volume.split(":")[0]).exists()


def test_kubernetes_files_fit_together() -> None:
    """Ports, probes, selectors and mounts name what there is; the policy lets callers and Prometheus in, and nobody else."""
    service, stateful, budget = documents("kubernetes/cpu/impasto.yaml")
    (policy,) = documents("kubernetes/cpu/networkpolicy.yaml")
    pod = stateful["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    served = {item["name"]: item["containerPort"] for item in container["ports"]}
    assert {item["name"]: item["port"] for item in service["spec"]["ports"]} == served
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz"), ("startupProbe", "/healthz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
    values = {item["name"]: item["value"] for item in container["env"]}
    assert values["IMPASTO_METRICS"].endswith(str(served["metrics"]))
    selector = service["spec"]["selector"]
    assert selector == stateful["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"] == selector
    assert policy["spec"]["podSelector"]["matchLabels"] == selector
    allowed = {port["port"]: rule["from"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert set(allowed) == set(served)
    assert all(allowed.values())  # an empty `from` lets everybody in
    mounts = {item["name"] for item in container["volumeMounts"]}
    claims = {item["metadata"]["name"] for item in stateful["spec"]["volumeClaimTemplates"]}
    assert mounts == claims | {item["name"] for item in pod["volumes"]}


def test_a_data_folder_has_one_server_in_every_deployment() -> None:
    """No file of deploy/ starts a second server behind one name, and the places where people decide say so."""
    stateful = documents("kubernetes/cpu/impasto.yaml")[1]
    assert stateful["spec"]["replicas"] == 1
    assert not list((DEPLOY / "kubernetes").rglob("*autoscal*"))
    for path in ("compose.yml", "compose.gpu.yml"):
        (compose,) = documents(path)
        server = compose["services"]["impasto"]
        assert "scale" not in server
        assert "replicas" not in server.get("deploy", {})
    for path in ("README.md", "docs/howto/operate.md", "deploy/kubernetes/cpu/impasto.yaml"):
        text = re.sub(r"[\s#]+", " ", (ROOT / path).read_text())
        assert re.search(r"one server owns one data folder|data folder belongs to one server", text, re.IGNORECASE), path


def test_deployments_set_what_the_server_knows() -> None:
    """A variable with a wrong name would be ignored."""
    from impasto_server.config import ServerConfig

    (compose,) = documents("compose.yml")
    (container,) = documents("kubernetes/cpu/impasto.yaml")[1]["spec"]["template"]["spec"]["containers"]
    unit = (DEPLOY / "systemd/impasto.service").read_text()
    names = {*compose["services"]["impasto"]["environment"], *(item["name"] for item in container["env"])}
    names |= set(re.findall(r"(IMPASTO_\w+)=", unit)) - {"IMPASTO_CACHE"}
    settings = {name.removeprefix("IMPASTO_").lower() for name in names if name.startswith("IMPASTO_")}
    assert {"listen", "metrics", "tokens", "data_dir"} <= settings <= set(ServerConfig.__dataclass_fields__)


def test_stop_times_agree_everywhere() -> None:
    """The allowance covers what the code may take; files and documents give grace time plus allowance exactly."""
    from impasto_server import app
    from impasto_server.config import STOP_ALLOWANCE_S, ServerConfig
    from impasto_server.jobs.shutdown import PARKING_S
    from impasto_server.observability.tracing import EXPORT_S

    taken = PARKING_S + app.LINGER_S + app.ENDING_S + app.STOP_GRACE_S + EXPORT_S
    assert taken + 10 <= STOP_ALLOWANCE_S  # 10 s for a slow disk
    stop_s = round(ServerConfig().grace_s) + STOP_ALLOWANCE_S
    (compose,) = documents("compose.yml")
    assert compose["services"]["impasto"]["stop_grace_period"] == f"{stop_s}s"
    pod = documents("kubernetes/cpu/impasto.yaml")[1]["spec"]["template"]["spec"]
    command, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert pod["terminationGracePeriodSeconds"] == int(seconds) + stop_s
    assert re.findall(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "systemd/impasto.service").read_text(), re.M) == [str(stop_s)]
    pattern = re.compile(r"(?:--stop-timeout|stop --time|stop_grace_period:?|TimeoutStopSec=?)[ `]*(\d+)|(\d+)\s+s\s+to\s+stop")
    for path in ("README.md", "Dockerfile", "docs/howto/operate.md", "docs/howto/docker.md"):
        text = (ROOT / path).read_text()
        found = {number for pair in pattern.findall(text) for number in pair if number}
        assert found == {str(stop_s)}, path
    assert f"`--grace-s` and {STOP_ALLOWANCE_S} s" in (ROOT / "docs/howto/operate.md").read_text()


@PROMTOOL
@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_takes_the_rules(command: tuple[str, ...]) -> None:
    """They parse, and each alert fires and stays silent as its test says."""
    done = subprocess.run(["promtool", *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@PROMTOOL
@PROMETHEUS
def test_a_real_prometheus_scrapes_a_real_server(tmp_path: Path, png: Callable[..., bytes]) -> None:
    """Its figures pass promtool's check, arrive, and give data to every panel of the dashboard, except a GPU's, after a job."""
    metrics_port, prometheus_port = free_port(), free_port()
    server = ServerProcess("--metrics", f"127.0.0.1:{metrics_port}")
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"]["scrape_interval"] = config["global"]["evaluation_interval"] = "1s"
    config["rule_files"] = [str(DEPLOY / "prometheus/alerts.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{metrics_port}"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    command.append(f"--web.listen-address=127.0.0.1:{prometheus_port}")
    prometheus = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{prometheus_port}/api/v1/{path}", timeout=60) as answer:
            return json.load(answer)["data"]

    def value(query: str) -> float | None:
        found = ask("query?" + urllib.parse.urlencode({"query": query}))["result"]
        return float(found[0]["value"][1]) if found else None

    try:
        with impasto.Client(server.address) as client:
            client.stylize(png(), png(seed=1), size_px=48, steps=4)
        text = urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=60).read()
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        found: float | None = None
        for _ in range(60):
            time.sleep(0.5)
            try:
                found = value('impasto_jobs_ended_total{state="succeeded", stop_reason="steps"}')
            except OSError:
                continue
            if found:
                break
        assert found == 1
        with impasto.Client(server.address) as client:  # counters that grow while they are scraped
            client.stylize(png(), png(seed=1), size_px=48, steps=4)
        board = flattened(json.loads((DEPLOY / "grafana/impasto.json").read_text())["panels"])
        folded = [panel for row in board if row.get("collapsed") for panel in row["panels"]]
        waiting = {panel["title"]: panel["targets"] for panel in board if "targets" in panel and panel not in folded}
        assert len(waiting) > 20
        for _ in range(60):
            for title, targets in list(waiting.items()):
                if any(value(target["expr"].replace("$instance", ".*")) is not None for target in targets):
                    del waiting[title]
            if not waiting:
                break
            time.sleep(0.5)
        assert list(waiting) == []
        assert value("impasto_worker_ready") == 1
        assert value('grpc_server_handled_total{grpc_method="Stylize", grpc_code="OK"}') == 2
        assert value("impasto_gpu_metrics_up") is not None
        assert (value("impasto_worker_resident_bytes") or 0) > 50e6
        assert (value("impasto_step_seconds_sum") or 0) > 0
        groups = ask("rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
        firing = [alert["labels"]["alertname"] for alert in ask("alerts")["alerts"] if alert["state"] == "firing"]
        assert firing == []
    finally:
        prometheus.terminate()
        prometheus.wait(20)
        assert server.stop() == 0
