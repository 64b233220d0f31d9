"""What callers are told when no server of ours answers: gRPC's own words, as it says them, and ours."""

from __future__ import annotations

import grpc
import pytest

import impasto
from impasto.credentials import Credentials, checked
from impasto.errors import from_status
from impasto.requests import server_address
from impasto.transport import error_of

TLS, AWAY, LOST = "TLS_FAILED", "UNAVAILABLE", "CONNECTION_LOST"
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED: "
FAILED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
SSL = "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"


@pytest.mark.parametrize(
    ("details", "secured", "reason", "text"),
    [
        (
            FAILED + "Failed to connect to remote host: Connection refused",
            False,
            AWAY,
            "no impasto server answers at a:1",
        ),
        ("Socket closed", False, LOST, "the connection to a:1 was lost (Socket closed)"),
        ("Stream removed (recvmsg:Connection reset by peer (104))", True, LOST, "the connection to a:1 was lost"),
        ("Too many pings", False, LOST, "the connection to a:1 was lost"),
        ("Received http2 header with status: 502", False, AWAY, "no impasto server answers at a:1"),
        (FAILED + "Socket closed", False, AWAY, "closed the connection; does it require TLS"),
        (FAILED + "Socket closed", True, AWAY, "does it require a (different) client certificate"),
        (
            FAILED + SSL + UNTRUSTED + "certificate has expired: OK",
            True,
            TLS,
            "not trusted: certificate has",
        ),
        (
            FAILED + SSL + UNTRUSTED + "unable to get local issuer certificate: OK",
            True,
            TLS,
            "pass the CA",
        ),
        (
            FAILED + SSL + "WRONG_VERSION_NUMBER: Invalid certificate verification context: OK",
            True,
            TLS,
            "does not use TLS",
        ),
        (
            FAILED + "Custom: UNAUTHENTICATED: Hostname Verification Check failed.",
            True,
            TLS,
            "is not valid for the name a",
        ),
    ],
)
def test_servers_that_are_not_reached_are_explained(details: str, secured: bool, reason: str, text: str) -> None:
    """Whether nobody is there, or TLS keeps the two apart."""
    error = from_status(grpc.StatusCode.UNAVAILABLE, details, None, "a:1", secured=secured)
    assert isinstance(error, impasto.Unavailable)
    assert error.reason == reason
    assert text in str(error)


@pytest.mark.parametrize("address", ["127.0.0.1", "host:", ":1", "host:99999", "host:x", "host:0", "http://host:1", 5])
def test_addresses_that_cannot_be_are_refused(address: str) -> None:
    """gRPC would call port 443, or port 99999 modulo 65536."""
    with pytest.raises(impasto.InvalidRequest, match="server: must be HOST:PORT"):
        impasto.Client(address)


def test_grpcs_own_forms_of_an_address_pass() -> None:
    """And IPv6."""
    for address in ("dns:///host:1", "unix:/tmp/socket", "[::1]:50051", "host.name:1"):
        assert server_address(address) == address


@pytest.mark.parametrize(
    ("credentials", "text"),
    [
        ("token", "credentials: must be Credentials, got str"),
        (Credentials(token=5), "credentials.token: must be text, got int"),  # type: ignore[arg-type]
        (Credentials(token="two\nlines"), "credentials.token: contains characters that are not allowed in a token"),
        (Credentials(token="wröng"), "credentials.token: contains characters that are not allowed in a token"),
    ],
)
def test_credentials_that_cannot_be_sent_are_refused(credentials: Credentials, text: str) -> None:
    """Before gRPC says something of metadata; the token itself is not told."""
    with pytest.raises(impasto.InvalidRequest, match=text) as caught:
        checked(credentials)
    assert "wröng" not in str(caught.value)


def test_files_that_hold_no_certificate_are_refused(tmp_path: object) -> None:
    """By the name of the setting."""
    from pathlib import Path

    path = Path(str(tmp_path)) / "picture.png"
    path.write_bytes(b"\x89PNG")
    with pytest.raises(impasto.InvalidRequest, match="tls_ca: .*picture.png: is not a PEM certificate"):
        impasto.Client("localhost:1", credentials=Credentials(tls_ca=str(path)))
    with pytest.raises(impasto.InvalidRequest, match="tls_cert: .*picture.png: is not a PEM certificate"):
        impasto.Client("localhost:1", credentials=Credentials(tls_cert=str(path), tls_key=str(path)))
    with pytest.raises(impasto.InvalidRequest, match="tls_ca: nowhere: cannot be read: No such file") as caught:
        impasto.Client("localhost:1", credentials=Credentials(tls_ca="nowhere"))
    assert caught.value.reason == "UNREADABLE"


def test_an_answer_that_grpc_loses_is_a_lost_connection() -> None:
    """Its asyncio calls say so, rarely, of calls that the server ended before their message was sent; they can be repeated."""

    class Lost(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.INTERNAL

        def details(self) -> str:
            return "Internal error from Core"

        def trailing_metadata(self) -> tuple[()]:
            return ()

    error = error_of(Lost(), "a:1")
    assert isinstance(error, impasto.Unavailable)
    assert error.reason == LOST
