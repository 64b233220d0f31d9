"""The server's TLS: its files are checked before it serves, and reloaded when they change, without a restart."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from impasto_server.files import FileWatch

logger = logging.getLogger(__name__)

LONGEST_NAME = 64
"""Maximum length of a common name, by RFC 5280."""


class TlsError(ValueError):
    """TLS files that cannot be used; the message names the setting."""


@dataclass(frozen=True)
class Material:
    """The contents of the files.

    Attributes:
        configuration: In gRPC's form.
        subject: Subject of the certificate.
        expires: When the certificate expires, in seconds since the epoch.
    """

    configuration: grpc.ServerCertificateConfiguration
    subject: str
    expires: float


@functools.lru_cache(maxsize=256)
def common_name(pem: bytes) -> str:
    """Return the common name in a client's certificate; empty if it has not exactly one valid name.

    The name is read from the certificate itself: gRPC's own property ends at a zero byte, so that a longer name would be
    mistaken for the part before that byte.
    """
    try:
        names = x509.load_pem_x509_certificate(pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    value = names[0].value if len(names) == 1 else ""
    name = value if isinstance(value, str) else ""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else ""


class ServerTls:
    """A certificate, its key and the CA of clients, in files.

    Args:
        cert: Certificate chain (PEM).
        key: Its private key (PEM).
        client_ca: CA (PEM) that must have signed clients' certificates; without it, clients need none.
        clock: Returns monotonic seconds.

    Raises:
        TlsError: If the files cannot be read, are invalid, or do not belong together.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = {"tls_cert": cert, "tls_key": key, **({"tls_client_ca": client_ca} if client_ca else {})}
        self._watch = FileWatch(list(self._files.values()), clock)
        self._lock = threading.Lock()
        self._material = _material({name: _read(name, path) for name, path in self._files.items()})
        self._given: grpc.ServerCertificateConfiguration | None = None
        _log_expiry(self._material)

    @property
    def expires(self) -> float:
        """When the served certificate expires, in seconds since the epoch."""
        return self._material.expires

    def credentials(self) -> grpc.ServerCredentials:
        """Return gRPC's credentials, which follow changes of the files."""
        required = "tls_client_ca" in self._files
        self._given = self._material.configuration
        return grpc.dynamic_ssl_server_credentials(self._material.configuration, self._renewed, required)  # type: ignore[arg-type]

    def look(self) -> bool:
        """Reload the files if they changed; keep the certificate if they cannot be used. Return whether it changed."""
        with self._lock:
            if not self._watch.changed():
                return False
            try:
                self._material = _material({name: _read(name, path) for name, path in self._files.items()})
            except TlsError as error:
                logger.warning("the TLS files cannot be used; the current certificate is kept: %s", error)
                return False
            logger.info("the TLS files were reloaded: %s", self._material.subject)
            _log_expiry(self._material)
            return True

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration of the next handshake, None if unchanged. gRPC calls it on threads of its own."""
        self.look()
        with self._lock:
            fresh = self._material.configuration
            if fresh is self._given:
                return None
            self._given = fresh
            return fresh


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{name}: {path}: {error.strerror}") from None


def _material(files: dict[str, bytes]) -> Material:
    certificate = _certificates("tls_cert", files["tls_cert"])[0]
    try:
        key = load_pem_private_key(files["tls_key"], None)
    except (TypeError, ValueError):
        raise TlsError("tls_key: is not a PEM private key, or has a password") from None
    if key.public_key().public_bytes(*_FORM) != certificate.public_key().public_bytes(*_FORM):
        raise TlsError("tls_key does not belong to the first certificate in tls_cert")
    authority = files.get("tls_client_ca")
    if authority is not None:
        _certificates("tls_client_ca", authority)
    configuration = grpc.ssl_server_certificate_configuration([(files["tls_key"], files["tls_cert"])], authority)
    expires = certificate.not_valid_after_utc.timestamp()
    return Material(configuration, certificate.subject.rfc4514_string(), expires)


_FORM = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certificates(name: str, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise TlsError(f"{name}: has no PEM certificate") from None


def _log_expiry(material: Material) -> None:
    left_s = material.expires - time.time()
    if left_s <= 0:
        logger.error("the certificate of %s has expired: clients will reject it", material.subject)
    elif left_s < 14 * 24 * 3600:
        logger.warning("the certificate of %s expires in %.1f days", material.subject, left_s / 86400)
