"""Builds the cluster's manager from the settings."""

from __future__ import annotations

import os
import socket

from impasto_server.cluster.launcher import Launcher, WorkerCommand
from impasto_server.cluster.local import LocalLauncher
from impasto_server.cluster.manager import ClusterManager, limits_of
from impasto_server.cluster.ray_launcher import RayLauncher
from impasto_server.cluster.scaling import Load
from impasto_server.config import ServerConfig
from impasto_server.jobs.assembly import Assembly

LOCAL = "local"


def manager(config: ServerConfig, jobs: Assembly, address: str) -> ClusterManager | None:
    """Return the manager of the workers that the server starts by itself; None if it starts none.

    Args:
        config: The settings.
        jobs: The pool, and what there is to do.
        address: HOST:PORT that workers join at.

    Raises:
        ValueError: If a setting is invalid; the message names it.
    """
    if not config.cluster:
        return None
    limits = limits_of(config.workers)
    local = config.cluster == LOCAL
    device = "cuda" if config.worker_device == "auto" and not local else config.worker_device
    command = WorkerCommand(
        config.worker_address or address,
        config.worker_token_file,
        device,
        ("--weights", config.weights),
    )
    launcher: Launcher
    if local:
        launcher = LocalLauncher(command, min(limits.most, os.cpu_count() or 1))
    else:
        resource = "CPU" if config.worker_device == "cpu" else "GPU"
        # Another server's workers would be ended: 0.0.0.0:50051 alone is the address of many.
        namespace = f"impasto-{socket.gethostname()}-{config.listen}"
        launcher = RayLauncher(config.cluster, command, namespace=namespace, resource=resource)
    slots = config.max_running_jobs or (1 if config.worker_device == "cpu" else 16)

    def load() -> Load:
        dispatcher = jobs.dispatcher
        return Load(dispatcher.queued, jobs.admission.queued_work_s(), dispatcher.running, slots)

    return ClusterManager(launcher, limits, jobs.pool, load, lambda: jobs.dispatcher.running_on)
