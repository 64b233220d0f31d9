"""The actor that Ray places on a host: it runs one worker under a guard, and takes it along when it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from concurrent.futures import Future

from impasto_server.cluster.guard import cause_of, guarded
from impasto_server.cluster.launcher import WorkerCommand

PARENT_CHECK_S = 0.5
"""Seconds between looks at whether this host's raylet lives."""


class WorkerActor:
    """One worker. However this process ends, the guard's pipe closes, and the worker ends with it.

    If the raylet of this host dies, Ray counts the host as lost and may give its devices to others, while the actor's process
    may live on (ray#20706): so the actor ends itself.

    Args:
        command: How the worker is started.
        name: Its name.
        grace_s: Seconds between SIGTERM and SIGKILL at an end.
    """

    def __init__(self, command: WorkerCommand, name: str, grace_s: float) -> None:
        self._guard = subprocess.Popen(  # noqa: S603
            guarded(command.line(name), grace_s), stdin=subprocess.PIPE, start_new_session=True
        )
        self._cause: Future[str] = Future()
        threading.Thread(target=lambda: self._cause.set_result(cause_of(self._guard.wait())), daemon=True).start()
        threading.Thread(target=self._follow_raylet, args=(os.getppid(),), daemon=True).start()

    async def where(self) -> str:
        """Return the name of the node; it answers as soon as the worker was started."""
        import ray  # noqa: PLC0415 - only in Ray's processes

        return str(ray.get_runtime_context().get_node_id())

    async def wait(self) -> str:
        """Return why the worker ended, when it has. Each driver that adopts the actor calls it once more."""
        return await asyncio.shield(asyncio.wrap_future(self._cause))

    async def end(self) -> None:
        """End the worker; :meth:`wait` returns when it has ended."""
        self._close()

    def _close(self) -> None:
        if self._guard.stdin is not None:
            self._guard.stdin.close()

    def _follow_raylet(self, raylet: int) -> None:
        while os.getppid() == raylet:
            time.sleep(PARENT_CHECK_S)
        self._close()
        self._cause.result()
        os._exit(1)
