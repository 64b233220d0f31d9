"""The service with a worker that counts, in a process of its own that starts at once and can be killed.

`python -m tests.integration.contract.fake_server '{"data_dir": "..."}' STEP_S` prints its address.
"""

from __future__ import annotations

import asyncio
import json
import sys

from impasto_server.app import serving
from impasto_server.config import ServerConfig
from tests.unit.server.fakes import FakeWorker


async def main() -> None:
    settings = {"listen": "127.0.0.1:0", "grace_s": 0.2, **json.loads(sys.argv[1])}
    async with serving(ServerConfig(**settings), [FakeWorker(step_s=float(sys.argv[2]))]) as running:
        await running.jobs.pool.ready.wait()
        print(running.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
