"""Paints the pairs of a batch. A run that is started again joins the jobs that run and takes the pictures that are done."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import grpc

from impasto._base import CALL_TIMEOUT_S
from impasto._client import Client, Job
from impasto._mapping import Room, another_try_helps, threaded, upload_expired
from impasto.batch.identity import key_of, request_id
from impasto.batch.inputs import FORMATS, Pair
from impasto.batch.manifest import Manifest, sync_folder
from impasto.errors import ImpastoError, InvalidRequest, JobCancelled, NotFound, ServerError, Unauthenticated, Unavailable
from impasto.pictures import UploadedImage, to_bytes
from impasto.requests import Style
from impasto.results import Event, JobInfo, Result, Snapshot, Started, Step, replace_file
from impasto.v1 import style_transfer_pb2 as pb

MOST_ATTEMPTS = 1000
"""Request ids that are tried for one picture: earlier runs may have left that many cancelled jobs."""
INVALID_AT_FIRST = 3
"""The run is given up when so many pictures are refused as invalid before one succeeds: the options are the cause."""

Status = Literal["succeeded", "failed", "kept", "stopped"]


class Stop(Enum):
    """What an interruption asks for."""

    NO = 0
    FINISH = 1
    """Start no more jobs, and let the running ones end."""
    CANCEL = 2
    """Cancel the running ones too."""


@dataclass(frozen=True)
class Outcome:
    """What became of a pair.

    Attributes:
        pair: The pair.
        status: ``succeeded``, ``failed``, ``kept`` (an earlier run has made it) or ``stopped`` (by an interruption).
        job: The job, if there was one.
        error: Why it failed.
    """

    pair: Pair
    status: Status
    job: JobInfo | None = None
    error: Exception | None = None


@dataclass
class _Running:
    """A pair whose job is on the server."""

    request_id: str
    started: bool = False
    share: float = 0.0


class Batch:
    """One run over the pairs.

    Args:
        client: The client; closed by the caller.
        folder: Folder of the outputs.
        manifest: Its record.
        options: Options of every job, without the format.
        retries: How often a picture is tried again after an error that another try can help.
    """

    def __init__(self, client: Client, folder: Path, manifest: Manifest, options: Mapping[str, Any], retries: int) -> None:
        self._client, self._folder, self._manifest = client, folder, manifest
        self._options, self._retries = dict(options), retries
        self._room, self._stop, self._wake = Room(), Stop.NO, threading.Event()
        self._lock = threading.Lock()
        self._running: dict[Pair, _Running] = {}
        self._hashes: dict[Path, UploadedImage] = {}
        self._uploads: dict[str, threading.Lock] = {}
        self._uploaded: set[str] = set()
        self._fared_well, self._invalid = False, 0
        self.fault: ImpastoError | OSError | None = None
        """Why the run was given up: the server is gone, or rejects every job, or the disk is full."""

    @property
    def shares(self) -> float:
        """Sum of the finished shares of the running pictures, each from 0 to 1."""
        with self._lock:
            return sum(running.share for running in self._running.values())

    @property
    def running(self) -> int:
        """Number of pictures on the server."""
        return len(self._running)

    def interrupt(self) -> Stop:
        """Stop the run: the first time let running jobs end and cancel those that wait, the second time cancel all."""
        with self._lock:
            self._stop = Stop.FINISH if self._stop is Stop.NO else Stop.CANCEL
            doomed = [each.request_id for each in self._running.values() if self._stop is Stop.CANCEL or not each.started]
        self._wake.set()
        for request in doomed:
            self._client.cancel_quietly(request)
        return self._stop

    def paint(self, pairs: Sequence[Pair], parallel: int) -> Iterator[Outcome]:
        """Yield what becomes of each pair, as it is known.

        Args:
            pairs: The pairs.
            parallel: Most jobs at a time.
        """
        going = (pair for pair in pairs if self._stop is Stop.NO and self.fault is None)
        found = threaded(self._outcome, going, parallel, ordered=False, stop=self._end)
        with contextlib.closing(found):
            yield from found

    def _end(self) -> None:
        """Cancel what still runs when the iteration ends early."""
        with self._lock:
            self._stop = Stop.CANCEL
            requests = [each.request_id for each in self._running.values()]
        self._wake.set()
        for request in requests:
            self._client.cancel_quietly(request)

    def _outcome(self, pair: Pair) -> Outcome:
        began = time.monotonic()
        line: dict[str, Any] = {"output": pair.output, "photo": {"path": str(pair.photo)}, "style": {"path": str(pair.style)}}
        try:
            content, style = self._hashed(pair.photo, "content"), self._hashed(pair.style, "styles[0].image")
            options = {**self._options, **pair.options, "format": FORMATS[Path(pair.output).suffix.lower()]}
            key = key_of(content, Style(style), options)
            line["photo"]["sha256"], line["style"]["sha256"], line["key"] = content.image_id, style.image_id, key
            target = self._folder / pair.output
            if self._manifest.done(pair.output, key) and target.is_file():
                self._fared_well = True
                return Outcome(pair, "kept")
            result = self._painted(pair, content, style, options, line)
            self._save(target, result.data)
            line |= {"sha256": hashlib.sha256(result.data).hexdigest(), **_facts(result.job)}
            self._append("succeeded", line, began, None)
            self._fared_well = True
            return Outcome(pair, "succeeded", result.job)
        except (ImpastoError, OSError) as error:
            return self._failed(pair, line, began, error)

    def _failed(self, pair: Pair, line: dict[str, Any], began: float, error: ImpastoError | OSError) -> Outcome:
        if self._stop is not Stop.NO and isinstance(error, JobCancelled):
            return Outcome(pair, "stopped")
        if self._concerns_all(error):
            self.fault = self.fault or error
            self._wake.set()
            return Outcome(pair, "stopped", error=error)
        try:
            self._append("failed", line, began, error)
        except OSError as full:
            self.fault = self.fault or full
        return Outcome(pair, "failed", error=error)

    def _concerns_all(self, error: ImpastoError | OSError) -> bool:
        """Whether no other picture would fare better: the server is gone, the disk is full, the options are invalid."""
        if isinstance(error, InvalidRequest) and not self._fared_well:
            self._invalid += 1
            return self._invalid >= INVALID_AT_FIRST
        return isinstance(error, (Unavailable, Unauthenticated)) or not isinstance(error, ImpastoError)

    def _append(self, status: Status, line: dict[str, Any], began: float, error: ImpastoError | OSError | None) -> None:
        reason = getattr(error, "reason", "") or type(error).__name__
        values = {
            "status": status,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            **line,
            "wall_s": round(time.monotonic() - began, 3),
            "error": None if error is None else {"reason": reason, "message": str(error)},
        }
        self._manifest.append(values)

    @staticmethod
    def _save(target: Path, data: bytes) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, data, sync=True)
        sync_folder(target.parent)

    # Pictures by their hash, sent once.

    def _hashed(self, path: Path, field: str) -> UploadedImage:
        """Return a file by its hash, whether or not it is on the server yet."""
        known = self._hashes.get(path)
        if known is None:
            known = UploadedImage(hashlib.sha256(to_bytes(path, field)).hexdigest(), path.name)
            self._hashes[path] = known
        return known

    def _send(self, path: Path, image: UploadedImage) -> None:
        with self._lock:
            lock = self._uploads.setdefault(image.image_id, threading.Lock())
        with lock:
            if image.image_id not in self._uploaded:
                sent = self._client.upload(path)
                if sent.image_id != image.image_id:
                    raise InvalidRequest(f"{path} was changed while the batch ran", reason="INPUT_CHANGED")
                self._uploaded.add(image.image_id)

    # Jobs.

    def _painted(
        self, pair: Pair, content: UploadedImage, style: UploadedImage, options: dict[str, Any], line: dict[str, Any]
    ) -> Result:
        """Return the picture of a new job, or of one of an earlier run."""
        attempt = tries = 0
        while True:
            request = line["request_id"] = request_id(line["key"], attempt)
            try:
                job, state = self._submit(pair, content, style, options, request)
                if state == "cancelled" or (state == "failed" and self._manifest.failed(request)):  # in an earlier run
                    attempt += 1
                    if attempt > MOST_ATTEMPTS:
                        raise ServerError(f"{MOST_ATTEMPTS} jobs for it have ended without a picture", reason="MANY_ATTEMPTS")
                    continue
                return self._follow(pair, job, request)
            except ImpastoError as error:
                if self._stop is not Stop.NO or tries >= self._retries or not another_try_helps(error):
                    raise
                tries += 1
                if upload_expired(error):
                    self._uploaded -= {content.image_id, style.image_id}
                elif not isinstance(error, NotFound):
                    attempt += 1  # its job has ended

    def _submit(
        self, pair: Pair, content: UploadedImage, style: UploadedImage, options: dict[str, Any], request: str
    ) -> tuple[Job, str]:
        """Submit a job, or join the one of the same request; return its state too."""
        while True:
            try:
                self._send(pair.photo, content)
                self._send(pair.style, style)
                job = self._client.submit(content, Style(style), request_id=request, **options)
            except ImpastoError as error:
                if error.reason == "REQUEST_ID_REUSED":  # by the same picture under another name, or with other labels
                    return self._joined(request)
                self._wake.wait(self._room.delay(error))
                if self._stop is not Stop.NO:
                    raise JobCancelled("the run was interrupted", reason="JOB_CANCELLED") from None
            else:
                self._room.accepted()
                return job, job.acknowledgement.state if job.acknowledgement else ""

    def _joined(self, request: str) -> tuple[Job, str]:
        call = self._client._stub.Progress(pb.ProgressRequest(request_id=request), timeout=CALL_TIMEOUT_S)
        try:
            for message in call:
                snapshot = message.snapshot
                state = pb.JobState.Name(snapshot.state).removeprefix("JOB_STATE_").lower()
                return self._client.job(snapshot.job_id), state
        except grpc.RpcError as error:
            raise self._client._error(error) from None
        finally:
            call.cancel()
        raise ServerError("the progress stream ended without a snapshot")

    def _follow(self, pair: Pair, job: Job, request: str) -> Result:
        running = _Running(request)
        with self._lock:
            self._running[pair] = running
            doomed = self._stop is not Stop.NO
        try:
            if doomed:
                self._client.cancel_quietly(request)
            return job.follow(lambda event: _note(running, event))
        finally:
            with self._lock:
                del self._running[pair]


def _note(running: _Running, event: Event) -> None:
    if isinstance(event, Snapshot):
        running.started = event.job.state == "running"
        running.share = event.job.step / event.job.steps if event.job.steps else 0.0
    elif isinstance(event, Started):
        running.started = True
    elif isinstance(event, Step):
        running.started = True
        running.share = event.step / event.steps if event.steps else 0.0


def _facts(job: JobInfo) -> dict[str, Any]:
    """Return what the manifest says about a job."""
    values = job.to_dict()
    network = values["network"] or {}
    return {
        "job_id": job.job_id,
        "width_px": job.width_px,
        "height_px": job.height_px,
        "steps": job.step,
        "stop_reason": job.stop_reason,
        "losses": values["losses"],
        "seconds": {name.removesuffix("_s"): round(value, 3) for name, value in values["timings"].items()},
        "parameters": values["parameters"],
        "output_options": values["output"],
        "network": network.get("id", ""),
        "weights_sha256": network.get("weights_sha256", ""),
        "device": job.device,
        "warnings": values["warnings"],
        "labels": values["labels"],
    }
