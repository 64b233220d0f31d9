"""Write deploy/grafana/impasto.json, the dashboard. Run by `make generate`; a test checks that the file is up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "deploy/grafana/impasto.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
HEIGHT = 7


def p(quantile: float, name: str, by: str = "") -> str:
    """Return the query for a quantile of a histogram over the last five minutes."""
    labels = f"le, {by}" if by else "le"
    return f'histogram_quantile({quantile}, sum by ({labels}) (rate({name}_bucket{{instance=~"$instance"}}[5m])))'


def rate(name: str, by: str) -> str:
    """Return the query for a counter's rate, summed by labels."""
    return f'sum by ({by}) (rate({name}{{instance=~"$instance"}}[5m]))'


def grown(name: str, by: str) -> str:
    """Return the query for what a counter, summed by labels, gained within five minutes."""
    return f'sum by ({by}) (increase({name}{{instance=~"$instance"}}[5m]))'


def now(name: str) -> str:
    """Return the query for a gauge."""
    return f'{name}{{instance=~"$instance"}}'


ROWS: list[tuple[str, list[tuple[str, str, list[tuple[str, str]]]]]] = [
    (
        "Service level",
        [
            (
                "Jobs that succeeded, time limits aside",  # the objective of the alerts
                "percentunit",
                [
                    (
                        'sum(rate(impasto_jobs_ended_total{instance=~"$instance", state="succeeded", stop_reason!="deadline"}[5m]))'
                        ' / sum(rate(impasto_jobs_ended_total{instance=~"$instance", state=~"succeeded|failed", stop_reason!="deadline"}[5m]))',
                        "succeeded",
                    )
                ],
            ),
            ("Time limits reached in 5 minutes", "short", [(grown("impasto_deadline_misses_total", "outcome"), "{{outcome}}")]),
            (
                "Jobs ended per minute",
                "short",
                [(f"60 * {rate('impasto_jobs_ended_total', 'state, stop_reason')} > 0", "{{state}} ({{stop_reason}})")],
            ),
        ],
    ),
    (
        "Latency",
        [
            (
                "Time to first step",
                "s",
                [(p(q, "impasto_time_to_first_step_seconds"), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)],
            ),
            ("Time to picture", "s", [(p(q, "impasto_job_seconds"), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)]),
            (
                "Time by phase (p95)",
                "s",
                [(p(0.95, f"impasto_{part}_seconds"), part) for part in ("queue", "optimize", "encode")],
            ),
            ("Step duration", "s", [(p(0.95, "impasto_step_seconds", "device"), "p95 {{device}}")]),
        ],
    ),
    (
        "Traffic",
        [
            (
                "Calls per second",
                "reqps",
                [(f"{rate('grpc_server_handled_total', 'grpc_method, grpc_code')} > 0", "{{grpc_method}} {{grpc_code}}")],
            ),
            (
                "Call duration (p99)",
                "s",
                [(f"{p(0.99, 'grpc_server_handling_seconds', 'grpc_method')} > 0", "{{grpc_method}}")],
            ),
            ("Jobs rejected in 5 minutes", "short", [(grown("impasto_jobs_rejected_total", "reason"), "{{reason}}")]),
            ("Progress streams", "short", [(now("impasto_progress_streams"), "{{instance}}")]),
        ],
    ),
    (
        "Queue and batches",
        [
            (
                "Jobs",
                "short",
                [(now("impasto_queue_depth"), "queued"), (now("impasto_jobs_running"), "running on {{device}}")],
            ),
            (
                "Longest wait and queued work",
                "s",
                [(now("impasto_queue_age_seconds"), "age"), (now("impasto_queue_work_seconds"), "work")],
            ),
            (
                "Jobs per step (batch occupancy)",
                "short",
                [
                    (
                        f"{rate('impasto_batch_occupancy_sum', 'device')} / {rate('impasto_batch_occupancy_count', 'device')}",
                        "mean {{device}}",
                    )
                ],
            ),
            (
                "Preemptions and resumes in 5 minutes",
                "short",
                [
                    (grown("impasto_preemptions_total", "instance"), "preempted"),
                    (grown("impasto_resumes_total", "instance"), "resumed"),
                ],
            ),
        ],
    ),
    (
        "Painting",
        [
            ("Evaluations per second", "short", [(rate("impasto_evaluations_total", "device"), "{{device}}")]),
            ("Final loss", "short", [(p(0.5, "impasto_final_loss"), "median")]),
            ("Style cache", "short", [(rate("impasto_style_cache_total", "result"), "{{result}}")]),
            ("Longest time without a step", "s", [(now("impasto_running_without_step_seconds"), "{{instance}}")]),
        ],
    ),
    (
        "Storage",
        [
            ("Oldest checkpoint of a running job", "s", [(now("impasto_checkpoint_age_seconds"), "{{instance}}")]),
            ("Checkpoint writes", "Bps", [(rate("impasto_checkpoint_bytes_total", "instance"), "{{instance}}")]),
            ("Disk", "bytes", [(now("impasto_storage_bytes"), "used"), (now("impasto_storage_limit_bytes"), "limit")]),
        ],
    ),
    (
        "Machine",
        [
            ("Event loop lag (p99)", "s", [(p(0.99, "impasto_event_loop_lag_seconds"), "lag")]),
            (
                "Internal faults and blocked event loop in 5 minutes",
                "short",
                [
                    (f"sum by (kind) (increase({now('impasto_faults_total')}[5m]))", "{{kind}}"),
                    (f"sum(increase({now('impasto_event_loop_blocked_total')}[5m]))", "blocked for over 100 ms"),
                ],
            ),
            (
                "CPU cores in use",
                "short",
                [
                    (rate("process_cpu_seconds_total", "instance"), "server"),
                    (f"rate({now('impasto_worker_cpu_seconds_total')}[5m])", "worker {{device}}"),
                ],
            ),
            (
                "Memory",
                "bytes",
                [(now("process_resident_memory_bytes"), "server"), (now("impasto_worker_resident_bytes"), "worker {{device}}")],
            ),
            ("Open files", "short", [(now("process_open_fds"), "{{instance}}")]),
            ("Webhooks", "short", [(rate("impasto_webhooks_total", "outcome"), "{{outcome}}")]),
            ("Oldest unconfirmed webhook", "s", [(now("impasto_webhook_oldest_seconds"), "{{instance}}")]),
            ("Worker restarts in an hour", "short", [(f"increase({now('impasto_worker_restarts_total')}[1h])", "{{device}}")]),
        ],
    ),
    (
        "Workers on other machines",
        [
            ("Time since a worker was heard", "s", [(now("impasto_worker_heartbeat_age_seconds"), "{{device}} on {{host}}")]),
            (
                "Lost and fenced in an hour",
                "short",
                [
                    (f"increase({now('impasto_remote_workers_lost_total')}[1h])", "lost, {{host}}"),
                    (f"increase({now('impasto_remote_workers_fenced_total')}[1h])", "fenced"),
                ],
            ),
            (
                "Checkpoints over the stream",
                "Bps",
                [(rate("impasto_checkpoint_stream_bytes_total", "direction"), "{{direction}}")],
            ),
        ],
    ),
    (
        "GPU",
        [
            ("Utilization", "percentunit", [(now("impasto_gpu_utilization_ratio"), "{{gpu}}")]),
            (
                "Memory",
                "bytes",
                [
                    (now("impasto_gpu_memory_used_bytes"), "used {{gpu}}"),
                    (now("impasto_gpu_memory_total_bytes"), "total {{gpu}}"),
                ],
            ),
            ("Power", "watt", [(now("impasto_gpu_power_watts"), "{{gpu}}")]),
            ("Temperature", "celsius", [(now("impasto_gpu_temperature_celsius"), "{{gpu}}")]),
            ("Clock", "hertz", [(now("impasto_gpu_sm_clock_hertz"), "{{gpu}}")]),
            (
                "Throttling and memory errors",
                "short",
                [(now("impasto_gpu_throttled"), "throttled {{gpu}}"), (now("impasto_gpu_ecc_errors"), "errors {{gpu}}")],
            ),
        ],
    ),
]
"""Rows: title and panels. Panels: title, unit, and queries with their legends."""


