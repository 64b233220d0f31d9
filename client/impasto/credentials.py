"""How a client proves who it is, and makes sure of the server: tokens and TLS."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from impasto.protobuf_fields import invalid

VARIABLES = {
    "token": "IMPASTO_TOKEN",
    "tls": "IMPASTO_TLS",
    "tls_ca": "IMPASTO_TLS_CA",
    "tls_cert": "IMPASTO_TLS_CERT",
    "tls_key": "IMPASTO_TLS_KEY",
}
"""Environment variables that stand in for what is not given."""
_NO = ("", "0", "false", "no")


@dataclass(frozen=True)
class Credentials:
    """What a client shows and wants to see. What is left out comes from the environment (:data:`VARIABLES`).

    Attributes:
        token: Bearer token that the server's operator gave out.
        tls: Whether to speak TLS; by itself if any of the files is given.
        tls_ca: Certificates (PEM file) that the server's must be signed by; the system's by default.
        tls_cert: Own certificate (PEM file), where the server wants one.
        tls_key: Its private key (PEM file).
    """

    token: str = field(default="", repr=False)
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    @staticmethod
    def from_environment() -> Credentials:
        """Return what the environment says."""
        found = {name: os.environ.get(variable, "") for name, variable in VARIABLES.items()}
        return Credentials(**{**found, "tls": found["tls"].lower() not in _NO})  # type: ignore[arg-type]

    def completed(self) -> Credentials:
        """Return what was given, and for what was not, what the environment says."""
        other = Credentials.from_environment()
        return Credentials(**{name: getattr(self, name) or getattr(other, name) for name in VARIABLES})

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return gRPC's credentials, or None for a channel without TLS.

        Raises:
            InvalidRequest: If a file cannot be read, or holds something else.
        """
        if bool(self.tls_cert) != bool(self.tls_key):
            raise invalid("tls_cert" if self.tls_key else "tls_key", "tls_cert and tls_key go together")
        if not (self.tls or self.tls_ca or self.tls_cert):
            return None
        _check_files(self)
        return grpc.ssl_channel_credentials(_read(self.tls_ca), _read(self.tls_key), _read(self.tls_cert))

    def authorized(self, stub: Any) -> Any:
        """Return a stub whose calls carry the token."""
        return _Authorized(stub, self.token) if self.token else stub


class _Authorized:
    """A stub whose methods send a token along. gRPC's own call credentials refuse channels without TLS."""

    def __init__(self, stub: Any, token: str) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {token}"),)

    def __getattr__(self, name: str) -> Any:
        return functools.partial(getattr(self._stub, name), metadata=self._metadata)


def checked(credentials: Credentials | None) -> Credentials:
    """Return what a client was given, completed from the environment.

    Raises:
        InvalidRequest: If it is something else, or has a token that cannot be sent.
    """
    if credentials is not None and not isinstance(credentials, Credentials):
        raise invalid("credentials", f"must be Credentials, got {type(credentials).__name__}")
    found = (credentials or Credentials()).completed()
    for name in ("token", "tls_ca", "tls_cert", "tls_key"):
        value = getattr(found, name)
        if not isinstance(value, str):
            raise invalid(f"credentials.{name}", f"must be text, got {type(value).__name__}")
    if not all("!" <= character <= "~" for character in found.token):
        raise invalid("credentials.token", "has characters that no token has; is it cut, or more than one line?")
    return found


def _check_files(credentials: Credentials) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    checks: list[tuple[str, Callable[[], object]]] = []
    if credentials.tls_ca:
        checks.append(("tls_ca", lambda: context.load_verify_locations(credentials.tls_ca)))
    if credentials.tls_cert:
        checks.append(("tls_cert", lambda: context.load_cert_chain(credentials.tls_cert, credentials.tls_key)))
    for name, check in checks:
        try:
            check()
        except ssl.SSLError:
            text = "holds no certificate in PEM" if name == "tls_ca" else "is no certificate in PEM, or not that of tls_key"
            raise invalid(f"credentials.{name}", f"{getattr(credentials, name)}: {text}") from None
        except OSError as error:
            text = f"cannot be read: {error.strerror}"
            raise invalid(f"credentials.{name}", f"{getattr(credentials, name)}: {text}", "UNREADABLE") from None


def _read(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
