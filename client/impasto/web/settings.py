"""What an operator can set for the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from impasto.protobuf_fields import invalid

MIB = 1 << 20
_LOOPBACK = ("localhost", "::1")


@dataclass(frozen=True)
class WebSettings:
    """Settings of one gateway.

    Attributes:
        server: HOST:PORT of the gRPC server; None for ``$IMPASTO_SERVER``.
        listen: HOST:PORT to serve on; port 0 picks a free one.
        hosts: Names under which the gateway is reached. Empty for the names of this machine's loopback interface and IP
            addresses if it listens on that interface, and for any name if it listens on another one.
        origins: Origins of other sites whose scripts may call the API (CORS), such as ``https://example.org``.
        max_body_bytes: Largest body of a request.
        grace_s: Time for requests in progress when the gateway stops.
    """

    server: str | None = None
    listen: str = "127.0.0.1:8080"
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_body_bytes: int = 64 * MIB
    grace_s: int = 10

    def __post_init__(self) -> None:
        host, _, port = self.listen.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or int(port) >= 1 << 16:
            raise invalid("listen", f"must be HOST:PORT, got {self.listen!r}")
        for origin in self.origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
                raise invalid("allow_origin", f"must be SCHEME://HOST[:PORT], such as https://example.org, got {origin!r}")
        if self.max_body_bytes < 1:
            raise invalid("max_body_mib", "must be above 0")

    @property
    def address(self) -> tuple[str, int]:
        """Host, without brackets, and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the gateway."""
        host, _ = self.address
        return host in _LOOPBACK or host.startswith("127.")
