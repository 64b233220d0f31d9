"""Authentication of client and server: tokens and TLS."""

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
"""Environment variables for values that are not given."""
_NO = ("", "0", "false", "no")


@dataclass(frozen=True)
class Credentials:
    """Credentials of a client. Values that are not given come from the environment (:data:`VARIABLES`).

    Attributes:
        token: Bearer token issued by the server's operator.
        tls: Whether to use TLS; implied if any of the files is given.
        tls_ca: CA certificates (PEM file) that verify the server's certificate; the system's by default.
        tls_cert: Client certificate (PEM file), if the server requires one.
        tls_key: Private key of the client certificate (PEM file).
    """

    token: str = field(default="", repr=False)
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    @staticmethod
    def from_environment() -> Credentials:
        """Return the credentials in the environment."""
        found = {name: os.environ.get(variable, "") for name, variable in VARIABLES.items()}
        return Credentials(**{**found, "tls": found["tls"].lower() not in _NO})  # type: ignore[arg-type]

    def completed(self) -> Credentials:
        """Return the credentials with missing values taken from the environment."""
        other = Credentials.from_environment()
        return Credentials(**{name: getattr(self, name) or getattr(other, name) for name in VARIABLES})

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return gRPC's credentials, or None for a channel without TLS.

        Raises:
            InvalidRequest: If a file cannot be read or has the wrong content.
        """
        if bool(self.tls_cert) != bool(self.tls_key):
            raise invalid("tls_cert" if self.tls_key else "tls_key", "tls_cert and tls_key must be given together")
        if not (self.tls or self.tls_ca or self.tls_cert):
            return None
        _check_files(self)
        return grpc.ssl_channel_credentials(_read(self.tls_ca), _read(self.tls_key), _read(self.tls_cert))

    def authorized(self, stub: Any) -> Any:
        """Return a stub whose calls send the token."""
        return _Authorized(stub, self.token) if self.token else stub


class _Authorized:
    """A stub whose methods send a token. gRPC's own call credentials reject channels without TLS."""

    def __init__(self, stub: Any, token: str) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {token}"),)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        authorized: Any = functools.partial(method, metadata=self._metadata)
        if hasattr(method, "future"):
            authorized.future = functools.partial(method.future, metadata=self._metadata)
        return authorized


def checked(credentials: Credentials | None) -> Credentials:
    """Return a client's credentials, completed from the environment.

    Raises:
        InvalidRequest: If they are not credentials, or the token cannot be sent.
    """
    if credentials is not None and not isinstance(credentials, Credentials):
        raise invalid("credentials", f"must be Credentials, got {type(credentials).__name__}")
    found = (credentials or Credentials()).completed()
    for name in ("token", "tls_ca", "tls_cert", "tls_key"):
        value = getattr(found, name)
        if not isinstance(value, str):
            raise invalid(f"credentials.{name}", f"must be text, got {type(value).__name__}")
    if not all("!" <= character <= "~" for character in found.token):
        raise invalid("credentials.token", "contains characters that are not allowed in a token; is it more than one line?")
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
            text = "is not a PEM certificate" if name == "tls_ca" else "is not a PEM certificate, or does not match tls_key"
            raise invalid(f"credentials.{name}", f"{getattr(credentials, name)}: {text}") from None
        except OSError as error:
            text = f"cannot be read: {error.strerror}"
            raise invalid(f"credentials.{name}", f"{getattr(credentials, name)}: {text}", "UNREADABLE") from None


def _read(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
