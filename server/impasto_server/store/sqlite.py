"""Stores jobs durably: SQLite for records and events, a folder of pictures named by their hash.

Reads are answered from memory, as in :class:`~impasto_server.store.memory.MemoryStore`. Writes go in order to one thread, which
commits all queued writes in one transaction, synced to disk; an acknowledgement waits for its commit, and watchers see an event
only once it is committed. When a commit fails because of the disk, new jobs are rejected, running jobs continue, their events
are shown, and the thread retries until the disk is writable again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from impasto_server.domain.errors import ServiceError
from impasto_server.domain.events import Ended, Event, Stepped
from impasto_server.domain.job import Job, JobError
from impasto_server.failpoints import hit
from impasto_server.files import written_whole
from impasto_server.store import codec as records
from impasto_server.store import outbox
from impasto_server.store.base import Restored
from impasto_server.store.memory import MemoryStore

logger = logging.getLogger(__name__)

DATABASE, BLOBS, CHECKPOINTS, LOCK = "jobs.sqlite", "blobs", "checkpoints", "lock"
RETRY_S = 1.0
_MAGIC = {DATABASE: (b"SQLite format 3\0",), f"{DATABASE}-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")}
"""First bytes of the database's files; a write-ahead log may be empty."""
_DISK_ERRORS = (OSError, MemoryError, sqlite3.OperationalError, sqlite3.DatabaseError)
"""Errors that may be temporary; sqlite3's IntegrityError and ProgrammingError are not."""
MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE jobs (
        job_id TEXT PRIMARY KEY,
        number INTEGER NOT NULL UNIQUE,
        spec TEXT NOT NULL,
        record TEXT NOT NULL,
        result TEXT
    ) STRICT;
    CREATE TABLE events (
        job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
        sequence INTEGER NOT NULL,
        event TEXT NOT NULL,
        PRIMARY KEY (job_id, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE blobs (
        job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
        name TEXT NOT NULL,
        PRIMARY KEY (job_id, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX blobs_by_name ON blobs (name);
    """,
    # A row may hold several steps with consecutive numbers; sequence is the number of the last. An earlier version would read
    # such a row as the end of the job, so it must not open the folder.
    """
    ALTER TABLE events ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
    """,
    outbox.MIGRATION,
)


class DataError(Exception):
    """The data folder cannot be used; the message says why and what to do."""


@dataclass
class _Write:
    """One change, in order with the others.

    Attributes:
        work: Makes the change, inside a transaction.
        kind: Names its failpoints.
        blobs: Pictures that must be in the folder first.
        done: Completed when it is committed, or with the error; such a change is not retried.
        visible: Called on the event loop when it is committed, or while the disk is full or broken.
        committed: Called on the event loop only when it is committed.
    """

    work: Callable[[sqlite3.Connection], object]
    kind: str = "state"
    blobs: Callable[[], dict[str, bytes]] | None = None
    done: Future[None] | None = None
    visible: Callable[[], None] | None = None
    committed: Callable[[], None] | None = None


class DurableStore(MemoryStore):
    """See the module. Open it on a running event loop; close it after the last write.

    Args:
        folder: Folder of all files; created if missing.
        retention_s: How long an ended job is kept.
        max_ended: Maximum number of ended jobs; the oldest are removed first.
        max_bytes: Maximum size of the pictures; new jobs are rejected beyond it.

    Raises:
        DataError: If the folder is not writable, another server uses it, or its database is damaged or newer.
    """

    durable = True

    def __init__(self, folder: Path, retention_s: float, max_ended: int, max_bytes: int) -> None:
        super().__init__(retention_s, max_ended)
        self._folder = folder = folder.absolute()  # workers read files in it
        self._blobs = folder / BLOBS
        self._max_bytes = max_bytes
        self._names: dict[str, str] = {}
        self._seen: dict[str, Job] = {}
        self._admissions: dict[str, Future[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._trouble = ""
        self._unreferenced: set[str] = set()
        self._files: dict[str, tuple[int, int]] = {}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # pictures may be private
            for part in (self._blobs, self.checkpoints):
                part.mkdir(exist_ok=True)
            self._lock = _lock(folder / LOCK)
        except OSError as error:
            raise DataError(f"cannot use the data folder {folder}: {error.strerror}") from None
        with contextlib.ExitStack() as otherwise:  # a folder that cannot be used is released
            otherwise.callback(os.close, self._lock)
            self._connection = otherwise.enter_context(contextlib.closing(self._open()))
            self._sweep()
            self._bytes = sum(path.stat().st_size for path in self._blobs.iterdir())
            otherwise.pop_all()
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    @property
    def checkpoints(self) -> Path:
        """See :class:`~impasto_server.store.base.JobStore`."""
        return self._folder / CHECKPOINTS

    @property
    def bytes_kept(self) -> int:
        """See :class:`~impasto_server.store.base.JobStore`."""
        return self._bytes

    @property
    def trouble(self) -> str:
        """See :class:`~impasto_server.store.base.JobStore`."""
        return self._trouble

    def check(self) -> None:
        """See :class:`~impasto_server.store.base.JobStore`."""
        if self._trouble:
            text = f"the server cannot store new jobs: {self._trouble}"
            raise ServiceError("STORAGE_FAILED", text, retry_s=30.0)
        if self._bytes >= self._max_bytes:
            text = f"{self._bytes} bytes of pictures are stored, which is the limit"
            raise ServiceError("STORAGE_FULL", text, retry_s=60.0)

    def add(self, job: Job) -> None:
        """See :class:`~impasto_server.store.base.JobStore`. It is committed when :meth:`committed` returns."""
        super().add(job)
        spec, record, pictures = job.spec, records.encode_job(job), job.spec

        def insert(connection: sqlite3.Connection) -> None:
            row = (job.job_id, job.number, records.encode_spec(spec), record)
            connection.execute("INSERT INTO jobs (job_id, number, spec, record) VALUES (?, ?, ?, ?)", row)
            _refer(connection, job.job_id, records.pictures(pictures))

        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # from here on a caller that leaves cannot cancel it while it is written
        self._admissions[job.job_id] = done
        self._queue.put(
            _Write(insert, "admit", lambda: records.pictures(pictures), done, committed=lambda: self._admitted(job))
        )

    async def committed(self, job_id: str) -> None:
        """Wait until an added job is committed.

        Raises:
            ServiceError: If it cannot be stored; the job is discarded then.
        """
        done = self._admissions.get(job_id)
        if done is None:
            return
        try:
            await asyncio.wrap_future(done)
        except Exception as error:
            self.forget([job_id])
            text = f"the server could not store the job: {error or type(error).__name__}"
            raise ServiceError("STORAGE_FAILED", text, retry_s=30.0) from None
        finally:
            self._admissions.pop(job_id, None)

    def put(self, job: Job) -> None:
        """See :class:`~impasto_server.store.base.JobStore`. The transaction that ends a job stores its webhook's message."""
        hook = self._message(job)
        super().put(job)
        kept = self._jobs[job.job_id]
        record, ended = records.encode_job(job), job.state.ended

        def update(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE jobs SET record = ? WHERE job_id = ?", (record, job.job_id))
            if ended:  # only the result is still needed
                self._release(
                    connection, [job.job_id], "AND name IS NOT (SELECT result FROM jobs WHERE job_id = ?)", job.job_id
                )
            if hook is not None:
                outbox.insert(connection, hook)

        told = None if hook is None else lambda: self._outbox.add(hook)
        self._queue.put(_Write(update, visible=lambda: self._see(kept), committed=told))

    def put_off_webhook(self, message_id: str, attempts: int, due: float) -> None:
        """See :class:`~impasto_server.store.base.JobStore`."""
        super().put_off_webhook(message_id, attempts, due)
        self._queue.put(_Write(lambda connection: outbox.put_off(connection, message_id, attempts, due), "webhook"))

    def drop_webhook(self, message_id: str) -> None:
        """See :class:`~impasto_server.store.base.JobStore`."""
        super().drop_webhook(message_id)
        self._queue.put(_Write(lambda connection: outbox.delete(connection, message_id), "webhook"))

    def _admitted(self, job: Job) -> None:
        """Make a new job visible; its pictures are on disk, and are not needed in memory before it starts."""
        job = replace(job, spec=records.laid_down(job.spec, self._blobs))
        if job.job_id in self._jobs:
            self._jobs[job.job_id] = replace(self._jobs[job.job_id], spec=job.spec)
        self._see(job)

    def _see(self, job: Job) -> None:
        """Make a record visible, unless its job was removed meanwhile."""
        if job.job_id in self._jobs:
            self._seen[job.job_id] = job

    def seen(self, job_id: str) -> Job | None:
        """See :class:`~impasto_server.store.base.JobStore`."""
        return self._seen.get(job_id)

    async def settled(self) -> None:
        """See :class:`~impasto_server.store.base.JobStore`."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(_Write(lambda _: None, visible=lambda: None if done.done() else done.set_result(None)))
        await done

    def append(self, job_id: str, sequence: int, event: Event, visible: Callable[[], None]) -> None:
        """See :class:`~impasto_server.store.base.JobStore`."""
        self._append((job_id, sequence, records.encode_event(event), 1, job_id), visible)

    def append_run(self, job_id: str, last: int, steps: Sequence[Stepped], visible: Callable[[], None]) -> None:
        """See :class:`~impasto_server.store.base.JobStore`."""
        self._append((job_id, last, records.encode_run(steps), len(steps), job_id), visible)

    def _append(self, row: tuple[str, int, str, int, str], visible: Callable[[], None]) -> None:
        def insert(connection: sqlite3.Connection) -> None:
            values = "SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM jobs WHERE job_id = ?)"  # it may be removed by now
            connection.execute(f"INSERT OR REPLACE INTO events (job_id, sequence, event, count) {values}", row)

        self._queue.put(_Write(insert, visible=visible))

    def put_result(self, job_id: str, picture: bytes) -> None:
        """See :class:`~impasto_server.store.base.JobStore`."""
        super().put_result(job_id, picture)
        name = records.digest(picture)

        def insert(connection: sqlite3.Connection) -> None:
            if connection.execute("UPDATE jobs SET result = ? WHERE job_id = ?", (name, job_id)).rowcount:
                _refer(connection, job_id, [name])

        self._queue.put(_Write(insert, "result", lambda: {name: picture}, visible=lambda: self._release_result(job_id, name)))

    def result(self, job_id: str) -> bytes | None:
        """See :class:`~impasto_server.store.base.JobStore`. Read from disk, once it is stored."""
        name = self._names.get(job_id)
        if name is None:
            return super().result(job_id)
        try:
            return self._fetch(name)
        except (OSError, ValueError) as error:
            raise ServiceError("RESULT_LOST", f"the picture of job {job_id} is lost: {error}") from None

    def forget(self, job_ids: Iterable[str]) -> None:
        """See :class:`~impasto_server.store.base.JobStore`."""
        gone = list(job_ids)
        super().forget(gone)
        for job_id in gone:
            self._names.pop(job_id, None)
            self._seen.pop(job_id, None)

        def delete(connection: sqlite3.Connection) -> None:
            self._release(connection, gone)
            connection.executemany("DELETE FROM jobs WHERE job_id = ?", [(job_id,) for job_id in gone])

        if gone:
            self._queue.put(_Write(delete))

    def restore(self) -> list[Restored]:
        """Return every stored job, and its events. Call it once, before anything is written."""
        found = []
        for hook in outbox.stored(self._connection):
            self._outbox.add(hook)
        rows = self._connection.execute("SELECT job_id, spec, record, result FROM jobs ORDER BY number").fetchall()
        for job_id, spec_text, record, result in rows:
            job, lost = self._decode(job_id, spec_text, record)
            super().add(job)
            self._see(job)
            if result:
                self._names[job_id] = result
                self._sizes[job_id] = self._size_of(result)
            last = "SELECT sequence, event FROM events WHERE job_id = ? ORDER BY sequence DESC LIMIT 1"
            count, newest = self._connection.execute(last, (job_id,)).fetchone() or (0, "")
            closed = bool(newest) and isinstance(records.decode_events(newest)[-1], Ended)
            events = [] if closed else _events(self._connection, job_id)
            found.append(Restored(job, events, count, closed, lost))
        return found

    def _size_of(self, name: str) -> int:
        try:
            return (self._blobs / name).stat().st_size
        except OSError:
            return 0  # reported when it is requested

    async def seal(self, job_id: str, events: list[Event]) -> None:
        """See :class:`~impasto_server.store.base.JobStore`. The events are on disk already."""

    async def events(self, job_id: str) -> list[Event]:
        """See :class:`~impasto_server.store.base.JobStore`. Read from disk."""

        def read() -> list[Event]:
            with contextlib.closing(sqlite3.connect(f"file:{self._folder / DATABASE}?mode=ro", uri=True)) as connection:
                return _events(connection, job_id)

        try:
            return await asyncio.to_thread(read)
        except sqlite3.Error as error:
            raise ServiceError("RESULT_LOST", f"the events of job {job_id} are lost: {error}") from None

    async def close(self) -> None:
        """Finish queued writes and release the folder."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()
        os.close(self._lock)

    # The methods below run before the thread starts, or in it.

    def _open(self) -> sqlite3.Connection:
        path = self._folder / DATABASE
        try:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise DataError(f"cannot use the database {path}: {error}") from None
        try:
            self._prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _prepare(connection: sqlite3.Connection, path: Path) -> None:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            problems = [text for (text,) in connection.execute("PRAGMA integrity_check(3)")]
            if problems != ["ok"]:
                raise DataError(f"the database {path} is damaged: {problems[0]}; move it away to start without its jobs")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise DataError(f"the database {path} was written by a newer impasto (schema version {version})")
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.OperationalError as error:
            raise DataError(f"cannot use the database {path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise DataError(f"the database {path} is damaged: {error}; move it away to start without its jobs") from None

    def _sweep(self) -> None:
        """Delete files without references, which a crash left."""
        known = {name for (name,) in self._connection.execute("SELECT DISTINCT name FROM blobs")}
        for path in self._blobs.iterdir():
            if path.name not in known:
                path.unlink()

    def _decode(self, job_id: str, spec: str, record: str) -> tuple[Job, JobError | None]:
        """Return a stored job, and why it cannot be resumed if it cannot."""
        job = records.decode_job(record, records.decode_spec(spec, None))
        if job.state.ended:
            return job, None
        whole = records.decode_spec(spec, self._blobs)
        if not (wrong := records.missing(whole)):
            return replace(job, spec=whole), None
        logger.error("job %s cannot be resumed: %s", job_id, wrong)
        return job, JobError("DATA_LOST", f"its pictures are lost: {wrong}")

    def _fetch(self, name: str) -> bytes:
        data = (self._blobs / name).read_bytes()
        if records.digest(data) != name:
            raise ValueError(f"the file {name[:12]} is damaged: its hash does not match")
        return data

    def _release_result(self, job_id: str, name: str) -> None:
        """Release a result's bytes from memory: they are on disk."""
        if not self._trouble and self.get(job_id) is not None:
            self._names[job_id] = name
            super().put_result(job_id, b"")

    def _write(self) -> None:
        backlog: list[_Write] = []
        closing = False
        while not closing or backlog:
            gathered, closing = self._gather(wait=not backlog and not closing, closing=closing)
            backlog += gathered
            backlog = self._commit(backlog)
            if backlog and closing:
                logger.error("%d changes could not be stored", len(backlog))
                return

    def _gather(self, *, wait: bool, closing: bool) -> tuple[list[_Write], bool]:
        """Return the queued writes, and whether the store is closing."""
        gathered = []
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=None if wait else RETRY_S) if not closing else self._queue.get_nowait()
            while True:
                if item is None:
                    closing = True
                else:
                    gathered.append(item)
                item = self._queue.get_nowait()
        return gathered, closing

    def _commit(self, writes: list[_Write]) -> list[_Write]:
        """Commit changes in one transaction; return those to retry."""
        if not writes:
            return []
        try:
            self._check_files()
            for write in writes:
                for name, data in (write.blobs() if write.blobs else {}).items():
                    self._put_blob(name, data)
            kinds = {write.kind for write in writes}
            self._connection.execute("BEGIN IMMEDIATE")
            for write in writes:
                write.work(self._connection)
            _pass(kinds, "before_commit")
            self._connection.execute("COMMIT")
            _pass(kinds, "after_commit")
            self._delete_unreferenced()
        except Exception as error:  # any error: without this thread no job is ever acknowledged
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            self._unreferenced.clear()
            if isinstance(error, _DISK_ERRORS) and not isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
                return self._on_disk_error(writes, error)
            return self._isolate(writes, error)
        if self._trouble:
            logger.info("the disk is writable again; %d changes were stored", len(writes))
            self._trouble = ""
        # Visible before the caller is notified: a caller that knows a job can query it.
        self._show([call for write in writes for call in (write.committed, write.visible) if call])
        for write in writes:
            if write.done is not None:
                write.done.set_result(None)
        return []

    def _isolate(self, writes: list[_Write], error: Exception) -> list[_Write]:
        """Find the change that fails regardless of the disk, and discard it; the others are stored."""
        if len(writes) > 1:
            return [kept for write in writes for kept in self._commit([write])]
        logger.error("a change of kind %r cannot be stored and is discarded", writes[0].kind, exc_info=error)
        self._show([call for call in (writes[0].visible,) if call])
        if writes[0].done is not None:
            writes[0].done.set_exception(error)
        return []

    def _check_files(self) -> None:
        """Check that the database is still the one that was opened: SQLite itself continues with deleted files.

        Raises:
            OSError: If one of its files was deleted, replaced, truncated or overwritten.
        """
        for name, magic in _MAGIC.items():
            path = self._folder / name
            stat = path.stat()
            inode, size = self._files.get(name, (stat.st_ino, 0))
            with path.open("rb") as file:
                head = file.read(16)
            if inode != stat.st_ino or stat.st_size < size or (head and not head.startswith(magic)):
                raise OSError(f"the database file {path} was replaced or damaged while the server ran; restart the server")
            self._files[name] = stat.st_ino, stat.st_size

    def _on_disk_error(self, writes: list[_Write], error: Exception) -> list[_Write]:
        """Reject the new jobs, show the events of the others, and keep the rest for a retry."""
        if not self._trouble:
            logger.error("cannot write to the disk; new jobs are rejected: %s", error)
        self._trouble = str(error)
        self._show([write.visible for write in writes if write.visible])
        kept = []
        for write in writes:
            if write.done is not None:
                write.done.set_exception(error)
            else:
                kept.append(replace(write, visible=None))  # it is visible by now
        return kept

    def _show(self, calls: list[Callable[[], None]]) -> None:
        if calls:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
                self._loop.call_soon_threadsafe(lambda: [call() for call in calls])

    def _put_blob(self, name: str, data: bytes) -> None:
        path = self._blobs / name
        if path.exists() and path.stat().st_size == len(data):
            return
        with written_whole(path, partial=self._blobs / f"{name}.partial") as file:
            file.write(data)
        self._bytes += len(data)

    def _release(self, connection: sqlite3.Connection, job_ids: list[str], condition: str = "", *values: str) -> None:
        """Remove the references of jobs to pictures."""
        for job_id in job_ids:
            where = f"job_id = ? {condition}"
            query = f"DELETE FROM blobs WHERE {where} RETURNING name"  # noqa: S608 - it contains no values
            self._unreferenced.update(name for (name,) in connection.execute(query, (job_id, *values)).fetchall())

    def _delete_unreferenced(self) -> None:
        """Delete the files of released pictures without other references; only after the commit that released them."""
        for name in self._unreferenced:
            if self._connection.execute("SELECT 1 FROM blobs WHERE name = ?", (name,)).fetchone() is None:
                path = self._blobs / name
                with contextlib.suppress(OSError):
                    size = path.stat().st_size
                    path.unlink()
                    self._bytes -= size
        self._unreferenced.clear()


def _pass(kinds: Iterable[str], where: str) -> None:
    for kind in sorted(kinds):
        hit(f"{kind}.{where}")


def _refer(connection: sqlite3.Connection, job_id: str, names: Iterable[str]) -> None:
    connection.executemany("INSERT OR IGNORE INTO blobs (job_id, name) VALUES (?, ?)", [(job_id, name) for name in names])


def _events(connection: sqlite3.Connection, job_id: str) -> list[Event]:
    query = "SELECT event FROM events WHERE job_id = ? ORDER BY sequence"
    return [event for (text,) in connection.execute(query, (job_id,)) for event in records.decode_events(text)]


def _lock(path: Path) -> int:
    """Lock a folder for this process; the system releases the lock when the process dies.

    Raises:
        DataError: If another process has locked it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataError(f"another server uses the data folder {path.parent}; give this one its own --data-dir") from None
    return descriptor
