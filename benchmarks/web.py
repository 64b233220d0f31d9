"""The HTTP gateway and the page: idle event streams, refused bodies, first paint. Run by `make bench-web`.

The streams are held open by a process of their own, so that only the gateway and the server are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import io
import itertools
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from engine import about
from PIL import Image

import impasto

ROOT = Path(__file__).parents[1]
CLI = [sys.executable, "-c", "from impasto.cli import main; main()"]
CALLS, PAINTS, OPENING, ROUNDS = 500, 11, 100, 3
BODY_MIB = 200
HEAD = b'--x\r\nContent-Disposition: form-data; name="content"; filename="a.png"\r\n\r\n'


@contextlib.contextmanager
def serving() -> Iterator[tuple[psutil.Process, str, str]]:
    """Run a server with its page; yield the gateway's process, the gRPC address and the page's."""
    listen = ("--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--device", "cpu", "--weights", "builtin")
    command = [*CLI, "serve", *listen, "--data-dir", ":memory:", "--max-running-jobs", "1", "--max-queued-jobs", "1000"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    found: dict[str, str] = {}
    for line in server.stderr or ():
        for name, pattern in (("grpc", r"impasto is serving on (\S+)"), ("page", r"impasto page at (\S+)")):
            if match := re.search(pattern, line):
                found[name] = match[1]
        if len(found) == 2:
            break
    try:
        children = psutil.Process(server.pid).children()
        yield next(child for child in children if "--until-eof" in child.cmdline()), found["grpc"], found["page"]
    finally:
        for _ in range(2):
            server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


async def hold(page: str, job_ids: list[str], count: int) -> None:
    """Open event streams, say when all have their snapshot, and read them until killed."""
    address = urlsplit(page)
    slots, open_now, done = asyncio.Semaphore(OPENING), 0, asyncio.Event()

    async def one(number: int) -> None:
        nonlocal open_now
        async with slots:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            path = f"/v1/jobs/{job_ids[number % len(job_ids)]}/events"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            await reader.readuntil(b"event: snapshot")
            open_now += 1
            if open_now == count:
                done.set()
        while await reader.read(1 << 16):
            pass

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    await done.wait()
    print("watching", flush=True)
    await asyncio.gather(*tasks)


def latencies(call: Callable[[], object]) -> dict[str, float]:
    """Return p50, p99 and the maximum of consecutive calls, in milliseconds."""
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.01)
    cuts = statistics.quantiles(took, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "max": max(took)}


def health(page: str, grpc_address: str) -> dict[str, Any]:
    """Return latencies of the gateway's own health, of the server's through it, and of the server's over gRPC."""
    connection = http.client.HTTPConnection(urlsplit(page).netloc)

    def ask(path: str) -> None:
        connection.request("GET", path)
        connection.getresponse().read()

    with impasto.Client(grpc_address) as client:
        return {
            "healthz": latencies(lambda: ask("/healthz")),
            "readyz": latencies(lambda: ask("/readyz")),
            "grpc": latencies(client.health),
        }


def compared(page: str, grpc_address: str, gateway: psutil.Process, job_ids: list[str], streams: int) -> dict[str, Any]:
    """Return the latencies without streams, then with them, and what they cost."""
    alone, before = health(page, grpc_address), gateway.memory_info().rss
    command = [sys.executable, __file__, "--hold", page, str(streams), "--", *job_ids]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout
        assert watcher.stdout.readline() == "watching\n"
        time.sleep(10)
        began, busy = time.monotonic(), sum(gateway.cpu_times()[:2])
        crowded, after = health(page, grpc_address), gateway.memory_info().rss
        share = (sum(gateway.cpu_times()[:2]) - busy) / (time.monotonic() - began)
    finally:
        watcher.kill()
        watcher.wait()
    load = [round(item, 1) for item in os.getloadavg()]
    cost = {"gateway_cpu": share, "gateway_mib": [before / 2**20, after / 2**20], "load_of_the_machine": load}
    return {"alone": alone, "crowded": crowded, **cost}


def refuse(page: str, gateway: psutil.Process) -> dict[str, Any]:
    """Send a body of 200 MiB, declared and not; return the codes and the growth of the gateway's memory."""
    before, found = gateway.memory_info().rss, {}
    for name, headers in (("declared", {"Content-Length": str(BODY_MIB << 20)}), ("chunked", {"Transfer-Encoding": "chunked"})):
        connection = http.client.HTTPConnection(urlsplit(page).netloc)
        body = itertools.chain([HEAD], (bytes(1 << 20) for _ in range(BODY_MIB - 1)), [bytes((1 << 20) - len(HEAD))])
        kind = {"Content-Type": "multipart/form-data; boundary=x", **headers}
        most = before
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was refused before all was sent
            connection.request("POST", "/v1/jobs", body=body, headers=kind, encode_chunked="Transfer-Encoding" in headers)
        most = max(most, gateway.memory_info().rss)
        found[name] = {"code": connection.getresponse().status, "growth_mib": (most - before) / 2**20}
        connection.close()
    return found


def first_paint(page: str) -> dict[str, Any] | None:
    """Return the time to the first paint, and the bytes before pictures; None without a browser."""
    sys.path.insert(0, str(ROOT))
    from tests.browser.driver import CHROMEDRIVER, browser  # noqa: PLC0415 - selenium may be missing

    if not CHROMEDRIVER:
        return None
    script = """
    const paint = performance.getEntriesByName('first-contentful-paint')[0];
    const files = performance.getEntriesByType('resource').filter(e => !/samples|preview|\\/v1\\//.test(e.name));
    const page = performance.getEntriesByType('navigation')[0];
    const bytes = files.reduce((sum, e) => sum + e.encodedBodySize, page.encodedBodySize);
    return [paint ? paint.startTime : 0, bytes, files.length + 1];
    """
    times, plain, size, files = [], [], 0, 0
    for _ in range(PAINTS):  # a new browser each time: nothing is cached
        with browser(page) as opened:
            opened.driver.get(f"{page}healthz")  # one line of text: what the browser itself takes
            plain.append(opened.driver.execute_script(script)[0])
        with browser(page) as opened:
            opened.open()
            painted, size, files = opened.driver.execute_script(script)
            times.append(painted)
    return {
        "ms_median": statistics.median(times),
        "ms_all": [round(item) for item in times],
        "one_line_of_text_ms": [round(item) for item in plain],
        "bytes": size,
        "files": files,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--hold", nargs=2, metavar=("PAGE", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("ids", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.hold:
        asyncio.run(hold(arguments.hold[0], arguments.ids, int(arguments.hold[1])))
        return
    out = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(out, "PNG")
    with serving() as (gateway, grpc_address, page):
        painted, refused = first_paint(page), refuse(page, gateway)
        with impasto.Client(grpc_address) as client:
            jobs = [client.submit(out.getvalue(), out.getvalue(), size_px=64, steps=10_000) for _ in range(20)]
            ids = [job.job_id for job in jobs[1:]]
            rounds = [compared(page, grpc_address, gateway, ids, arguments.streams) for _ in range(ROUNDS)]
    report = {
        **about(),
        "streams": arguments.streams,
        "rounds": rounds,
        "health_p99_ms": {
            state: {name: statistics.median(item[state][name]["p99"] for item in rounds) for name in rounds[0][state]}
            for state in ("alone", "crowded")
        },
        "body_of_200_mib": refused,
        "first_paint": painted,
    }
    print(json.dumps(report, indent=1))
    (ROOT / "benchmarks/results/web.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
