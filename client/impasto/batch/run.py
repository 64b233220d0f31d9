"""Paints the pairs of a batch. A run that is started again joins the jobs that run and takes the pictures that are done."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
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
from impasto.batch.inputs import FORMATS, LONGEST_PATH, Pair
from impasto.batch.manifest import Manifest, sync_folder
from impasto.display import shown
from impasto.errors import ImpastoError, InvalidRequest, JobCancelled, NotFound, ServerError, Unauthenticated, Unavailable
from impasto.pictures import Picture, UploadedImage, checked_bytes, name_of
from impasto.requests import Style
from impasto.results import Event, JobInfo, Result, Snapshot, Started, Step, job_info, replace_file
from impasto.v1 import style_transfer_pb2 as pb

MOST_ATTEMPTS = 1000
"""Request ids that are tried for one picture: earlier runs may have left that many cancelled jobs."""
_PICTURES = ("mask", "init_image")
"""Options that are pictures."""
INVALID_AT_FIRST = 3
"""The run is given up when so many pictures are refused as invalid before one succeeds: the options are the cause. Photos
that cannot be read, and options of one pair, do not count."""

_NO_ROOM = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name))
"""Errors of a disk that takes no file at all."""

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
        painted: Share of the picture that was painted while this run waited for it: 0 if an earlier run had it painted.
    """

    pair: Pair
    status: Status
    job: JobInfo | None = None
    error: Exception | None = None
    painted: float = 0.0


@dataclass(frozen=True)
class _Work:
    """What is sent for a pair: pictures by their hash.

    Attributes:
        content: The content.
        styles: The styles.
        options: The options.
    """

    content: UploadedImage
    styles: list[Style]
    options: dict[str, Any]

    @property
    def images(self) -> list[UploadedImage]:
        """All its pictures."""
        of_styles = (image for style in self.styles for image in (style.picture, style.mask, style.region))
        found = (self.content, *of_styles, *(self.options.get(name) for name in _PICTURES))
        return [image for image in found if isinstance(image, UploadedImage)]


@dataclass
class _Running:
    """A pair whose job is on the server.

    Attributes:
        request_id: Id of its request.
        before: Share that was painted when this run found the job.
        share: Share that is painted.
        started: Whether it has begun.
    """

    request_id: str
    before: float = 0.0
    share: float = 0.0
    started: bool = False


