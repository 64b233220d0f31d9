from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest

from impasto_server.domain.errors import ServiceError
from impasto_server.store.uploads import Folder, Uploads

DATA = bytes(range(256)) * 20
ID = hashlib.sha256(DATA).hexdigest()


def uploads(folder: Path, max_bytes: int = 1 << 20) -> Folder:
    return Folder(folder, 3600.0, 1 << 16, max_bytes)


def test_a_file_comes_in_pieces_and_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    """Before that it cannot be read; a second time nothing need be sent."""
    store = uploads(tmp_path)
    assert store.begin(ID, len(DATA), 0) == 0
    at = store.put(ID, 0, DATA[:1000], len(DATA))
    assert not store.complete(ID, len(DATA))
    with pytest.raises(KeyError):
        store.find(ID)
    assert store.begin(ID, len(DATA), at) == 1000
    assert store.put(ID, at, DATA[at:], len(DATA)) == len(DATA)
    assert store.complete(ID, len(DATA))
    assert store.find(ID).read_bytes() == DATA
    assert uploads(tmp_path).begin(ID, len(DATA), 0) == len(DATA)
    assert os.listdir(tmp_path) == [ID]


def test_a_disk_that_takes_nothing_is_told_and_the_file_can_be_gone_on_with(tmp_path: Path) -> None:
    """In the contract's words, with when to try again; no piece of it is lost."""
    store = uploads(tmp_path)
    store.begin(ID, len(DATA), 0)
    at = store.put(ID, 0, DATA[:1000], len(DATA))
    used, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ServiceError, match="cannot write the file") as caught:
            store.put(ID, at, DATA[at:], len(DATA))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (used, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "STORAGE_FAILED")
    assert caught.value.retry_s
    assert store.begin(ID, len(DATA), at) == 1000
    store.put(ID, at, DATA[at:], len(DATA))
    assert store.complete(ID, len(DATA))


