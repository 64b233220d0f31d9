"""The actors of one server in Ray: created, adopted, followed and ended. Runs in the child process only."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

from impasto_server.cluster.launcher import Node
from impasto_server.cluster.ray_actor import WorkerActor
from impasto_server.cluster.ray_messages import Place, Settings

logger = logging.getLogger(__name__)
END_MARGIN_S = 3.0
"""Seconds beyond the grace time after which an actor that does not answer is killed through Ray."""
AVOID_S = 120.0
"""Seconds for which such an actor's host is avoided, if others have a free device; Ray takes up to 64 s to call it dead."""
UNAVAILABLE_S, ASK_AGAIN_S = 5.0, 1.0
"""An actor that Ray cannot reach is asked again every second, and counts as dead after five; its worker is then ended."""
NODE_LABEL = "ray.io/node-id"


@dataclass
class _Entry:
    actor: Any
    node: str | None = None
    kill_at: float | None = None
    """When an actor that is ending is killed through Ray."""
    unavailable: float | None = None
    """Since when Ray cannot reach it."""
    ask_at: float | None = None
    """When it is asked again."""


class Actors:
    """All methods are for one thread; the callbacks run there too."""

    def __init__(
        self,
        settings: Settings,
        on_placed: Callable[[str], None],
        on_died: Callable[[str, str], None],
        on_ended: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._on_placed, self._on_died, self._on_ended = on_placed, on_died, on_ended
        self._entries: dict[str, _Entry] = {}
        self._avoided: dict[str, float] = {}
        self._found: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        """What Ray's threads found out."""
        self._earlier = set(ray.util.list_named_actors())

    def place(self, place: Place) -> None:
        """Create or adopt an actor."""
        if place.key in self._entries:
            return
        try:
            if place.key in self._earlier:
                entry = _Entry(ray.get_actor(place.key))
            elif place.known:
                self._on_died(place.key, "was lost while Ray's driver was down")
                return
            else:
                entry = _Entry(self._create(place))
        except (RayError, ValueError, RuntimeError) as error:
            self._on_died(place.key, f"could not be placed: {_first_line(error)}")
            return
        self._entries[place.key] = entry
        self._follow(place.key, entry)
        self._on_placed(place.key)

    def end(self, key: str) -> None:
        """Begin to end an actor."""
        entry = self._entries.get(key)
        if entry is None:
            self._on_ended(key)
        elif entry.kill_at is None:
            self._poll()
            entry.kill_at = time.monotonic() + self._settings.grace_s + END_MARGIN_S
            if entry.node is None:  # not started yet, or just now: then the guard ends the worker
                self._kill(key, entry)
            else:
                entry.actor.end.remote()

    def end_others(self) -> None:
        """End the actors that earlier drivers of this or another server process left."""
        for name in self._earlier - self._entries.keys():
            with contextlib.suppress(RayError, ValueError):
                ray.kill(ray.get_actor(name))
        self._earlier = set()

    def tick(self) -> None:
        """Report what happened, and kill what did not end in time."""
        self._poll()
        now = time.monotonic()
        self._avoided = {node: until for node, until in self._avoided.items() if until > now}
        for key, entry in list(self._entries.items()):
            if entry.ask_at is not None and entry.ask_at < now:
                entry.ask_at = None
                self._follow(key, entry)
            if entry.kill_at is not None and entry.kill_at < now:
                if entry.node is not None:
                    self._avoided[entry.node] = now + AVOID_S
                self._kill(key, entry)

    def _create(self, place: Place) -> Any:
        resource = {"num_gpus": 1, "num_cpus": 0} if self._settings.resource == "GPU" else {"num_cpus": 1}
        # A host that has not yet acknowledged an end may be frozen: take another one, if there is one.
        ending = {entry.node for entry in self._entries.values() if entry.kill_at is not None and entry.node}
        avoided = sorted(ending | self._avoided.keys())
        strategy = NodeLabelSchedulingStrategy(hard={}, soft={NODE_LABEL: NotIn(*avoided)}) if avoided else None
        options = {"scheduling_strategy": strategy} if strategy else {}
        made = ray.remote(WorkerActor).options(
            name=place.key,
            namespace=self._settings.namespace,
            lifetime="detached",
            max_restarts=0,
            max_task_retries=0,
            **resource,
            **options,
        )
        return made.remote(self._settings.command, place.name, self._settings.grace_s)

    def _follow(self, key: str, entry: _Entry) -> None:
        def located(future: Future[str]) -> None:
            if future.exception() is None:
                self._found.put(lambda: self._reached(entry, future.result()))

        def ended(future: Future[str]) -> None:
            error = future.exception()
            if isinstance(error, ActorUnavailableError):
                self._found.put(lambda: self._unreachable(key, entry, error))
                return
            cause = future.result() if error is None else _why(error)
            self._found.put(lambda: self._gone(key, entry, cause))

        entry.actor.where.remote().future().add_done_callback(located)
        entry.actor.wait.remote().future().add_done_callback(ended)

    def _poll(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._found.get_nowait()()

    def _reached(self, entry: _Entry, node: str) -> None:
        entry.node, entry.unavailable = node, None

    def _unreachable(self, key: str, entry: _Entry, error: Exception) -> None:
        now = time.monotonic()
        if entry.unavailable is None:
            entry.unavailable = now
        if now - entry.unavailable >= UNAVAILABLE_S:
            self._gone(key, entry, _why(error))
        else:
            entry.ask_at = now + ASK_AGAIN_S

    def _gone(self, key: str, entry: _Entry, cause: str) -> None:
        if self._entries.get(key) is not entry:
            return
        if entry.kill_at is None:
            self._on_died(key, cause)
        self._kill(key, entry)

    def _kill(self, key: str, entry: _Entry) -> None:
        """Let Ray end the actor's process, which gives its device back, and forget it."""
        del self._entries[key]
        with contextlib.suppress(RayError, ValueError):
            ray.kill(entry.actor)
        if entry.kill_at is not None:
            self._on_ended(key)


def _why(error: BaseException) -> str:
    if isinstance(error, ActorUnavailableError):
        return f"its actor was out of reach for {UNAVAILABLE_S:.0f} s"
    return f"its actor died: {_first_line(error)}" if isinstance(error, RayActorError) else _first_line(error)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error that says something; Ray's begin with a frame or an id."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "cause" in line.lower() or "error" in line.lower() or "because" in line.lower()]
    return (told or lines or [type(error).__name__])[0].partition(" Some common causes")[0][:300]


def list_nodes(resource: str) -> list[Node]:
    """Return the hosts that offer the resource, alive or not."""
    free = ray._private.state.available_resources_per_node()  # no public way without the dashboard
    nodes = []
    for node in ray.nodes():
        total = int(node["Resources"].get(resource, 0))
        alive, name = bool(node["Alive"]), str(node["NodeID"])
        if total or not alive:
            left = int(free.get(name, {}).get(resource, 0)) if alive else 0
            host = str(node["NodeManagerHostname"] or node["NodeManagerAddress"])
            nodes.append(Node(name, host, total, left, alive))
    return nodes


def request_devices(resource: str, devices: int) -> None:
    """Ask the autoscaler for this many devices in all; without one nothing happens."""
    request_resources(bundles=[{resource: 1}] * devices)
