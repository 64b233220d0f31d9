"""A server without jobs: it answers every job with the same picture, for tests of the client with thousands of jobs.

Run as a program it prints its address and serves until its standard input ends.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc

PICTURE_BYTES = 100_000


class FakeService(pb_grpc.StyleTransferServiceServicer):
    """Accepts every job and has its picture at once; counts what is in flight.

    Args:
        refuse: Called with the number of each job before it is accepted; aborts the call to refuse it.
    """

    def __init__(self, refuse: Callable[[int, Any], None] = lambda number, context: None) -> None:
        self.submitted = self.uploads = self.most = self.in_flight = 0
        self.cancelled: list[str] = []
        self.specs: dict[str, pb.JobSpec] = {}
        self.by_request: dict[str, str] = {}
        self._refuse = refuse
        self._lock = threading.Lock()
        self.hold = threading.Event()
        self.hold.set()
        """Jobs end only while it is set."""
        self.keep = True

    def SubmitJob(self, request: pb.SubmitJobRequest, context: Any) -> pb.SubmitJobResponse:
        with self._lock:
            self.submitted += 1
            number = self.submitted
        self._refuse(number, context)
        with self._lock:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        job_id = f"job-{number}"
        self.by_request[request.request_id] = job_id
        if self.keep:
            self.specs[job_id] = request.spec
        return pb.SubmitJobResponse(job=pb.Job(job_id=job_id, request_id=request.request_id, state=pb.JOB_STATE_QUEUED))

    def Progress(self, request: pb.ProgressRequest, context: Any) -> Iterator[pb.ProgressResponse]:
        yield pb.ProgressResponse(sequence=1, snapshot=pb.Job(job_id=request.job_id, state=pb.JOB_STATE_RUNNING))
        while not self.hold.wait(0.02) and request.job_id not in self.cancelled:
            pass
        state = pb.JOB_STATE_CANCELLED if request.job_id in self.cancelled else pb.JOB_STATE_SUCCEEDED
        with self._lock:
            self.in_flight -= 1
        yield pb.ProgressResponse(sequence=2, result=pb.JobResult(job=pb.Job(job_id=request.job_id, state=state)))

    def GetResult(self, request: pb.GetResultRequest, context: Any) -> pb.GetResultResponse:
        image = pb.Image(data=request.job_id.encode().ljust(PICTURE_BYTES, b"."))
        job = pb.Job(job_id=request.job_id, state=pb.JOB_STATE_SUCCEEDED)
        return pb.GetResultResponse(result=pb.JobResult(job=job, image=image))

    def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        job_id = request.job_id or self.by_request.get(request.request_id, "")
        self.cancelled.append(job_id)
        return pb.CancelJobResponse(job=pb.Job(job_id=job_id, state=pb.JOB_STATE_CANCELLED))

    def UploadImage(self, request_iterator: Iterator[pb.UploadImageRequest], context: Any) -> pb.UploadImageResponse:
        requests = list(request_iterator)
        self.uploads += 1
        return pb.UploadImageResponse(image_id=requests[0].start.sha256, received_bytes=requests[0].start.size_bytes)

    def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:
        return pb.GetServerInfoResponse(limits=pb.Limits(max_running_jobs=3, max_queued_jobs=100))


@contextmanager
def serving(service: FakeService) -> Iterator[str]:
    """Serve in this process; yields the address."""
    server = grpc.server(ThreadPoolExecutor(64))
    pb_grpc.add_StyleTransferServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


if __name__ == "__main__":
    fake = FakeService()
    fake.keep = False
    with serving(fake) as address:
        print(address, flush=True)
        sys.stdin.read()
