"""Why a server could not be reached, in the words of who called it, out of gRPC's."""

from __future__ import annotations

import re

TLS_FAILED = "TLS_FAILED"
_NOT_TRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)")
_HINTS = {
    "certificate has expired": "its operator has to renew it",
    "certificate is not yet valid": "is a clock wrong?",
    "unable to get local issuer certificate": "give the CA that signed it (tls_ca, --tls-ca)",
    "self signed certificate": "give it as the CA (tls_ca, --tls-ca)",
    "self-signed certificate": "give it as the CA (tls_ca, --tls-ca)",
}
_LAST = re.compile(r"last error: \w+: [^ ]+: (.+)", re.DOTALL)


def why_not(target: str, details: str, *, secured: bool) -> tuple[str, str]:
    """Return a reason, and a message for people, for a call that no server of ours answered.

    Args:
        target: Address that was called.
        details: What gRPC says.
        secured: Whether the client spoke TLS.
    """
    found = _NOT_TRUSTED.search(details)
    if found:
        hint = _HINTS.get(found[1].strip())
        return TLS_FAILED, f"the certificate of {target} is not trusted: {found[1].strip()}" + (f"; {hint}" if hint else "")
    if "Hostname Verification Check failed" in details:
        host = target.rpartition(":")[0] or target
        return TLS_FAILED, f"the certificate of {target} is for another name than {host}"
    if "WRONG_VERSION_NUMBER" in details:
        return TLS_FAILED, f"{target} does not speak TLS: leave tls, tls_ca and the like out"
    last = _LAST.search(details)
    text = last[1].strip() if last else details
    if last and any(words in text for words in ("Socket closed", "Connection reset", "Broken pipe")):  # at its first word
        want = "a client's certificate (tls_cert, --tls-cert), or another one" if secured else "TLS (tls, tls_ca, --tls-ca)"
        return "UNAVAILABLE", f"{target} closes the connection: does it want {want}? ({text})"
    return "UNAVAILABLE", f"no impasto server answers at {target} ({text})"