COLLAPSED = ("Workers on other machines", "GPU")
"""Rows that start folded: many servers have no data for them."""
LOGARITHMIC = ("Call duration (p99)",)
"""Panels with values of several magnitudes: Progress lasts as long as a job, GetJob a millisecond."""


def heading(title: str, number: int, top: int) -> dict[str, Any]:
    """Return the heading of a row. The panels of a collapsed row are inside it."""
    place = {"h": 1, "w": 24, "x": 0, "y": top}
    return {
        "type": "row",
        "title": title,
        "gridPos": place,
        "id": number,
        "collapsed": title in COLLAPSED,
        "panels": [],
    }


def chart(title: str, unit: str, targets: list[dict[str, Any]], place: dict[str, int], number: int) -> dict[str, Any]:
    """Return a panel of lines, with the last values in its legend."""
    limits = {"min": 0, "max": 1} if unit == "percentunit" else {} if title in LOGARITHMIC else {"min": 0}
    scale = {"type": "log", "log": 10} if title in LOGARITHMIC else {"type": "linear"}
    style = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "scaleDistribution": scale}
    return {
        "type": "timeseries",
        "id": number,
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, **limits, "custom": style}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets,
    }


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = number_of_panels = 0
    for row, inside in ROWS:
        number_of_panels += 1
        panels.append(heading(row, number_of_panels, top))
        home = panels[-1]["panels"] if row in COLLAPSED else panels
        top += 1
        across = 4 if len(inside) == 4 else 3
        width = 24 // across
        for index, (title, unit, queries) in enumerate(inside):
            place = {"h": HEIGHT, "w": width, "x": index % across * width, "y": top + index // across * HEIGHT}
            targets = [
                {"refId": chr(65 + number), "expr": query, "legendFormat": legend, "datasource": SOURCE}
                for number, (query, legend) in enumerate(queries)
            ]
            number_of_panels += 1
            home.append(chart(title, unit, targets, place, number_of_panels))
        top += 0 if row in COLLAPSED else -(-len(inside) // across) * HEIGHT
    variables = [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"},
        {
            "name": "instance",
            "type": "query",
            "datasource": SOURCE,
            "query": "label_values(impasto_build_info, instance)",
            "multi": True,
            "includeAll": True,
            "current": {"text": "All", "value": "$__all"},
            "refresh": 2,
        },
    ]
    return {
        "title": "impasto",
        "uid": "impasto",
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }


def page() -> str:
    """Return the contents of the file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page())
    print(TARGET)
