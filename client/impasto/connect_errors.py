"""Translates gRPC's connection errors into messages for the caller."""

from __future__ import annotations

import re

TLS_FAILED = "TLS_FAILED"
CONNECTION_LOST = "CONNECTION_LOST"
"""Reason of a call whose connection was established, and then lost."""
_NOT_TRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)")
_HINTS = {
    "certificate has expired": "its operator must renew it",
    "certificate is not yet valid": "check the clocks of both machines",
    "unable to get local issuer certificate": "pass the CA that signed it (tls_ca, --tls-ca)",
    "self signed certificate": "pass it as the CA (tls_ca, --tls-ca)",
    "self-signed certificate": "pass it as the CA (tls_ca, --tls-ca)",
}
_LOST = re.compile(
    r"Stream removed|GOAWAY|goaway|ping timeout|Too many pings|^(recvmsg|sendmsg|Socket closed|Connection reset|Broken pipe)"
)
_LAST = re.compile(r"last error: \w+: [^ ]+: (.+)", re.DOTALL)


def why_not(target: str, details: str, *, secured: bool) -> tuple[str, str]:
    """Return the reason and a readable message for a call that no impasto server answered.

    Args:
        target: Address that was called.
        details: gRPC's error message.
        secured: Whether the client used TLS.
    """
    found = _NOT_TRUSTED.search(details)
    if found:
        hint = _HINTS.get(found[1].strip())
        return TLS_FAILED, f"the certificate of {target} is not trusted: {found[1].strip()}" + (f"; {hint}" if hint else "")
    if "Hostname Verification Check failed" in details:
        host = target.rpartition(":")[0] or target
        return TLS_FAILED, f"the certificate of {target} is not valid for the name {host}"
    if "WRONG_VERSION_NUMBER" in details:
        return TLS_FAILED, f"{target} does not use TLS; remove tls, tls_ca and the other TLS options"
    if _LOST.search(details) and not details.startswith("failed to connect"):
        return CONNECTION_LOST, f"the connection to {target} was lost ({details})"
    last = _LAST.search(details)
    text = last[1].strip() if last else details
    if last and any(words in text for words in ("Socket closed", "Connection reset", "Broken pipe")):  # on the first bytes
        want = "a (different) client certificate (tls_cert, --tls-cert)" if secured else "TLS (tls, tls_ca, --tls-ca)"
        return "UNAVAILABLE", f"{target} closed the connection; does it require {want}? ({text})"
    return "UNAVAILABLE", f"no impasto server answers at {target} ({text})"
