"""Which URLs a job may name: https, on a host that the operator allows."""

from __future__ import annotations

from urllib.parse import urlsplit

MAX_URL = 1000


def wrong_with(url: str, allowed: str) -> str:
    """Return what is wrong with a webhook's URL; empty if nothing is.

    Args:
        url: The URL.
        allowed: Hosts, comma-separated: ``hooks.example.com``, ``*.example.com`` for all below it, ``HOST:PORT``.
    """
    if not allowed:
        return "is not available: the server's operator has allowed no hosts"
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return f"must be a URL of at most {MAX_URL} ASCII characters"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        return "is not a URL"
    if parts.scheme != "https" or not host or parts.username is not None or parts.fragment:
        return "must begin with https:// and a host, without a user, a password or a fragment"
    if not any(_admits(entry.strip(), host, port) for entry in allowed.split(",") if entry.strip()):
        return f"names the host {host}:{port}, which the server's operator has not allowed"
    return ""


def _admits(entry: str, host: str, port: int) -> bool:
    name, separator, number = entry.rpartition(":") if not entry.endswith("]") else (entry, "", "")
    name, wanted = (name, number) if separator and number.isdigit() else (entry, "443")
    name = name.strip("[]").lower()
    if str(port) != wanted:
        return False
    return host.endswith(name[1:]) and len(host) > len(name) - 1 if name.startswith("*.") else host == name
