"""What is let in of a message: by its size, its fields, and how many a caller has on the way."""

from __future__ import annotations

import asyncio

import pytest

from impasto.v1 import style_transfer_pb2 as pb
from impasto_server.api.limits import MAX_FIELDS, SMALL_BYTES, Gate
from impasto_server.domain.errors import ServiceError

DECODE = pb.SubmitJobRequest.FromString


def length_delimited(number: int, data: bytes) -> bytes:
    head = bytearray([number << 3 | 2])
    size = len(data)
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes(head) + bytes([size]) + data


def test_an_ordinary_message_passes() -> None:
    """With a picture of a megabyte, and every field that it has."""
    request = pb.SubmitJobRequest(request_id="r", spec=pb.JobSpec(content=pb.Image(data=bytes(1 << 20))))
    request.spec.parameters.style_layers.layers.add(layer="relu1_1", weight=1.5)
    assert Gate(64 << 20).parse("SubmitJob", request.SerializeToString(), DECODE) == request


@pytest.mark.parametrize(
    "body",
    [
        length_delimited(1, b"\x12\x00" * (MAX_FIELDS + 1)),  # empty styles
        length_delimited(1, length_delimited(3, b"\xca\x01\x00" * (MAX_FIELDS + 1))),  # empty entries of a schedule
        b"\x92\x4e\x00" * (MAX_FIELDS + 1),  # fields that the contract has not
    ],
)
def test_messages_of_very_many_fields_are_refused_before_they_are_parsed(body: bytes) -> None:
    """Wherever they are; parsing them would take twenty times their size."""
    with pytest.raises(ServiceError, match="more than 20000 fields"):
        Gate(64 << 20).parse("SubmitJob", body, DECODE)


def test_packed_lists_count_by_their_entries() -> None:
    """One field of sixty thousand states."""
    body = pb.ListJobsRequest(states=[1] * 60_000).SerializeToString()
    assert len(body) < SMALL_BYTES
    with pytest.raises(ServiceError, match="fields and list entries"):
        Gate(64 << 20).parse("ListJobs", body, pb.ListJobsRequest.FromString)


def test_requests_without_pictures_are_small() -> None:
    """Whatever the limit of those with pictures is."""
    body = pb.GetJobRequest(job_id="x" * SMALL_BYTES).SerializeToString()
    with pytest.raises(ServiceError, match="GetJob accepts at most 65536"):
        Gate(64 << 20).parse("GetJob", body, pb.GetJobRequest.FromString)
    with pytest.raises(ServiceError, match="SubmitJob accepts at most 1000"):
        Gate(1000).parse("SubmitJob", bytes(1001), DECODE)


@pytest.mark.parametrize("body", [b"\x0a\xff", b"\xff" * 12, b"\x0b", b"\x0a\x05ab", b"\x08"])
def test_what_is_no_message_is_the_callers_fault(body: bytes) -> None:
    """Cut, endless, or of groups: INVALID_ARGUMENT, never an exception of ours."""
    with pytest.raises(ServiceError) as caught:
        Gate(64 << 20).parse("SubmitJob", body, DECODE)
    assert caught.value.reason == "MESSAGE_GARBLED"


async def test_a_callers_places_are_its_own_and_come_back() -> None:
    """Its ninth waits for one of its eight, another's does not; nothing is kept of callers that are gone."""
    gate, entered = Gate(1, at_once=2), []

    async def hold(caller: str, until: asyncio.Event) -> None:
        async with gate.place(caller):
            entered.append(caller)
            await until.wait()

    done = asyncio.Event()
    tasks = [asyncio.create_task(hold(caller, done)) for caller in ("ann", "ann", "ann", "bob")]
    await asyncio.sleep(0.01)
    assert entered == ["ann", "ann", "bob"]
    done.set()
    await asyncio.gather(*tasks)
    assert entered.count("ann") == 3
    assert not gate._places
