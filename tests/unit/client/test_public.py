"""The public face of the client: both clients are alike, and every type of a signature can be imported from impasto."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

import impasto
from impasto import results
from impasto.cli.main import cli
from impasto.v1 import style_transfer_pb2 as pb
from impasto.words import words


def methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(found)
        for name, found in inspect.getmembers(kind, callable)
        if not name.startswith("_") and not inspect.isclass(found)
    }


@pytest.mark.parametrize(("sync", "other"), [(impasto.Client, impasto.AsyncClient), (impasto.Job, impasto.AsyncJob)])
def test_both_clients_have_the_same_methods_with_the_same_arguments(sync: type, other: type) -> None:
    """In the same order, with the same defaults."""
    one, two = methods(sync), methods(other)
    assert one.keys() == two.keys()
    for name in one:
        shapes = [[(item.name, item.kind, item.default) for item in found[name].parameters.values()] for found in (one, two)]
        assert shapes[0] == shapes[1], name
    properties = [
        {name for name in dir(kind) if name[0] != "_" and isinstance(getattr(kind, name), property)} for kind in (sync, other)
    ]
    assert properties[0] == properties[1]


def test_every_type_in_a_public_signature_can_be_imported() -> None:
    """By those who annotate their own functions."""
    public = set(impasto.__all__)
    ours = {
        name
        for name in re.findall(r"^class (\w+)|^(\w+) = Literal|^(\w+): TypeAlias", _sources(), re.MULTILINE)
        for name in name
        if name
    }
    named: set[str] = set()
    for kind in (impasto.Client, impasto.AsyncClient, impasto.Job, impasto.AsyncJob):
        for signature in methods(kind).values():
            annotations = [item.annotation for item in signature.parameters.values()] + [signature.return_annotation]
            named |= {word for text in annotations for word in re.findall(r"\w+", str(text))}
    named |= {
        word
        for kind in (impasto.JobInfo, impasto.ServerInfo, impasto.Result, impasto.Features)
        for text in kind.__annotations__.values()
        for word in re.findall(r"\w+", str(text))
    }
    assert (named & ours) - public == set()


def _sources() -> str:
    return "\n".join(
        inspect.getsource(inspect.getmodule(kind) or results)
        for kind in (impasto.Client, impasto.JobInfo, impasto.Options, impasto.NamedFile, impasto.ImpastoError)
    )


@pytest.mark.parametrize(("literal", "enum"), [(impasto.JobState, pb.JobState), (impasto.StopReason, pb.StopReason)])
def test_words_are_those_of_the_contract(literal: object, enum: object) -> None:
    """Type checkers see a wrong state; a new one in the contract is not forgotten here."""
    assert set(get_args(literal)) - {""} == set(words(enum))  # type: ignore[arg-type]


def test_arguments_of_calls_are_not_taken_for_misspelt_options() -> None:
    """timeout_s is not time_limit_s."""
    with pytest.raises(TypeError) as caught:
        impasto.Client("localhost:1").validate(b"x", b"y", timeout_s=3)  # type: ignore[call-arg]
    assert "timeout_s is an argument of other methods, not an option of a job" in str(caught.value)
    for client in (impasto.Client("localhost:1"), impasto.AsyncClient("localhost:1")):
        for name in ("timeout_s", "request_id", "on_step"):
            with pytest.raises(TypeError, match=f"{name} is an argument of other methods"):
                client.map([b"x"], b"y", **{name: "1"})  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="unknown option step, did you mean steps"):
        impasto.Client("localhost:1").validate(b"x", b"y", step=3)  # type: ignore[call-arg]


def test_the_contract_can_be_written_for_other_languages(tmp_path: Path) -> None:
    """With the messages of the errors' details; a second time too."""
    for _ in range(2):
        done = CliRunner().invoke(cli, ["proto", "-o", str(tmp_path / "protos")])
        assert done.exit_code == 0, done.output
    written = {str(path.relative_to(tmp_path / "protos")) for path in (tmp_path / "protos").rglob("*.proto")}
    assert written == {
        "impasto/v1/style_transfer.proto",
        "google/rpc/code.proto",
        "google/rpc/error_details.proto",
        "google/rpc/status.proto",
    }
    assert "service StyleTransferService" in (tmp_path / "protos/impasto/v1/style_transfer.proto").read_text()


def test_an_empty_list_of_styles_is_no_style_by_mistake() -> None:
    """An empty glob; None says that none is meant."""
    with pytest.raises(impasto.InvalidRequest, match="styles: is an empty list"):
        impasto.Client("localhost:1").validate(b"x", [])


def test_a_closed_client_says_that_it_is_closed() -> None:
    """With an error of this package, from both clients and every call."""
    client = impasto.Client("127.0.0.1:1")
    client.close()
    calls: tuple[Callable[[], object], ...] = (
        client.server_info,
        client.health,
        lambda: next(client.jobs()),
        lambda: client.upload(b"data"),
        lambda: next(client.job("a").progress()),
    )
    for call in calls:
        with pytest.raises(impasto.ImpastoError, match="closed"):
            call()

    async def use() -> None:
        async with impasto.AsyncClient("127.0.0.1:1") as other:
            pass
        await other.server_info()

    with pytest.raises(impasto.ImpastoError, match="closed"):
        asyncio.run(use())