class Batch:
    """One run over the pairs.

    Args:
        client: The client; closed by the caller.
        folder: Folder of the outputs.
        manifest: Its record.
        options: Options of every job, without the format.
        retries: How often a picture is tried again after an error that another try can help.

    Raises:
        InvalidRequest: If a picture among the options cannot be read.
    """

    def __init__(self, client: Client, folder: Path, manifest: Manifest, options: Mapping[str, Any], retries: int) -> None:
        self._client, self._folder, self._manifest = client, folder, manifest
        self._options, self._retries = dict(options), retries
        self._room, self._stop, self._wake = Room(), Stop.NO, threading.Event()
        self._lock = threading.Lock()
        self._running: dict[Pair, _Running] = {}
        self._hashes: dict[Any, UploadedImage] = {}
        self._sources: dict[str, Picture] = {}
        self._uploads: dict[str, threading.Lock] = {}
        self._uploaded: set[str] = set()
        self._fared_well, self._invalid = False, 0
        self.painting_since: float | None = None
        """Time of the monotonic clock since which a job of this run was to be painted; None if none was yet."""
        self.fault: ImpastoError | OSError | None = None
        """Why the run was given up: the server is gone, or rejects every job, or the disk is full."""
        for name in _PICTURES:
            if name in self._options:
                self._hashed(self._options[name], name)

    @property
    def client(self) -> Client:
        """The client."""
        return self._client

    @property
    def shares(self) -> float:
        """Sum of the finished shares of the running pictures, each from 0 to 1."""
        with self._lock:
            return sum(running.share for running in self._running.values())

    @property
    def painted(self) -> float:
        """Sum of the shares of the running pictures that were painted during this run."""
        with self._lock:
            return sum(max(0.0, running.share - running.before) for running in self._running.values())

    @property
    def running(self) -> int:
        """Number of pictures on the server."""
        return len(self._running)

    def interrupt(self) -> Stop:
        """Stop the run: the first time let running jobs end and cancel those that wait, the second time cancel all."""
        with self._lock:
            state = self._stop = Stop.FINISH if self._stop is Stop.NO else Stop.CANCEL
            doomed = [each.request_id for each in self._running.values() if state is Stop.CANCEL or not each.started]
        self._wake.set()
        for request in doomed:
            self._client.cancel_quietly(request)
        return state

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
        options = {**self._options, **pair.options, "format": FORMATS[Path(pair.output).suffix.lower()]}
        line: dict[str, Any] = {"output": pair.output, **files_of(pair, options)}
        try:
            work = self._work(pair, options, line)
            line["key"] = key_of(work.content, work.styles, work.options)
            target = self._folder / pair.output
            if self._manifest.done(pair.output, line["key"]) and target.is_file():
                self._fared_well = True
                self._manifest.keep(pair.output)
                return Outcome(pair, "kept")
            result, painted = self._painted(pair, work, line)
            self._save(target, result.data)
            line |= {"sha256": hashlib.sha256(result.data).hexdigest(), **_facts(result.job)}
            self._append("succeeded", line, began, None)
            self._fared_well = True
            return Outcome(pair, "succeeded", result.job, painted=painted)
        except (ImpastoError, OSError) as error:
            return self._failed(pair, line, began, error)

    def _failed(self, pair: Pair, line: dict[str, Any], began: float, error: ImpastoError | OSError) -> Outcome:
        if self._stop is not Stop.NO and isinstance(error, (JobCancelled, NotFound)):  # its request was being cancelled
            return Outcome(pair, "stopped")
        if self._concerns_all(pair, error):
            self.fault = self.fault or error
            self._wake.set()
            return Outcome(pair, "stopped", error=error)
        try:
            self._append("failed", line, began, error)
        except OSError as full:
            self.fault = self.fault or full
        return Outcome(pair, "failed", error=error)

    def _concerns_all(self, pair: Pair, error: ImpastoError | OSError) -> bool:
        """Whether no other picture would fare better: the server is gone, the disk is full, the options are invalid.

        A file that cannot be written for another cause, such as a folder of its name, is of its pair alone.
        """
        if isinstance(error, InvalidRequest) and not self._fared_well:
            of_photo = bool(error.violations) and all(item.field.startswith("content") for item in error.violations)
            alone = of_photo or bool(pair.options)
            self._invalid += not alone
            return not alone and self._invalid >= INVALID_AT_FIRST
        if not isinstance(error, ImpastoError):
            return error.errno in _NO_ROOM or not self._folder.is_dir()
        return isinstance(error, (Unavailable, Unauthenticated))

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

    def _save(self, target: Path, data: bytes) -> None:
        if not self._folder.is_dir():  # do not make it again: its manifest is gone
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, data, sync=True)
        sync_folder(target.parent)

    # Pictures by their hash, sent once.

    def _work(self, pair: Pair, options: Mapping[str, Any], line: Mapping[str, Any]) -> _Work:
        """Return a pair's job, and note the hashes of its files in the manifest's line."""

        def known(picture: Picture, field: str, note: MutableMapping[str, Any]) -> UploadedImage:
            image = self._hashed(picture, field)
            note["sha256"] = image.image_id
            return image

        content = known(pair.photo, "content", line["photo"])
        styles = []
        for index, (style, note) in enumerate(zip(pair.styles, line.get("styles") or [line["style"]], strict=True)):
            field = f"styles[{index}]"
            image = known(style.picture, f"{field}.image", note)
            mask = None if style.mask is None else known(style.mask, f"{field}.mask", note["mask"])
            region = None if style.region is None else known(style.region, f"{field}.region", note["region"])
            styles.append(Style(image, style.weight, mask, region))
        pictures = {name: known(options[name], name, line[name]) for name in _PICTURES if name in options}
        return _Work(content, styles, {**options, **pictures})

    def _hashed(self, picture: Picture, field: str) -> UploadedImage:
        """Return a file by its hash, whether or not it is on the server yet."""
        if isinstance(picture, UploadedImage):
            return picture
        known = self._hashes.get(picture)
        if known is None:
            known = UploadedImage(hashlib.sha256(checked_bytes(picture, field)).hexdigest(), name_of(picture))
            self._hashes[picture] = known
            self._sources[known.image_id] = picture
        return known

    def _send(self, image: UploadedImage) -> None:
        picture = self._sources.get(image.image_id)
        if picture is None:
            return  # given by the id of an upload
        with self._lock:
            lock = self._uploads.setdefault(image.image_id, threading.Lock())
        with lock:
            if image.image_id not in self._uploaded:
                sent = self._client.upload(picture)
                if sent.image_id != image.image_id:
                    name = picture if isinstance(picture, Path) else image.name
                    raise InvalidRequest(f"{shown(name, LONGEST_PATH)} was changed while the batch ran", reason="INPUT_CHANGED")
                self._uploaded.add(image.image_id)

    # Jobs.

    def _painted(self, pair: Pair, work: _Work, line: dict[str, Any]) -> tuple[Result, float]:
        """Return the picture of a new job, or of one of an earlier run, and the share that was painted since."""
        attempt = tries = 0
        while True:
            self._check_going_on()
            request = line["request_id"] = request_id(line["key"], attempt)
            try:
                job, state, before = self._submit(work, request)
                if state == "cancelled" or (state == "failed" and self._manifest.failed(request)):  # in an earlier run
                    attempt += 1
                    if attempt > MOST_ATTEMPTS:
                        raise ServerError(f"{MOST_ATTEMPTS} jobs for it have ended without a picture", reason="MANY_ATTEMPTS")
                    continue
                return self._follow(pair, job, _Running(request, before, before)), 1 - before
            except ImpastoError as error:
                if self._stop is not Stop.NO or tries >= self._retries or not another_try_helps(error):
                    raise
                tries += 1
                if upload_expired(error):
                    self._uploaded -= {image.image_id for image in work.images}
                elif not isinstance(error, NotFound):
                    attempt += 1  # its job has ended

    def _check_going_on(self) -> None:
        if self._stop is not Stop.NO:
            raise JobCancelled("the run was interrupted", reason="JOB_CANCELLED")

    def _submit(self, work: _Work, request: str) -> tuple[Job, str, float]:
        """Submit a job, or join the one of the same request; return its state too, and the share that is painted."""
        while True:
            try:
                for image in work.images:
                    self._send(image)
                job = self._client.submit(work.content, work.styles, request_id=request, **work.options)
            except ImpastoError as error:
                if error.reason == "REQUEST_ID_REUSED":  # by the same picture under another name, or with other labels
                    return self._joined(request)
                self._wake.wait(self._room.delay(error))
                self._check_going_on()
            else:
                self._room.accepted()
                found = job.acknowledgement
                return (job, found.state, _share(found.state, found.step, found.steps)) if found else (job, "", 0.0)

    def _joined(self, request: str) -> tuple[Job, str, float]:
        call = self._client._stub.Progress(pb.ProgressRequest(request_id=request), timeout=CALL_TIMEOUT_S)
        try:
            for message in call:
                found = job_info(message.snapshot)
                return self._client.job(found.job_id), found.state, _share(found.state, found.step, found.steps)
        except grpc.RpcError as error:
            raise self._client._error(error) from None
        finally:
            call.cancel()
        raise ServerError("the progress stream ended without a snapshot")

    def _follow(self, pair: Pair, job: Job, running: _Running) -> Result:
        with self._lock:
            self._running[pair] = running
            doomed = self._stop is not Stop.NO
            if running.before < 1 and self.painting_since is None:
                self.painting_since = time.monotonic()
        try:
            if doomed:
                self._client.cancel_quietly(running.request_id)
            return job.follow(lambda event: _note(running, event))
        finally:
            with self._lock:
                del self._running[pair]