@pytest.mark.parametrize("seed", range(20))
def test_several_senders_of_one_file_do_not_disturb_one_another(tmp_path: Path, seed: int) -> None:
    """Their pieces come in any order, and each may stop and go on from what is stored."""
    draw = random.Random(seed)
    store = uploads(tmp_path)
    at = {sender: store.begin(ID, len(DATA), 0) for sender in range(3)}
    start = dict.fromkeys(at, 0)
    done: list[bool] = []
    while len(done) < len(at):
        sender = draw.choice([sender for sender in at if at[sender] <= len(DATA)])
        if draw.random() < 0.2:
            store.end(ID)
            known = store.begin(ID, len(DATA), 0)
            at[sender] = start[sender] = draw.choice((0, known // 2, known))
        if at[sender] == len(DATA):
            done.append(store.complete(ID, len(DATA), start[sender]))
            at[sender] += 1
            store.end(ID)
        else:
            size = draw.randint(1, 2000)
            at[sender] = store.put(ID, at[sender], DATA[at[sender] : at[sender] + size], len(DATA))
    assert done == [True] * 3
    assert store.find(ID).read_bytes() == DATA
    assert os.listdir(tmp_path) == [ID]
    assert store.bytes_kept == len(DATA)


def test_who_goes_on_after_another_senders_wrong_bytes_is_told_to_start_again(tmp_path: Path) -> None:
    """With a retry, not as if it had sent them."""
    store = uploads(tmp_path)
    store.begin(ID, len(DATA), 0)
    store.put(ID, 0, b"wrong" * 200, len(DATA))
    store.end(ID)
    assert store.begin(ID, len(DATA), 1000) == 1000
    store.begin(ID, len(DATA), 1000)
    store.put(ID, 1000, DATA[1000:], len(DATA))
    with pytest.raises(ServiceError) as caught:
        store.complete(ID, len(DATA), 1000)
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "UPLOAD_RESTARTED")
    with pytest.raises(ServiceError, match="discarded") as caught:
        store.put(ID, 2000, DATA[2000:], len(DATA))
    assert caught.value.reason == "UPLOAD_RESTARTED"
    store.end(ID)
    assert store.begin(ID, len(DATA), 0) == 0


def test_another_file_than_was_told_is_refused_and_gone(tmp_path: Path) -> None:
    """A flipped bit on the way, for example."""
    store = uploads(tmp_path)
    store.begin(ID, len(DATA), 0)
    store.put(ID, 0, DATA[:-1] + b"?", len(DATA))
    with pytest.raises(ServiceError, match="another hash"):
        store.complete(ID, len(DATA))
    assert store.begin(ID, len(DATA), 0) == 0


@pytest.mark.parametrize(
    ("image_id", "size", "offset", "field"),
    [
        ("../../etc/passwd", 10, 0, "start.sha256"),
        (ID.upper(), 10, 0, "start.sha256"),
        (ID, 0, 0, "start.size_bytes"),
        (ID, 1 << 20, 0, "start.size_bytes"),
        (ID, 10, 1, "start.offset_bytes"),
        (ID, 10, -1, "start.offset_bytes"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(tmp_path: Path, image_id: str, size: int, offset: int, field: str) -> None:
    """Nothing is written for it."""
    with pytest.raises(ServiceError) as caught:
        uploads(tmp_path).begin(image_id, size, offset)
    assert [name for name, _ in caught.value.violations] == [field]
    assert os.listdir(tmp_path) == []


def test_more_than_was_told_or_than_there_is_room_for_is_refused(tmp_path: Path) -> None:
    """By the size, and by the operator's limit."""
    store = uploads(tmp_path, max_bytes=6000)
    store.begin(ID, len(DATA), 0)
    with pytest.raises(ServiceError, match="exceeds"):
        store.put(ID, 0, DATA + b"x", len(DATA))
    store.put(ID, 0, DATA, len(DATA))
    store.complete(ID, len(DATA))
    with pytest.raises(ServiceError, match="no space"):
        store.begin("0" * 64, 1000, 0)
    with pytest.raises(KeyError):
        store.find("../" + ID)


def test_a_file_is_forgotten_after_its_last_use(tmp_path: Path) -> None:
    """Reading it counts as use."""
    store = uploads(tmp_path)
    store.begin(ID, len(DATA), 0)
    store.put(ID, 0, DATA, len(DATA))
    store.complete(ID, len(DATA))
    old = time.time() - 4000
    os.utime(tmp_path / ID, (old, old))
    store.find(ID)
    store.expire()
    assert store.begin(ID, len(DATA), 0) == len(DATA)
    os.utime(tmp_path / ID, (old, old))
    store.expire()
    assert store.begin(ID, len(DATA), 0) == 0


def name(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def test_room_is_reserved_before_a_file_is_sent(tmp_path: Path) -> None:
    """Many that begin at once keep to the limit together; what a sender leaves is given back."""
    store = uploads(tmp_path, max_bytes=10_000)
    store.begin(name(1), 6000, 0)
    with pytest.raises(ServiceError, match="no space"):
        store.begin(name(2), 6000, 0)
    store.put(name(1), 0, bytes(100), 6000)
    store.end(name(1))
    assert store.bytes_kept == 100
    store.begin(name(2), 6000, 0)


def test_a_complete_file_opens_no_way_around_the_limits(tmp_path: Path) -> None:
    """Another size than the file has, or an offset that cannot be, is refused though the file is there."""
    store = uploads(tmp_path, max_bytes=6000)
    store.begin(ID, len(DATA), 0)
    store.put(ID, 0, DATA, len(DATA))
    store.complete(ID, len(DATA))
    for size, offset, field in ((60_000, 0, "start.size_bytes"), (len(DATA), -5, "start.offset_bytes")):
        with pytest.raises(ServiceError) as caught:
            store.begin(ID, size, offset)
        assert caught.value.violations[0][0] == field


def test_an_owner_has_so_many_files_and_a_share_of_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others still have room; the books are right again after a restart."""
    monkeypatch.setattr("impasto_server.store.uploads.MAX_FILES", 3)
    every = Uploads(tmp_path, 3600.0, 1 << 16, 40_000)
    ann, bob = every.of("ann"), every.of("bob")
    ann.begin(name(0), 25_000, 0)
    with pytest.raises(ServiceError, match="no space"):
        ann.begin(name(1), 10_000, 0)
    bob.begin(name(1), 10_000, 0)
    for number in (2, 3):
        bob.begin(name(number), 1, 0)
    with pytest.raises(ServiceError, match="3 files are stored"):
        bob.begin(name(4), 1, 0)
    bob.put(name(1), 0, bytes(10_000), 10_000)
    for number in (1, 2, 3):
        bob.end(name(number))
    ann.end(name(0))
    again = Uploads(tmp_path, 3600.0, 1 << 16, 40_000)
    assert (again.of("ann").bytes_kept, again.of("bob").bytes_kept) == (0, 10_000)
