"""The page and the HTTP API beside the gRPC port (``--web``): a child process, so that it cannot take the server down.

It is ``impasto web``, connected by a private Unix socket: no certificate has to fit, and whoever calls it is identified by
the token that it passes on. If it ends, it is started again. It ends when its stdin does: because this process is lost, or
because the server stops and its calls have ended. Signals do not end it: terminals send them to it too, before that.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import sys
from collections.abc import AsyncIterator

from impasto_server.config import ServerConfig
from impasto_server.scratch import scratch_folder
from impasto_server.stops import shielded

logger = logging.getLogger(__name__)

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0
"""Time before a page that ended is started again; doubled each time, and reset when one has lived for a while."""
STEADY_S = 60.0
GRACE_S, STOPPING_S = 3, 8.0
"""Time for answers of the page once all calls have ended, and time that it has to stop before it is killed."""
_LIBRARIES = ("fastapi", "uvicorn", "python_multipart")


def missing() -> str:
    """Return the name of a library that the page needs and that is not installed; empty if there is none."""
    return next((name for name in _LIBRARIES if importlib.util.find_spec(name) is None), "")


class Web:
    """Runs the page until it is stopped.

    Args:
        config: Where it listens.

    Attributes:
        target: Address of the Unix socket on which the gRPC server must listen for it.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._listen = config.web
        self._closing = contextlib.ExitStack()
        folder = self._closing.enter_context(scratch_folder("impasto-web-"))  # only this user may enter it
        self.target = f"unix:{folder}/grpc"

    def close(self) -> None:
        """Remove the socket's folder."""
        self._closing.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve until the block ends."""
        running = asyncio.create_task(self._run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _run(self) -> None:
        """Start the page, and again whenever it ends."""
        delay_s = FIRST_DELAY_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                code = await self._run_once()
            except OSError as error:
                code = -1
                logger.warning("the page cannot be started: %s", error.strerror)
            delay_s = FIRST_DELAY_S if loop.time() - began > STEADY_S else min(2 * delay_s, LONGEST_DELAY_S)
            logger.warning("the page ended with exit code %d; it is started again in %.1f s", code, delay_s)
            await asyncio.sleep(delay_s)

    async def _run_once(self) -> int:
        """Run the page to its end; return its exit code."""
        command = ("-m", "impasto", "web", "--listen", self._listen, "--server", self.target, "--grace-s", str(GRACE_S))
        with shielded():
            child = await asyncio.create_subprocess_exec(sys.executable, *command, "--until-eof", stdin=asyncio.subprocess.PIPE)
        try:
            return await child.wait()
        finally:
            if child.returncode is None:
                assert child.stdin is not None  # noqa: S101 - see above
                child.stdin.close()
                try:
                    await asyncio.wait_for(child.wait(), STOPPING_S)
                except TimeoutError:
                    child.kill()
                    await child.wait()