def files_of(pair: Pair, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest says about a pair's files, without their hashes: ``styles`` instead of ``style`` for a mix."""
    styles = []
    for style in pair.styles:
        note = _path(style.picture)
        if style.weight is not None:
            note["weight"] = style.weight
        note |= {name: _path(part) for name, part in (("mask", style.mask), ("region", style.region)) if part is not None}
        styles.append(note)
    of_styles: dict[str, Any] = {"style": styles[0]} if len(styles) == 1 else {"styles": styles}
    return {"photo": _path(pair.photo), **of_styles, **{name: _path(options[name]) for name in _PICTURES if name in options}}


def _path(picture: Picture) -> dict[str, Any]:
    return {"path": str(picture)} if isinstance(picture, Path) else {}


def _note(running: _Running, event: Event) -> None:
    if isinstance(event, Snapshot):
        running.started = event.job.state == "running"
        running.share = _share(event.job.state, event.job.step, event.job.steps)
    elif isinstance(event, Started):
        running.started = True
    elif isinstance(event, Step):
        running.started = True
        running.share = _share("running", event.step, event.steps)


def _share(state: str, step: int, steps: int) -> float:
    """Return the share of a picture that is painted; it may be done before its last step."""
    return 1.0 if state == "succeeded" else step / steps if steps else 0.0


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
