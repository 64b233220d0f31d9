"""Run the dashboard's queries against a real Prometheus that scrapes a real server under load, and draw what they return.

Grafana itself cannot be had from PyPI, npm or Debian. This draws what its panels would show: docs/build/dashboard.html, and
dashboard.png where chromium is installed. It needs `prometheus`, and exits with 1 if a panel has no data. The GPU's
row is folded. Run by `make dashboard`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from dashboard import dashboard
from dashboard_drawing import Panel, Series, draw

import impasto

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs/build"
POINTS = 240
CHAOS = "cancel=8%,reattach=8%,duplicate=8%"
QUIET = ("Internal faults and blocked event loop in 5 minutes", "Worker restarts in an hour")
"""Panels that stay at zero while all is well."""


def main() -> int:
    """Run the load, draw, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=240, help="Length of the load.")
    seconds = parser.parse_args().seconds
    if not shutil.which("prometheus"):
        print("prometheus is not installed (Debian: apt-get install prometheus)", file=sys.stderr)
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (server, prometheus):
        began = time.time()
        load(server, seconds)
        panels = asked(prometheus, began, time.time())
    page = OUT / "dashboard.html"
    page.write_text(draw("impasto", panels))
    print(page)
    if browser := shutil.which("chromium"):
        picture = page.with_suffix(".png")
        height = max(panel.top + panel.height for panel in panels) * 30 + 120
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size=1500,{height}", f"--screenshot={picture}"]
        subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True, timeout=120)
        print(picture)
    empty = [panel.title for panel in panels if not panel.series and not panel.is_row]
    flat = [panel.title for panel in panels if panel.series and panel.is_flat and panel.title not in QUIET]
    filled = sum(bool(panel.series) for panel in panels)
    print(f"{filled} panels with data; without: {empty or 'none'}; always zero: {flat or 'none'}")
    return 1 if empty else 0


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[str, str]]:
    """Start a server and the Prometheus that scrapes it; return their addresses, and stop both at the end."""
    address, metrics, listen = (f"127.0.0.1:{free_port()}" for _ in range(3))
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "5s", "evaluation_interval": "5s"}
    config["rule_files"] = [str(ROOT / "deploy/prometheus/alerts.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [metrics]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    serve = [
        sys.executable,
        "-m",
        "impasto",
        "serve",
        "--listen",
        address,
        "--metrics",
        metrics,
        "--data-dir",
        str(folder / "jobs"),
    ]
    scrape = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'series'}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        subprocess.Popen([*serve, "--grace-s", "1", "--max-queued-jobs", "6"], **quiet) as server,  # type: ignore[call-overload]
        subprocess.Popen([*scrape, f"--web.listen-address={listen}"], **quiet) as prometheus,  # type: ignore[call-overload]
    ):
        try:
            wait_for(f"http://{metrics}/readyz")
            yield address, listen
        finally:
            server.terminate()
            prometheus.terminate()


def wait_for(address: str) -> None:
    """Wait until an address answers with 200, a minute at most."""
    for _ in range(240):
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.25)
    raise TimeoutError(f"{address} did not become ready")


def load(server: str, seconds: int) -> None:
    """Send `impasto load` with faults, and jobs that preempt, miss their time limits, or find the queue full."""
    shared = ["--size", "96", "--steps", "40", "--chaos", CHAOS, "--quiet", "--server", server]
    command = [sys.executable, "-m", "impasto", "load", "--concurrency", "4", "--duration", str(seconds), *shared]
    content, style = (ROOT / "samples/swirls.jpg").read_bytes(), (ROOT / "samples/mosaic.jpg").read_bytes()
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sender,
        impasto.Client(server) as client,
    ):
        while sender.poll() is None:
            with contextlib.suppress(impasto.ImpastoError):
                client.submit(content, style, size_px=128, steps=60, priority=5)
                client.submit(content, style, size_px=256, steps=400, time_limit_s=3, on_deadline="return_best")
                for _ in range(4):
                    client.submit(content, style, size_px=256, steps=400, time_limit_s=2)
            time.sleep(15)


def asked(prometheus: str, began: float, ended: float) -> list[Panel]:
    """Return the panels, except those of folded rows, with what Prometheus returns for their queries."""
    found: list[Panel] = []
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        series = [
            Series(
                legend(target["legendFormat"], result["metric"]), [(float(at), float(value)) for at, value in result["values"]]
            )
            for target in panel.get("targets", ())
            for result in ranged(prometheus, target["expr"], began, ended)
        ]
        look = panel.get("fieldConfig", {}).get("defaults", {})
        logarithmic = look.get("custom", {}).get("scaleDistribution", {}).get("type") == "log"
        unit = look.get("unit", "short")
        found.append(Panel(panel["title"], unit, place["x"], place["y"], place["w"], place["h"], series, logarithmic))
    return found


def ranged(prometheus: str, expression: str, began: float, ended: float) -> list[dict[str, Any]]:
    """Return the series of a query over the time of the load, with the dashboard's variables filled in as Grafana does."""
    query = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
    step = max(1.0, (ended - began) / POINTS)
    asked_for = urllib.parse.urlencode({"query": query, "start": began, "end": ended, "step": step})
    with urllib.request.urlopen(f"http://{prometheus}/api/v1/query_range?{asked_for}", timeout=20) as answer:
        return list(json.load(answer)["data"]["result"])


def legend(text: str, labels: dict[str, str]) -> str:
    """Return the name of a series, with its labels filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), text)


if __name__ == "__main__":
    sys.exit(main())
