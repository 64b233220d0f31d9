"""Write deploy/grafana/impasto.json, the dashboard. Run by `make generate`; a test checks that the file is up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "deploy/grafana/impasto.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 8, 7


def p(quantile: float, name: str, by: str = "") -> str:
    """Return the query for a quantile of a histogram over the last five minutes."""
    labels = f"le, {by}" if by else "le"
    return f'histogram_quantile({quantile}, sum by ({labels}) (rate({name}_bucket{{instance=~"$instance"}}[5m])))'


def rate(name: str, by: str) -> str:
    """Return the query for a counter's rate, summed by labels."""
    return f'sum by ({by}) (rate({name}{{instance=~"$instance"}}[5m]))'


def now(name: str) -> str:
    """Return the query for a gauge."""
    return f'{name}{{instance=~"$instance"}}'


ROWS: list[tuple[str, list[tuple[str, str, list[tuple[str, str]]]]]] = [
    (
        "Service level",
        [
            (
                "Job success ratio",
                "percentunit",
                [
                    (
                        'sum(rate(impasto_jobs_ended_total{instance=~"$instance", state="succeeded"}[5m]))'
                        ' / sum(rate(impasto_jobs_ended_total{instance=~"$instance", state=~"succeeded|failed"}[5m]))',
                        "succeeded",
                    )
                ],
            ),
            ("Time limits reached", "short", [(rate("impasto_deadline_misses_total", "outcome"), "{{outcome}}")]),
            (
                "Jobs ended per second",
                "short",
                [(rate("impasto_jobs_ended_total", "state, stop_reason"), "{{state}} {{stop_reason}}")],
            ),
        ],
    ),
    (
        "Latency",
        [
            (
                "Time to first step",
                "s",
                [(p(q, "impasto_time_to_first_step_seconds"), f"p{q:g}") for q in (0.5, 0.95, 0.99)],
            ),
            ("Time to picture", "s", [(p(q, "impasto_job_seconds"), f"p{q:g}") for q in (0.5, 0.95, 0.99)]),
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
                [(rate("grpc_server_handled_total", "grpc_method, grpc_code"), "{{grpc_method}} {{grpc_code}}")],
            ),
            ("Call duration (p99)", "s", [(p(0.99, "grpc_server_handling_seconds", "grpc_method"), "{{grpc_method}}")]),
            ("Jobs rejected", "short", [(rate("impasto_jobs_rejected_total", "reason"), "{{reason}}")]),
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
            ("Jobs per step (batch occupancy)", "short", [(p(0.5, "impasto_batch_occupancy", "device"), "median {{device}}")]),
            (
                "Preemptions and resumes",
                "short",
                [
                    (rate("impasto_preemptions_total", "instance"), "preempted"),
                    (rate("impasto_resumes_total", "instance"), "resumed"),
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
                "Internal faults and blocked event loop",
                "short",
                [
                    (f"sum by (kind) (increase({now('impasto_faults_total')}[5m]))", "{{kind}}"),
                    (f"sum(increase({now('impasto_event_loop_blocked_total')}[5m]))", "blocked for over 100 ms"),
                ],
            ),
            (
                "CPU",
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
            ("Worker restarts", "short", [(f"increase({now('impasto_worker_restarts_total')}[1h])", "{{device}}")]),
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


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, inside in ROWS:
        panels.append({"type": "row", "title": row, "gridPos": {"h": 1, "w": 24, "x": 0, "y": top}, "id": len(panels) + 1})
        top += 1
        for index, (title, unit, queries) in enumerate(inside):
            place = {"h": HEIGHT, "w": WIDTH, "x": index % 3 * WIDTH, "y": top + index // 3 * HEIGHT}
            targets = [
                {"refId": chr(65 + number), "expr": query, "legendFormat": legend, "datasource": SOURCE}
                for number, (query, legend) in enumerate(queries)
            ]
            panels.append(
                {
                    "type": "timeseries",
                    "id": len(panels) + 1,
                    "title": title,
                    "datasource": SOURCE,
                    "gridPos": place,
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "targets": targets,
                }
            )
        top += -(-len(inside) // 3) * HEIGHT
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
